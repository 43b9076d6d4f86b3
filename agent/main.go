// Command chancery-agent keeps a node's key in its TPM, enrols the node, and
// lets it talk to its peers.
//
//	chancery-agent join URL --token-file FILE   enrol this machine
//	chancery-agent run                          be the node: renew, keep the CRL, answer peers
//	chancery-agent ping NAME                    open a session to a peer and say what both ends think
//	chancery-agent forward --listen ADDR --to NODE:PORT     for a program that knows nothing of the fleet: to a peer
//	chancery-agent expose --listen ADDR --to ADDR --allow RULE   from peers, to a program
//	chancery-agent sessions                     who is connected
//	chancery-agent status                       certificate, CRL, sessions, TPM
//	chancery-agent identify                     what the TPM is, before any coordinator exists
//	chancery-agent doctor                       what keeps the node from working, and what to do
//	chancery-agent rejoin                       a new key for a node whose chip was cleared or exchanged
//	chancery-agent anchor reset                 go on with a state directory that may be an older copy
//	chancery-agent fork show, clear             two signed things of which there may be one only
//	chancery-agent key export                   the key as a TSS2 file, for openssl
//
// Results go to standard output, everything else to standard error; the exit
// codes are those of package internal/cli.
package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

func main() { os.Exit(execute()) }

func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends what does not look at the first
	return cli.Report(os.Stderr, coded(newCommand().ExecuteContext(ctx)))
}

// flags are the flags that every command has.
type flags struct {
	output cli.Output
	state  string
}

func newCommand() *cobra.Command {
	f := &flags{output: cli.Text}
	root := &cobra.Command{
		Use:           "chancery-agent",
		Short:         "the node's half of Chancery: a key in the TPM, and who may talk to it",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Usage("see "+c.CommandPath()+" --help", "%w", err)
	})
	root.PersistentFlags().VarP(&f.output, "output", "o", "form of the result")
	root.PersistentFlags().StringVar(&f.state, "state", cmp.Or(os.Getenv("CHANCERY_STATE"), state.DefaultPath), "state directory (CHANCERY_STATE)")
	for _, c := range []*cobra.Command{joinCommand(f), runCommand(f), pingCommand(f), forwardCommand(f), exposeCommand(f), sessionsCommand(f), reloadCommand(f), x509Command(f), statusCommand(f), identifyCommand(f), doctorCommand(f), rejoinCommand(f), anchorCommand(f), forkCommand(f), keyCommand(f), versionCommand(f)} {
		c.Args = usageArgs(c.Args)
		root.AddCommand(c)
	}
	root.Args = usageArgs(cobra.NoArgs)
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

// usageArgs makes a wrong number of arguments an error about the command line.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return cli.Usage("usage: "+c.UseLine(), "%w", err)
		}
		return nil
	}
}

// coded gives errors of the agent's packages their exit codes.
func coded(err error) error {
	if _, ok := errors.AsType[*cli.Error](err); ok || err == nil {
		return err
	}
	if _, ok := errors.AsType[*join.RefusedError](err); ok {
		return cli.WithCode(cli.ExitRefused, err)
	}
	if _, ok := errors.AsType[*anchor.RollbackError](err); ok {
		return cli.WithCode(cli.ExitRefused, err)
	}
	if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); ok {
		return cli.WithCode(cli.ExitRefused, err)
	}
	if p, ok := errors.AsType[*chancery.Problem](err); ok && (p.Status == 401 || p.Status == 403 || p.Status == 409) {
		return cli.WithCode(cli.ExitRefused, err)
	}
	switch {
	case errors.Is(err, join.ErrChip):
		return chipAbsent(err)
	case errors.Is(err, join.ErrOtherFleet):
		return cli.Failure("to move it, have it revoked there first, then join with another state directory (--state)", "%w", err)
	case errors.Is(err, chancery.ErrNotOurCoordinator):
		return cli.Failure("whoever answered cannot prove to be the coordinator of the pinned fleet; check the address and who is on the way there", "%w", err)
	}
	return err
}

// chipAbsent makes sure that somebody without a TPM reads what to do.
func chipAbsent(err error) error {
	coded := cli.WithCode(cli.ExitNoToken, err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &cli.Error{Code: cli.ExitNoToken, Err: err, Tip: "run the agent as root, or as a member of the group that owns the device (usually tss)"}
	case errors.Is(err, fs.ErrNotExist):
		return &cli.Error{Code: cli.ExitNoToken, Err: err, Tip: "enable the TPM in the firmware's settings, or name its device with --tpm; for trials, a software TPM: --tpm swtpm:/path/to/socket"}
	}
	return coded
}

// look opens the state directory for reading.
func (f *flags) look() (*state.Dir, error) { return state.Look(f.state) }

// Chancery is the coordinator appliance: it keeps CA:SK in a PKCS#11 token,
// enrols nodes whose keys are in TPMs, and publishes what they need to
// authenticate each other without asking anyone.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

func main() {
	hsm.SignerProcess()
	secondopinion.Process()
	// PINs, shares and wrapping keys pass through: no core dumps, no tracers of
	// the same user.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	os.Exit(run(os.Args[1:]))
}

// run is main with its arguments and exit code in the open.
func run(args []string) int {
	unix.Umask(0o077) // whatever it writes is its owner's alone, the database too
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // a second signal ends what does not heed the first
		<-ctx.Done()
		stop()
	}()
	app := &app{out: cli.Text}
	root := app.command()
	root.SetArgs(args)
	return cli.Report(os.Stderr, exitCode(root.ExecuteContext(ctx)))
}

// exitCode gives errors of parts that know no exit codes the one they have on
// a command line.
func exitCode(err error) error {
	if _, ok := errors.AsType[*cli.Error](err); ok || err == nil {
		return err
	}
	// A URI that was parsed and still cannot be used names a module that is
	// not there.
	for _, token := range []func(error) bool{is[*hsm.URIError], is[*hsm.PINError], is[*hsm.LatchedError], is[*hsm.PINSourceError], is[*hsm.TokenError], is[*hsm.KeyNotFoundError], is[*hsm.KeyRefusedError], is[*hsm.KeyExistsError], is[*hsm.LatchDirError], is[*hsm.LatchFileError], is[*hsm.Error], is[*hsm.FaultError]} {
		if token(err) {
			return cli.WithCode(cli.ExitNoToken, err)
		}
	}
	if is[*anchor.BehindError](err) || is[*anchor.MissingError](err) || is[*anchor.ForeignError](err) || is[*ledger.Alarm](err) {
		return cli.WithCode(cli.ExitRefused, err)
	}
	if p, ok := errors.AsType[*chancery.Problem](err); ok {
		switch p.Status {
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			return cli.WithCode(cli.ExitUsage, err)
		case http.StatusForbidden, http.StatusConflict:
			return cli.WithCode(cli.ExitRefused, err)
		}
	}
	return err
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// An app is one invocation of the program.
type app struct {
	data dataDir
	out  cli.Output
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "chancery",
		Short:         "The coordinator of a fleet whose keys live in hardware",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	data := os.Getenv("CHANCERY_DATA")
	if data == "" {
		data = "/var/lib/chancery"
	}
	root.PersistentFlags().StringVar((*string)(&a.data), "data", data, "data directory (CHANCERY_DATA)")
	root.PersistentFlags().VarP(&a.out, "output", "o", "form of the result")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Usage("see: "+c.CommandPath()+" --help", "%v", err)
	})
	root.AddCommand(a.initCommand(), a.serveCommand(), a.statusCommand(), a.tokenCommand(), a.nodeCommand(), a.certCommand(),
		a.caCommand(), a.crlCommand(), a.pointerCommand(), a.logCommand(), a.anchorCommand(), a.forkCommand(), a.recoverCommand(), a.auditCommand(), a.witnessCommand(), a.pcrCommand(), a.policyCommand(), a.ekRootsCommand(), a.ekCommand(), a.hsmCommand(), a.benchCommand(), a.inspectCommand(), a.demoCommand(), a.versionCommand())
	strict(root)
	return root
}

// strict makes wrong arguments, missing flags and unknown verbs usage errors.
func strict(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if err == nil {
				err = c.ValidateRequiredFlags()
			}
			if err != nil {
				return cli.Usage("see: "+c.CommandPath()+" --help", "%v", err)
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return cli.Usage("see: "+c.CommandPath()+" --help", "%s has no command %q", c.CommandPath(), args[0])
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// logger writes to standard error: text for people, JSON for programs.
func (a *app) logger() *slog.Logger {
	if a.out == cli.JSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.out.Print(map[string]string{"version": version(), "go": runtime.Version()}, func(w io.Writer) {
			io.WriteString(w, strings.Join([]string{"chancery", version(), runtime.Version()}, " ")+"\n")
		})
	}}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

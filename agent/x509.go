package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

// hookTime is how long a hook may take.
const hookTime = time.Minute

func x509Command(f *flags) *cobra.Command {
	var request run.X509Request
	var dir, hook string
	c := &cobra.Command{
		Use:   "x509 --dir DIR",
		Short: "keep an X.509 certificate of this node in files, for programs that know no other",
		Long: `X509 has the running agent get the X.509 certificate that accompanies its N:C,
and keeps in DIR, until it ends by SIGTERM or SIGINT:

  key.pem    the key: a new one with each certificate, or with --key tpm the
             node's own, as a TSS2 file, which is of use in this TPM only
  cert.pem   the certificate; it has the serial number, the time and the names of N:C
  chain.pem  the certificate and its issuer's
  ca.pem     the issuer's, by which peers are verified
  crl.pem    the X.509 CRL, by which they are refused

All of them are replaced at once: with each N:C, and the CRL when it names
others or half of its time is over. After that the hook runs, by /bin/sh, and
nothing is replaced while it does. If it fails the command fails; started again
it writes the files and runs the hook anew, so have a service manager restart
it.`,
		Example: `  chancery-agent x509 --dir /etc/nginx/node --hook 'nginx -s reload'
  chancery-agent x509 --dir /etc/node --key tpm`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return cli.Usage("see "+c.CommandPath()+" --help", "--dir is missing")
			}
			if request.Key != run.KeySoftware && request.Key != run.KeyTPM {
				return cli.Usage("it is software or tpm", "--key: %q is no kind of key", request.Key)
			}
			unlock, err := lockDir(dir)
			if err != nil {
				return err
			}
			defer unlock()
			return f.client(func(client *run.Client) error { return f.keepX509(c.Context(), client, &request, dir, hook) })
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the files; it is made if it is not there (required)")
	c.Flags().StringVar(&request.Key, "key", run.KeySoftware, "software, or tpm: the node's own key in its chip")
	c.Flags().StringVar(&hook, "hook", "", "command to run after each change")
	return c
}

// lockDir makes sure that one process writes a directory.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, cli.Failure("", "%w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, cli.Failure("", "%w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, cli.Failure("stop it first, or name another directory", "another command keeps the files in %s", dir)
	}
	return func() { d.Close() }, nil
}

// An x509Written is what the command prints of a set.
type x509Written struct {
	Dir        string    `json:"dir"`
	Serial     string    `json:"serial"`
	NotAfter   time.Time `json:"not_after"`
	Number     uint64    `json:"crl"`
	Revoked    int       `json:"revoked"`
	NextUpdate time.Time `json:"next_update"`
}

// keepX509 writes each set that the agent tells of.
func (f *flags) keepX509(ctx context.Context, client *run.Client, request *run.X509Request, dir, hook string) error {
	follow, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	written := false
	err := client.X509(follow, request, func(e run.X509Event) {
		switch {
		case failed != nil:
		case e.Set != nil:
			if failed = f.writeX509(ctx, e.Set, dir, hook); failed != nil {
				stop()
			}
			written = true
		case !written: // there is nothing yet, and whoever starts this wants to know
			failed = &cli.Error{Code: cli.ExitFailure, Err: errors.New(e.Error), Tip: e.Hint}
			stop()
		default: // what there is is good for a while, and the agent tries again
			fmt.Fprintln(os.Stderr, "warning:", e.Error)
		}
	})
	switch {
	case ctx.Err() != nil:
		return nil // stopped by the one who asked
	case failed != nil:
		return failed
	case err != nil:
		return err
	}
	return errors.New("the agent has stopped")
}

func (f *flags) writeX509(ctx context.Context, s *run.X509Set, dir, hook string) error {
	err := durable.WriteSet(dir, []durable.File{
		{Name: "key.pem", Mode: 0o600, Content: s.Key},
		{Name: "cert.pem", Mode: 0o644, Content: s.Certificate},
		{Name: "chain.pem", Mode: 0o644, Content: slices.Concat(s.Certificate, s.Issuer)},
		{Name: "ca.pem", Mode: 0o644, Content: s.Issuer},
		{Name: "crl.pem", Mode: 0o644, Content: s.CRL},
	})
	if err != nil {
		return cli.Failure("", "%w", err)
	}
	w := x509Written{dir, s.Serial, s.NotAfter, s.Number, s.Revoked, s.NextUpdate}
	if f.output == cli.JSON {
		json.NewEncoder(os.Stdout).Encode(w) // a line each
	} else {
		fmt.Printf("%s: serial %s until %s, CRL number %d until %s, %d revoked\n", w.Dir, w.Serial, w.NotAfter.Format(time.RFC3339), w.Number, w.NextUpdate.Format(time.RFC3339), w.Revoked)
	}
	if hook == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	command := exec.CommandContext(ctx, "/bin/sh", "-c", hook)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return cli.Failure("the files are written; have the command started again, and it runs the hook again", "hook: %w", err)
	}
	return nil
}

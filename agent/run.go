package main

import (
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

func runCommand(f *flags) *cobra.Command {
	var o run.Options
	var verbose bool
	c := &cobra.Command{
		Use:   "run",
		Short: "be the node: renew, keep the CRL, answer peers",
		Long: `Run is the daemon. It owns the TPM, keeps the certificates and the CRL fresh,
answers peers, and serves the other commands through a socket in the state
directory. It logs to standard error and ends with SIGTERM or SIGINT.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for flag, address := range map[string]string{"--listen": o.Listen, "--advertise": o.Advertise} {
				if address == "" {
					continue
				}
				if _, _, err := net.SplitHostPort(address); err != nil {
					return cli.Usage("it has the form HOST:PORT", "%s: %w", flag, err)
				}
			}
			dir, err := f.openEnrolled()
			if err != nil {
				return err
			}
			defer dir.Close()
			o.Logger, o.Now = f.logger(c, verbose), time.Now
			return run.Run(c.Context(), dir, o)
		},
	}
	c.Flags().StringVar(&o.Listen, "listen", "", "where to listen for peers (default: the configuration's, "+state.DefaultListen+")")
	c.Flags().StringVar(&o.Advertise, "advertise", "", "where peers reach this node, HOST:PORT (default: found out)")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "log what goes well, too")
	return c
}

func (f *flags) logger(c *cobra.Command, verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if f.output == cli.JSON {
		return slog.New(slog.NewJSONHandler(c.ErrOrStderr(), o))
	}
	return slog.New(slog.NewTextHandler(c.ErrOrStderr(), o))
}

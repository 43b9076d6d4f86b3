// Command chancery-simulator puts load on a coordinator.
//
//	chancery-simulator maker --dir DIR                               a manufacturer of paper TPMs, for chancery init --simulator-roots
//	chancery-simulator fleet --maker DIR --url URL --token-file FILE enrol a fleet of them, measure, and check every certificate
//
// Results go to standard output, everything else to standard error; the exit
// codes are those of package internal/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/internal/cli"
)

func main() { os.Exit(execute()) }

func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends what does not look at the first
	return cli.Report(os.Stderr, newCommand().ExecuteContext(ctx))
}

func newCommand() *cobra.Command {
	out := cli.Text
	root := &cobra.Command{
		Use:           "chancery-simulator",
		Short:         "fleets of nodes without hardware, to put load on a coordinator",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Usage("see "+c.CommandPath()+" --help", "%w", err)
	})
	root.PersistentFlags().VarP(&out, "output", "o", "form of the result")
	for _, c := range []*cobra.Command{makerCommand(&out), fleetCommand(&out)} {
		c.Args = noArgs
		root.AddCommand(c)
	}
	root.Args = noArgs
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

// noArgs makes arguments and missing flags errors about the command line.
func noArgs(c *cobra.Command, args []string) error {
	err := cobra.NoArgs(c, args)
	if err == nil {
		err = c.ValidateRequiredFlags()
	}
	if err != nil {
		return cli.Usage("see "+c.CommandPath()+" --help", "%w", err)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

func forkCommand(f *flags) *cobra.Command {
	c := &cobra.Command{Use: "fork", Short: "two signed pointer records or CRLs of which there may be one only"}
	for _, verb := range []*cobra.Command{forkShowCommand(f), forkClearCommand(f)} {
		verb.Args = usageArgs(verb.Args)
		c.AddCommand(verb)
	}
	return c
}

func forkShowCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "both sides of each fork that was seen; exit code 3 if there is one",
		Long: `Show prints what this node held and what contradicts it. CA:SK signed both, so either
it is in other hands, or a coordinator was restored from a backup. Compare them with
chancery crl show and chancery pointer show on the coordinator.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := f.look()
			if err != nil {
				return err
			}
			defer dir.Close()
			forks, err := run.Forks(dir)
			if err != nil {
				return err
			}
			if err := f.output.Print(forks, func(w io.Writer) { printForks(w, forks) }); err != nil {
				return err
			}
			if len(forks) > 0 {
				return &cli.Error{Code: cli.ExitDegraded, Err: errors.New("no peer is accepted while this is not cleared"), Tip: "find out who made the other; then: chancery-agent fork clear"}
			}
			return nil
		},
	}
}

func printForks(w io.Writer, forks []run.Fork) {
	if len(forks) == 0 {
		fmt.Fprintln(w, "no fork was seen")
	}
	for _, fork := range forks {
		fmt.Fprintf(w, "%s: %s\n", string(fork.Alarm), fork.Alarm)
		for _, side := range []struct {
			name string
			*run.Claim
		}{{"held", fork.Held}, {"other", fork.Other}} {
			if side.Claim == nil {
				continue
			}
			fmt.Fprintf(w, "  %-6s number %d, made %s, good until %s\n", side.name, side.Number, side.Made.Format(time.RFC3339), side.Until.Format(time.RFC3339))
			fmt.Fprintf(w, "         hash     %s\n         previous %s\n", side.Hash, side.Previous)
			if fork.Alarm == state.CRLFork {
				fmt.Fprintf(w, "         revokes  %d\n", side.Revoked)
			}
			for _, url := range side.Coordinators {
				fmt.Fprintf(w, "         leads to %s\n", url)
			}
		}
	}
}

func forkClearCommand(f *flags) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "clear",
		Short: "accept peers again, by what this node holds",
		Long: `Clear ends the alarm and forgets the evidence: save the output of fork show -o json
first. The node goes on with what it held, and takes what follows that, or is at
least two numbers further.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := f.look()
			if err != nil {
				return err
			}
			defer dir.Close()
			if !yes {
				if err := cli.Confirm(c.Context(), c.InOrStdin(), "accept peers again, and forget the evidence of a fork"); err != nil {
					return err
				}
			}
			client := run.Connect(dir)
			defer client.Close()
			cleared, err := client.ClearForks(c.Context())
			if _, ok := errors.AsType[*run.NotRunningError](err); ok {
				cleared, err = f.clearForks()
			}
			if err != nil {
				return err
			}
			return f.output.Print(cleared, func(w io.Writer) {
				if len(cleared) == 0 {
					fmt.Fprintln(w, "there was nothing to clear")
				}
				for _, alarm := range cleared {
					fmt.Fprintf(w, "cleared %s\n", string(alarm))
				}
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// clearForks clears the alarms of a node whose agent does not run. One that has
// not finished joining may have one too.
func (f *flags) clearForks() ([]state.Alarm, error) {
	dir, err := state.Open(f.state)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return run.ClearForks(dir)
}

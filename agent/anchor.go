package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

func anchorCommand(f *flags) *cobra.Command {
	c := &cobra.Command{Use: "anchor", Short: "what keeps this node from believing an older copy of its state directory"}
	var yes bool
	reset := &cobra.Command{
		Use:   "reset",
		Short: "go on with a state directory that may be an older copy",
		Long: `Reset is for a node that refuses to start because its state directory may have been
rolled back. It takes the newest pointer record and a fresh CRL from the coordinator
and only then makes a new anchor, so what was revoked meanwhile stays revoked. Find
out first who restored the directory, or touched the chip. A node whose anchor is as
it should be is left as it is. The agent must not be running.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := f.openEnrolled()
			if err != nil {
				return err
			}
			defer dir.Close()
			if !yes {
				if err := cli.Confirm(c.Context(), c.InOrStdin(), "trust the state directory "+f.state+" again, with the coordinator's newest CRL"); err != nil {
					return err
				}
			}
			a, err := run.ResetAnchor(c.Context(), dir, run.Options{Logger: f.logger(c, false), Now: time.Now})
			if err != nil {
				return err
			}
			return f.output.Print(a, func(w io.Writer) {
				fmt.Fprintf(w, "anchored at %d: pointer record %d, CRL %d\n", a.Counter, a.Pointer, a.CRL)
			})
		},
	}
	reset.Flags().BoolVar(&yes, "yes", false, "do not ask")
	reset.Args = usageArgs(reset.Args)
	c.AddCommand(reset)
	return c
}

// openEnrolled takes the directory of an enrolled node for writing.
func (f *flags) openEnrolled() (*state.Dir, error) {
	dir, err := f.look()
	if err == nil && !dir.Enrolled() {
		err = state.ErrNotEnrolled
	}
	if dir != nil {
		dir.Close()
	}
	if err != nil {
		return nil, err
	}
	return state.Open(f.state)
}

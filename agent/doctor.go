package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/doctor"
	"github.com/chancery-pki/chancery/internal/cli"
)

func doctorCommand(f *flags) *cobra.Command {
	var device string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "find out what keeps this node from working, and what to do about it",
		Long: `Doctor looks at the state directory, the certificate, the CRL, the clock, the TPM and
the key in it, and the coordinator. It changes nothing. The exit code is 3 if
something is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			checks := doctor.Examine(c.Context(), doctor.Options{State: f.state, TPM: device, Now: time.Now})
			if err := f.output.Print(checks, func(w io.Writer) { printChecks(w, checks) }); err != nil {
				return err
			}
			bad := 0
			for _, check := range checks {
				if check.Verdict == doctor.Bad {
					bad++
				}
			}
			if bad > 0 {
				return &cli.Error{Code: cli.ExitDegraded, Err: fmt.Errorf("%d of %d checks are bad, see above", bad, len(checks))}
			}
			return nil
		},
	}
	c.Flags().StringVar(&device, "tpm", os.Getenv("CHANCERY_TPM"), "TPM device (default: the node's; CHANCERY_TPM)")
	return c
}

func printChecks(w io.Writer, checks []doctor.Check) {
	for _, c := range checks {
		fmt.Fprintf(w, "%-4s %-18s %s\n", c.Verdict, c.Name, c.What)
		if c.Hint != "" {
			fmt.Fprintf(w, "     %-18s -> %s\n", "", c.Hint)
		}
	}
}

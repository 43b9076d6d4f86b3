package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// A makerResult is what maker prints with -o json.
type makerResult struct {
	Dir   string `json:"dir"`
	Roots string `json:"roots" doc:"PEM file for chancery init --simulator-roots"`
}

func makerCommand(out *cli.Output) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "maker",
		Short: "make a manufacturer of paper TPMs, and print the file with its certificates",
		Long: `Maker makes a certificate authority for TPMs that are paper: keys in the memory of
a program. It protects nothing. A coordinator believes in it that was made with
its certificates.`,
		Example: `  chancery init --simulator --simulator-roots "$(chancery-simulator maker --dir maker)"`,
		RunE: func(*cobra.Command, []string) error {
			m, err := papertpm.NewMaker()
			if err != nil {
				return err
			}
			if err := m.Save(dir); err != nil {
				return err
			}
			r := makerResult{Dir: dir, Roots: papertpm.RootsFile(dir)}
			return out.Print(r, func(w io.Writer) { fmt.Fprintln(w, r.Roots) })
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "new directory for its keys (required)")
	c.MarkFlagRequired("dir")
	return c
}

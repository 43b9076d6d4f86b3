package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/internal/cli"
)

func keyCommand(f *flags) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "the node's key in the TPM"}
	var out string
	export := &cobra.Command{
		Use:   "export",
		Short: "write the key as a TSS2 file, for programs that take it through openssl's tpm2 provider",
		Long: `Export writes N:SK in the form that openssl's tpm2 provider reads. It stays wrapped by
the chip: the file is of use on this machine only, and there to everybody who can
read it and reach the TPM. A key that is sealed to the boot state cannot be used
that way.`,
		Example: `  chancery-agent key export --out node.pem
  TPM2OPENSSL_TCTI=device:/dev/tpmrm0 openssl pkey -provider tpm2 -provider default -in node.pem -pubout`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := f.look()
			if err != nil {
				return err
			}
			defer dir.Close()
			file, err := dir.Key()
			if err != nil {
				return err
			}
			pem, err := file.TSS2()
			if err != nil {
				return err
			}
			if out == "" {
				_, err := c.OutOrStdout().Write(pem)
				return err
			}
			w, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return cli.Usage("choose another file", "%w", err)
			}
			if _, err := w.Write(pem); err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return err
			}
			return f.output.Print(map[string]string{"file": out}, func(w io.Writer) { fmt.Fprintf(w, "wrote %s\n", out) })
		},
	}
	export.Flags().StringVar(&out, "out", "", "file to write (default: standard output)")
	export.Args = usageArgs(export.Args)
	c.AddCommand(export)
	return c
}

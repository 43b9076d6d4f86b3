package main

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/tpm"
)

func rejoinCommand(f *flags) *cobra.Command {
	var j joinFlags
	c := &cobra.Command{
		Use:   "rejoin",
		Short: "give this node a new key, because its chip was cleared or exchanged",
		Long: `Rejoin makes a new key for a node that has lost its own: the TPM was cleared or
replaced, or the key file is gone. The node keeps its name. An operator approves,
and with that the certificates that it had are revoked. A node whose key works is
left as it is.

On the same chip nothing else is needed. On another one give a join token for the
node's name.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			token, err := j.readToken(c)
			if err != nil {
				return cli.Usage("a token is one line that chancery token create printed", "%w", err)
			}
			dir, err := f.look()
			if err == nil && !dir.Enrolled() {
				err = errors.Join(state.ErrNotEnrolled, dir.Close())
			}
			if err != nil {
				return err
			}
			config, err := dir.Config()
			dir.Close()
			if err != nil {
				return err
			}
			if dir, err = state.Open(f.state); err != nil {
				return err
			}
			defer dir.Close()
			o := join.Options{Token: token, Device: j.device, Unsealed: j.unsealed, PCRs: slices.Sorted(slices.Values(j.pcrs)), Wait: j.wait, Now: time.Now}
			if !c.Flags().Changed("pcrs") {
				o.PCRs = config.PCRs
			}
			if err := j.keyPIN(&o); err != nil {
				return err
			}
			o.Step, o.Notice = f.progress(c)
			r, err := join.Rejoin(c.Context(), dir, o)
			if err != nil {
				return err
			}
			if err := f.output.Print(r, func(w io.Writer) { r.Text(w) }); err != nil {
				return err
			}
			if r.Status == join.Pending {
				return &cli.Error{Code: cli.ExitDegraded, Err: errors.New("an operator has to approve"), Tip: "an operator runs: chancery node approve " + r.Node + "; then repeat the command"}
			}
			return nil
		},
	}
	v := c.Flags()
	v.StringVar(&j.token, "token", "", "join token; others on this machine can read it, prefer --token-file")
	v.StringVar(&j.tokenFile, "token-file", os.Getenv("CHANCERY_TOKEN_FILE"), `file with the join token, "-" for standard input (CHANCERY_TOKEN_FILE)`)
	v.StringVar(&j.device, "tpm", os.Getenv("CHANCERY_TPM"), "TPM device, if it is another one now (CHANCERY_TPM)")
	v.BoolVar(&j.unsealed, "unsealed", false, "do not seal the key to the machine's boot state (default: as before)")
	v.StringVar(&j.pinFile, "key-pin-file", "", "file with a PIN that the new key will ask for, instead of being sealed (default: as before)")
	v.IntSliceVar(&j.pcrs, "pcrs", tpm.DefaultPCRs, "PCRs to seal the key to (default: as before)")
	v.BoolVar(&j.wait, "wait", true, "wait until an operator has approved")
	return c
}

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/share"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

// pinPurpose is what shares of the PIN are shares of.
const pinPurpose = "user PIN of the token of CA:SK"

// splitPIN splits the user PIN of the token of CA:SK, if the plan says so.
func splitPIN(plan *Plan, config *Config) ([]share.Share, error) {
	if !plan.PIN.wanted() {
		return nil, nil
	}
	i := slices.IndexFunc(config.HSM, func(h HSMConfig) bool { return h.serves(keyCA) })
	uri, err := parseToken(config.HSM[i].URI)
	if err != nil {
		return nil, err
	}
	pin, err := hsm.PIN(uri)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	shares, err := share.Split(pin, pinPurpose, plan.PIN.Threshold, plan.PIN.Shares)
	return shares, cli.WithCode(cli.ExitUsage, err)
}

// writeShares writes a file for each custodian, none over another: it takes
// back what it wrote if it cannot write all.
func writeShares(dir string, shares []share.Share) (files []string, err error) {
	defer func() {
		if err != nil {
			removeAll(files)
		}
	}()
	for _, s := range shares {
		i := s.Info()
		file := filepath.Join(dir, fmt.Sprintf("share-%.8s-%d-of-%d.txt", i.Set, i.Index, i.N))
		text := s.Reveal()
		err := durable.CreateFile(file, text)
		clear(text)
		if err != nil {
			return files, cli.Failure("choose another directory", "%v", err)
		}
		files = append(files, file)
	}
	return files, nil
}

func removeAll(files []string) {
	for _, f := range files {
		os.Remove(f)
	}
}

func wipe(shares []share.Share) {
	for _, s := range shares {
		s.Wipe()
	}
}

func (a *app) splitCommand() *cobra.Command {
	var plan PINPlan
	c := &cobra.Command{Use: "split PIN-FILE", Short: "Split a PIN among custodians", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if err := plan.check(); err != nil {
			return err
		}
		file, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		pin, err := hsm.PIN(hsm.URI{PINSource: file})
		if err != nil {
			return err
		}
		defer clear(pin)
		shares, err := share.Split(pin, pinPurpose, plan.Threshold, plan.Shares)
		if err != nil {
			return cli.WithCode(cli.ExitUsage, err)
		}
		defer wipe(shares)
		files, err := writeShares(plan.Directory, shares)
		if err != nil {
			return err
		}
		return a.out.Print(files, func(w io.Writer) {
			for _, f := range files {
				fmt.Fprintln(w, f)
			}
		})
	}}
	c.Flags().IntVar(&plan.Shares, "shares", 5, "how many shares")
	c.Flags().IntVar(&plan.Threshold, "threshold", 3, "how many of them bring the PIN back")
	c.Flags().StringVar(&plan.Directory, "out", "", "directory for the shares, an absolute path (required)")
	c.MarkFlagRequired("out")
	return c
}

func (a *app) combineCommand() *cobra.Command {
	var out string
	c := &cobra.Command{Use: "combine SHARE-FILE...", Short: "Bring a split PIN back, into a file", Long: `combine checks the shares and writes the PIN into a file that only its owner
reads, such as the one that pin-source names. A share that is mistyped, altered
or of another set is an error: no wrong PIN comes out of it.`, Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		pin, err := combine(args, pinPurpose)
		if err != nil {
			return err
		}
		defer clear(pin)
		if err := durable.CreateFile(out, pin); err != nil {
			return cli.Failure("choose another file, or remove that one", "%v", err)
		}
		return a.out.Print(map[string]string{"pin_file": out}, func(w io.Writer) { fmt.Fprintf(w, "wrote the PIN to %s\n", out) })
	}}
	c.Flags().StringVar(&out, "out", "", "file to write the PIN to (required)")
	c.MarkFlagRequired("out")
	return c
}

// maxShareFile is far above a share's text.
const maxShareFile = 64 << 10

// combine brings back the secret that files have shares of, if it is what the
// purpose says.
func combine(files []string, purpose string) ([]byte, error) {
	var shares []share.Share
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, cli.Usage("", "%v", err)
		}
		text, err := io.ReadAll(io.LimitReader(f, maxShareFile))
		f.Close()
		if err != nil {
			return nil, cli.Usage("", "%v", err)
		}
		s, err := share.Parse(text)
		clear(text)
		if err != nil {
			return nil, &cli.Error{Code: cli.ExitUsage, Err: fmt.Errorf("%s: %w", file, err), Tip: cli.HintOf(err)}
		}
		defer s.Wipe()
		if got := s.Info().Purpose; got != purpose {
			return nil, cli.Usage("", "%s is a share of the %s, want one of the %s", file, got, purpose)
		}
		shares = append(shares, s)
	}
	secret, err := share.Combine(shares)
	return secret, cli.WithCode(cli.ExitUsage, err)
}

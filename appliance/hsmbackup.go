package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/share"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

// wrappingPurpose is what shares of a backup's wrapping key are shares of: of
// one backup, so that shares of another one are told apart.
func wrappingPurpose(w *hsm.WrappedKey) string {
	sum := sha256.Sum256(w.Wrapped)
	return fmt.Sprintf("wrapping key of backup %x", sum[:8])
}

// A tokenChoice picks the token of a command: --hsm, or the first of the
// configuration that is used for the key.
type tokenChoice struct{ uri string }

func (t *tokenChoice) flag(c *cobra.Command) {
	c.Flags().StringVar(&t.uri, "hsm", "", "PKCS#11 URI of the token, for which this command's environment counts (default: the first one of the configuration that is used for the key)")
}

// one returns the configuration to work with, in which the chosen token is the
// only one. Every key has one, as checkTokens saw to.
func (t *tokenChoice) one(data dataDir, key string) (Config, error) {
	config, err := t.config(data)
	if err == nil {
		i := slices.IndexFunc(config.HSM, func(h HSMConfig) bool { return h.serves(key) })
		config.HSM = config.HSM[i : i+1]
	}
	return config, err
}

// config returns the configuration, or one that has nothing but the chosen
// token.
func (t *tokenChoice) config(data dataDir) (Config, error) {
	if t.uri == "" {
		return data.loadConfig()
	}
	config := defaultConfig()
	config.HSM = []HSMConfig{{URI: t.uri}}
	return config, config.checkTokens()
}

// A backupResult is what hsm backup prints with -o json.
type backupResult struct {
	Key    string   `json:"key" doc:"fingerprint"`
	Label  string   `json:"label"`
	File   string   `json:"file"`
	Shares []string `json:"shares"`
}

func (a *app) backupCommand() *cobra.Command {
	var choice tokenChoice
	var plan PINPlan
	var key, soPIN string
	var yes bool
	c := &cobra.Command{Use: "backup", Short: "Take a wrappable key out of a token, encrypted", Long: `backup wraps a key that was generated wrappable, and splits the wrapping key among
custodians. Into the directory go the backup and a share for each custodian.

It is a trade. A key that can be backed up is a key that can be stolen by whoever
has the PINs of the token's user and security officer; what comes out is the
secret key itself for whoever has the backup and enough of the shares. Where the
vendor can clone tokens, do that; a key that is not wrappable is replaced by
rollover if its token is lost.`, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		if !slices.Contains(keyNames, key) {
			return cli.Usage("keys are "+strings.Join(keyNames, ", "), "--key: no key is called %q", key)
		}
		config, err := choice.one(a.data, key)
		if err != nil {
			return err
		}
		if err := plan.check(); err != nil {
			return err
		}
		name, err := config.Keys.uri(key)
		if err != nil {
			return err
		}
		if !yes {
			if err := confirm(c.Context(), fmt.Sprintf("let the secret key %s leave the token %s, encrypted", key, config.HSM[0].URI)); err != nil {
				return err
			}
		}
		r, err := a.backup(&config.HSM[0], name, soPIN, &plan)
		if err != nil {
			return err
		}
		return a.out.Print(r, func(w io.Writer) {
			fmt.Fprintf(w, "backup         %s   the key %s, %s\n", r.File, r.Label, r.Key)
			for _, s := range r.Shares {
				fmt.Fprintf(w, "share          %s\n", s)
			}
			fmt.Fprintf(w, "next: give each share to its custodian, and keep the backup elsewhere\n")
		})
	}}
	choice.flag(c)
	c.Flags().StringVar(&key, "key", keyCA, "which key: "+strings.Join(keyNames, ", "))
	c.Flags().StringVar(&soPIN, "so-pin-file", "", "file with the security officer's PIN (required)")
	c.Flags().IntVar(&plan.Shares, "shares", 5, "shares of the wrapping key")
	c.Flags().IntVar(&plan.Threshold, "threshold", 3, "how many of them bring it back")
	c.Flags().StringVar(&plan.Directory, "out", "", "directory for backup and shares, an absolute path (required)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.MarkFlagRequired("so-pin-file")
	c.MarkFlagRequired("out")
	return c
}

func (a *app) backup(h *HSMConfig, name hsm.URI, soPINFile string, plan *PINPlan) (r *backupResult, err error) {
	file, err := filepath.Abs(soPINFile)
	if err != nil {
		return nil, err
	}
	soPIN, err := hsm.PIN(hsm.URI{PINSource: file})
	if err != nil {
		return nil, err
	}
	defer clear(soPIN)
	uri, err := parseToken(h.URI)
	if err != nil {
		return nil, err
	}
	wrapping := make([]byte, hsm.WrappingKeySize)
	rand.Read(wrapping)
	defer clear(wrapping)
	var w *hsm.WrappedKey
	err = h.within(func() error {
		w, err = hsm.Backup(uri, hsm.Options{Latch: a.data.latch()}, name, soPIN, wrapping)
		return err
	})
	if err != nil {
		return nil, cli.WithCode(cli.ExitNoToken, err)
	}
	shares, err := share.Split(wrapping, wrappingPurpose(w), plan.Threshold, plan.Shares)
	if err != nil {
		return nil, err
	}
	defer wipe(shares)
	b, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return nil, err
	}
	r = &backupResult{Label: w.Label, File: filepath.Join(plan.Directory, fmt.Sprintf("backup-%.8s.json", shares[0].Info().Set))}
	public, err := w.PublicKey()
	if err != nil {
		return nil, err
	}
	r.Key = public.String()
	if err := durable.CreateFile(r.File, append(b, '\n')); err != nil {
		return nil, cli.Failure("choose another directory", "%v", err)
	}
	if r.Shares, err = writeShares(plan.Directory, shares); err != nil {
		os.Remove(r.File)
		return nil, err
	}
	return r, nil
}

// maxBackup is far above a backup's JSON.
const maxBackup = 64 << 10

func (a *app) restoreCommand() *cobra.Command {
	var choice tokenChoice
	var yes bool
	c := &cobra.Command{Use: "restore BACKUP SHARE-FILE...", Short: "Bring a backup of a key into a token", Long: `restore unwraps the key into the token, from where it cannot leave again, has it
sign, and compares: a token in which it is not the right key is left as it was.
A restored key was not generated in its token, and says so (CKA_LOCAL).`, Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
		config, err := choice.one(a.data, keyCA)
		if err != nil {
			return err
		}
		info, err := os.Stat(args[0])
		if err != nil {
			return cli.Usage("", "%v", err)
		}
		if info.Size() > maxBackup {
			return cli.Usage("", "%s: %d bytes long, at most %d", args[0], info.Size(), maxBackup)
		}
		b, err := os.ReadFile(args[0])
		if err != nil {
			return cli.Usage("", "%v", err)
		}
		var w hsm.WrappedKey
		if err := json.Unmarshal(b, &w); err != nil {
			return cli.Usage("use the file that chancery hsm backup wrote", "%s: %v", args[0], err)
		}
		public, err := w.PublicKey()
		if err != nil {
			return cli.WithCode(cli.ExitUsage, fmt.Errorf("%s: %w", args[0], err))
		}
		key := public.String()
		wrapping, err := combine(args[1:], wrappingPurpose(&w))
		if err != nil {
			return err
		}
		defer clear(wrapping)
		if !yes {
			if err := confirm(c.Context(), fmt.Sprintf("bring the key %s (%s) into the token %s", w.Label, key, config.HSM[0].URI)); err != nil {
				return err
			}
		}
		uri, err := parseToken(config.HSM[0].URI)
		if err != nil {
			return err
		}
		err = config.HSM[0].within(func() error { return hsm.Restore(uri, hsm.Options{Latch: a.data.latch()}, &w, wrapping) })
		if err != nil {
			return cli.WithCode(cli.ExitNoToken, err)
		}
		return a.out.Print(map[string]string{"label": w.Label, "key": key}, func(out io.Writer) {
			fmt.Fprintf(out, "the key %s (%s) is in the token and signs\n", w.Label, key)
		})
	}}
	choice.flag(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

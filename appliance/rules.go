package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ekroots"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

// firstPolicy is the policy that init writes.
const firstPolicy = `# Who may enrol, under what name, and with what standing. Rules are tried in
# order; the first that matches decides; whom none matches is refused. All keys
# are in docs/policy.md. A change counts from the next start, or from
# "chancery policy apply FILE", and needs a higher version.
version = 1

[[rule]]
name = "chips with a known maker"
decide = "auto"            # or approve, or refuse
%s
# What a node must show: 0 software, 1 a TPM, 2 a TPM whose maker or whose
# buyer vouches for it.
require.assurance = 2

[attest]
on_failure = "hold"        # or report, or revoke
`

const trialRule = `simulators = true          # for trials: whoever has such a node's disk has its key
`

// writeRules writes the first policy and the roots of the plan.
func (a *app) writeRules(p *Plan) error {
	extra := ""
	if len(p.SimulatorRoots) > 0 {
		extra = trialRule
	}
	if err := os.MkdirAll(a.data.ekRoots(), 0o700); err != nil {
		return err
	}
	for _, f := range p.EKRoots {
		if _, err := ekroots.AddFile(a.data.ekRoots(), f, time.Now()); err != nil && !errors.Is(err, ekroots.ErrPresent) {
			return err
		}
	}
	return durable.WriteFile(a.data.policy(), fmt.Appendf(nil, firstPolicy, extra))
}

// tryEKRoots finds out whether a file can be added to the roots.
func tryEKRoots(file string) error {
	dir, err := os.MkdirTemp("", "chancery-ek-roots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := ekroots.AddFile(dir, file, time.Now()); err != nil && !errors.Is(err, ekroots.ErrPresent) {
		return cli.WithCode(cli.ExitUsage, err)
	}
	return nil
}

// roots are the makers of chips that the coordinator believes.
func (a *app) roots(c *Config) (r evidence.Roots, err error) {
	set, err := ekroots.Load(a.data.ekRoots(), c.WithoutVendors...)
	if err != nil {
		return r, cli.WithCode(cli.ExitUsage, err)
	}
	r.Makers = set.Pool()
	r.Simulators, err = readPool(c.SimulatorRoots)
	return r, err
}

// loadPolicy returns the policy in force: the file's, if it is that of the last
// time or has a higher version. A file that was changed and has not is an
// error: the records would name one policy and mean two.
func (a *app) loadPolicy(ctx context.Context, st *store.Store, pointer *chancery.Pointer, logger *slog.Logger) (*policy.Policy, error) {
	text, err := os.ReadFile(a.data.policy())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Usage("write one, as in docs/policy.md, or take the last one from a backup", "there is no policy in %s", a.data.policy())
	}
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, cli.WithCode(cli.ExitUsage, fmt.Errorf("%s: %w", a.data.policy(), err))
	}
	var last *store.Policy
	err = st.View(ctx, func(tx *store.Tx) (err error) {
		last, err = tx.LatestPolicy()
		return err
	})
	switch {
	case err == nil && last.Hash == p.Hash:
		return p, nil
	case err == nil && p.Version <= last.Version:
		return nil, cli.Usage("raise version in the file", "%s has changed and still has version %d; version %d was in force", a.data.policy(), p.Version, last.Version)
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	err = st.Update(ctx, func(tx *store.Tx) error {
		if err := tx.InsertPolicy(&store.Policy{Version: p.Version, Hash: p.Hash, Text: string(text), Operator: "the file at start", At: now}); err != nil {
			return err
		}
		return tx.AppendAudit(pointer.Current().ID.String(), &chancery.AuditEntry{At: now, Operator: chancery.AuditCoordinator, Action: "policy.apply", Subject: "version " + strconv.Itoa(p.Version),
			Details: []chancery.AuditDetail{{Name: "sha256", Value: p.Hash}, {Name: "source", Value: "the file at start"}}})
	})
	logger.Info("policy in force", "version", p.Version, "sha256", p.Hash, "operator", "the file at start")
	return p, err
}

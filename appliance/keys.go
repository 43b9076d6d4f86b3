package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

// open opens all tokens for the keys.
func (a *app) open(ctx context.Context, config *Config, public map[string]chancery.PublicKey) (*hsm.Pool, error) {
	return openTokens(ctx, config, chancery.FleetID{}, a.data.latch(), slog.New(slog.DiscardHandler), public)
}

// firstKeys returns all public keys: those that were made are known, and of
// each other one the first token that is used for it tells. So it is the plan
// that decides, not which token answers first.
func (a *app) firstKeys(ctx context.Context, config *Config, made map[string]chancery.PublicKey) (map[string]chancery.PublicKey, error) {
	public := map[string]chancery.PublicKey{}
	maps.Copy(public, made)
	only := *config
	only.HSM = slices.Clone(config.HSM)
	missing := map[string]chancery.PublicKey{}
	for i := range only.HSM {
		var mine []string
		for _, name := range keyNames {
			_, known := public[name]
			_, taken := missing[name]
			if !known && !taken && only.HSM[i].serves(name) {
				mine = append(mine, name)
				missing[name] = chancery.PublicKey{}
			}
		}
		only.HSM[i].Keys = mine
		if mine == nil {
			only.HSM[i].Keys = []string{"none"} // no keys would mean all
		}
	}
	if len(missing) == 0 {
		return public, nil
	}
	pool, err := a.open(ctx, &only, missing)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	for name := range missing {
		k, err := pool.Key(name)
		if err != nil {
			return nil, err
		}
		public[name] = k.PublicKey()
	}
	return public, nil
}

// checkKeys refuses keys that do not do.
func checkKeys(config *Config, public map[string]chancery.PublicKey) error {
	seen := map[string]string{}
	for _, name := range keyNames {
		fingerprint := public[name].String()
		if other, twice := seen[fingerprint]; twice {
			return cli.Usage("each key is for one purpose", "the keys %s and %s are the same key, %s", other, name, fingerprint)
		}
		seen[fingerprint] = name
	}
	if suite := public[keyApproval].Suite(); suite != chancery.P256 {
		return cli.Usage("TPMs verify approvals, and are asked for P-256 only", "the approval key %s has suite %s, want %s", config.Keys.Approval, suite, chancery.P256)
	}
	return nil
}

// generate makes the keys, each in the first token that is used for it, and
// returns those that it made.
func (a *app) generate(ctx context.Context, plan *Plan, config *Config) (made map[string]chancery.PublicKey, err error) {
	made = map[string]chancery.PublicKey{}
	if plan.ExistingKeys {
		// Not every module can generate, and none has to if all keys are there.
		if _, err := a.firstKeys(ctx, config, nil); !is[*hsm.KeyNotFoundError](err) {
			return made, err
		}
	}
	done := map[string]bool{}
	for i := range config.HSM {
		h := &config.HSM[i]
		var mine []string
		for _, name := range keyNames {
			if h.serves(name) && !done[name] {
				done[name] = true
				mine = append(mine, name)
			}
		}
		if mine == nil {
			continue
		}
		if err := h.within(func() error { return a.generateIn(h, mine, plan, config, made) }); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// generateIn makes keys in one token.
func (a *app) generateIn(h *HSMConfig, names []string, plan *Plan, config *Config, made map[string]chancery.PublicKey) (err error) {
	uri, err := parseToken(h.URI)
	if err != nil {
		return err
	}
	c, err := hsm.OpenCeremony(uri, hsm.Options{Latch: a.data.latch()})
	if err != nil {
		return err
	}
	var there []string
	defer func() {
		err = errors.Join(err, c.Close())
		if err == nil {
			err = halves(uri, hsm.Options{Latch: a.data.latch(), Wrappable: h.Wrappable, Sessions: 1}, there)
		}
	}()
	for _, name := range names {
		key, err := config.Keys.uri(name)
		if err != nil {
			return err
		}
		if key.Object == "" {
			if !plan.ExistingKeys {
				return cli.Usage("name it by object, or generate it otherwise and repeat with --existing-keys", "the key %s has no label to be generated under", name)
			}
			continue // it is there, or opening the tokens will tell
		}
		public, err := c.Generate(key, plan.Wrappable)
		switch {
		case is[*hsm.KeyExistsError](err) && plan.ExistingKeys: // and those that are missing are made
			there = append(there, key.Object)
		case is[*hsm.KeyExistsError](err):
			return cli.Failure("if an earlier init made it, repeat with --existing-keys", "%v", err)
		case err != nil:
			return err
		default:
			made[name] = public
		}
	}
	return nil
}

// halves looks for keys of which an interrupted ceremony left the public half
// alone: something has the label, and no private key does.
func halves(uri hsm.URI, opts hsm.Options, labels []string) (err error) {
	if len(labels) == 0 {
		return nil
	}
	t, err := hsm.Open(uri, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	for _, label := range labels {
		if _, err := t.Key(label); is[*hsm.KeyNotFoundError](err) {
			return &cli.Error{Code: cli.ExitNoToken, Err: err, Tip: "an earlier init was interrupted while the token made it; delete the half that is there and repeat: " +
				"pkcs11-tool --module MODULE --token-label LABEL --login --delete-object --type pubkey --label " + label}
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

// The keys, by the names that the configuration has for them, and the labels
// that init gives them. CA:SK is the first; its successor is made with it,
// because the genesis commits to it.
const (
	keyCA       = "ca"
	keyNextCA   = "next_ca"
	keyApproval = "approval"
	keyX509     = "x509"

	labelCA       = "chancery-ca-1"
	labelNextCA   = "chancery-ca-2"
	labelApproval = "chancery-approval"
	labelX509     = "chancery-x509"
)

var keyNames = []string{keyCA, keyNextCA, keyApproval, keyX509}

// named returns the URI of a key, as it is in the configuration.
func (k *KeysConfig) named(name string) string {
	switch name {
	case keyCA:
		return k.CA
	case keyNextCA:
		return k.NextCA
	case keyApproval:
		return k.Approval
	}
	return k.X509
}

// uri returns the URI of a key, which names an object or an id and nothing
// else.
func (k *KeysConfig) uri(name string) (hsm.URI, error) {
	uri, err := hsm.ParseURI(k.named(name))
	if err != nil {
		return uri, cli.WithCode(cli.ExitUsage, err)
	}
	if (uri != hsm.URI{Object: uri.Object, ID: uri.ID}) || uri.Object+uri.ID == "" {
		return uri, cli.Usage("as in pkcs11:object=LABEL or pkcs11:id=%01", "the key %s: %q does not name a key by object or id alone", name, k.named(name))
	}
	return uri, nil
}

// serves reports whether the token is used for the key.
func (c *HSMConfig) serves(key string) bool { return len(c.Keys) == 0 || slices.Contains(c.Keys, key) }

// parseToken reads the URI of a token, which must name a module too.
func parseToken(s string) (hsm.URI, error) {
	uri, err := hsm.ParseURI(s)
	if err != nil {
		return uri, cli.WithCode(cli.ExitUsage, err)
	}
	if uri.ModulePath == "" && uri.ModuleName == "" {
		return uri, cli.Usage("add ?module-path=/path/to/module.so", "the token's uri names no PKCS#11 module")
	}
	if uri.Object+uri.ID+uri.Type != "" {
		return uri, cli.Usage("name keys under [keys]", "the token's uri names a key too")
	}
	return uri, nil
}

// check finds what is wrong with the tokens and keys.
func (c *Config) checkTokens() error {
	seen := map[string]bool{}
	for i := range c.HSM {
		h := &c.HSM[i]
		t, _, err := h.token(nil)
		if err != nil {
			return err
		}
		if err := t.Check(); err != nil {
			return cli.Usage("", "the token %s: %v", h.URI, err)
		}
		device := t.URI.String() + fmt.Sprint(h.Environment)
		if seen[device] {
			return cli.Usage("name all of its keys in one table", "two [[hsm]] tables are for the token %s", h.URI)
		}
		seen[device] = true
		for _, k := range h.Keys {
			if !slices.Contains(keyNames, k) {
				return cli.Usage("keys are "+strings.Join(keyNames, ", "), "the token %s: no key is called %q", h.URI, k)
			}
		}
	}
	for _, name := range keyNames {
		if _, err := c.Keys.uri(name); err != nil {
			return err
		}
		if !slices.ContainsFunc(c.HSM, func(h HSMConfig) bool { return h.serves(name) }) {
			return cli.Usage("name it in the keys of a [[hsm]] table", "no token is used for the key %s", name)
		}
	}
	return nil
}

// openTokens opens the tokens for the keys that are pinned. Whatever is wrong
// with them is exit code 4.
func openTokens(ctx context.Context, c *Config, fleet chancery.FleetID, latch hsm.Latch, logger *slog.Logger, pinned map[string]chancery.PublicKey) (*hsm.Pool, error) {
	pool := hsm.PoolConfig{Fleet: fleet, Latch: latch, Logger: logger}
	for _, name := range keyNames {
		if public, ok := pinned[name]; ok {
			uri, err := c.Keys.uri(name)
			if err != nil {
				return nil, err
			}
			pool.Keys = append(pool.Keys, hsm.PinnedKey{Name: name, Key: uri, Public: public})
		}
	}
	for i := range c.HSM {
		t, used, err := c.HSM[i].token(pinned)
		if err != nil {
			return nil, err
		}
		if used {
			pool.Tokens = append(pool.Tokens, t)
		}
	}
	p, err := hsm.OpenPool(ctx, pool)
	if ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err()) // it was the user who ended it, not the token
	}
	return p, cli.WithCode(cli.ExitNoToken, err)
}

// token turns the table into what a pool wants, for those of the wanted keys
// that the token is used for.
func (c *HSMConfig) token(wanted map[string]chancery.PublicKey) (t hsm.TokenConfig, used bool, err error) {
	uri, err := parseToken(c.URI)
	if err != nil {
		return t, false, err
	}
	t = hsm.TokenConfig{URI: uri, Environment: c.Environment, Sessions: c.Sessions, Deadline: time.Duration(c.Deadline), KeepAlive: time.Duration(c.KeepAlive), Wrappable: c.Wrappable}
	for _, name := range keyNames {
		if _, ok := wanted[name]; ok && c.serves(name) {
			t.Keys = append(t.Keys, name)
		}
	}
	return t, len(t.Keys) > 0, nil
}

// identify writes down which token it was that the URI named: from now on no
// other one will do.
func (c *HSMConfig) identify(s hsm.Status) error {
	if s.State != hsm.Up {
		return nil
	}
	uri, err := parseToken(c.URI)
	if err != nil {
		return err
	}
	uri.Token, uri.Serial = s.Info.Label, s.Info.Serial
	c.URI = uri.String()
	return nil
}

// within runs f with the token's environment in this process, for ceremonies,
// which have no signer process.
func (c *HSMConfig) within(f func() error) error {
	for name, value := range c.Environment {
		old, had := os.LookupEnv(name)
		if err := os.Setenv(name, value); err != nil {
			return cli.Usage("", "environment: %s: %v", name, err)
		}
		defer func() {
			if had {
				os.Setenv(name, old)
			} else {
				os.Unsetenv(name)
			}
		}()
	}
	return f()
}

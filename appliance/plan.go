package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery/hsm/share"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/tomlkeys"
)

// A Plan is what a ceremony is to do: the flags of init, or the file of
// init --ceremony, which people can read and agree on before the day. Unknown
// keys are errors.
type Plan struct {
	// Title and Witnesses are for the transcript.
	Title     string   `toml:"title"`
	Witnesses []string `toml:"witnesses,omitempty"`

	// URL is where nodes reach the coordinator.
	URL string `toml:"url"`
	// Listen is the address to listen on. Default: the port of url on all
	// interfaces.
	Listen string `toml:"listen,omitempty"`
	// TrustDomain is the SPIFFE trust domain of node names. Default
	// chancery.internal.
	TrustDomain string `toml:"trust_domain,omitempty"`

	// HSM and Keys are as in chancery.toml. A key is generated in the first
	// token that is used for it; others get it by chancery hsm restore or by
	// the vendor's means.
	HSM  []HSMConfig `toml:"hsm"`
	Keys KeysConfig  `toml:"keys,omitempty"`
	// ExistingKeys goes on with keys that are in the tokens; those that none of
	// their tokens has are generated. Default false: a key that is in any of
	// its tokens is an error.
	ExistingKeys bool `toml:"existing_keys,omitempty"`
	// Wrappable generates keys that can be backed up to another token: see
	// docs/hsm.md for the price. Default false.
	Wrappable bool `toml:"wrappable,omitempty"`

	// PIN splits the user PIN of the first token among custodians. Optional.
	PIN PINPlan `toml:"pin,omitempty"`

	// EKRoots are files with the certificates of TPM vendors, beside those that
	// the program carries: see docs/ek-roots.md.
	EKRoots []string `toml:"ek_roots,omitempty"`
	// SimulatorRoots are as in chancery.toml. With them simulators may enrol.
	SimulatorRoots []string `toml:"simulator_roots,omitempty"`

	hash [32]byte // SHA-256 of the file, zeros for flags
}

// A PINPlan says how the PIN is split: any Threshold of Shares bring it back.
type PINPlan struct {
	Shares    int    `toml:"shares"`
	Threshold int    `toml:"threshold"`
	Directory string `toml:"directory"` // where the shares are written, a file each
}

func (p *PINPlan) wanted() bool { return *p != PINPlan{} }

const maxPlan = 64 << 10

// loadPlan reads the file of init --ceremony.
func loadPlan(file string) (*Plan, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, cli.Usage("", "%v", err)
	}
	if len(b) > maxPlan {
		return nil, cli.Usage("", "%s: %d bytes long, at most %d", file, len(b), maxPlan)
	}
	p := Plan{hash: sha256.Sum256(b)}
	if err := strictTOML(file, b, &p); err != nil {
		return nil, err
	}
	if p.Title == "" {
		return nil, cli.Usage(`as in title = "key ceremony of the fleet example.org"`, "%s: the ceremony has no title", file)
	}
	return &p, nil
}

// strictTOML reads TOML without unknown keys.
func strictTOML(file string, b []byte, v any) error {
	if err := tomlkeys.Check(b, v); err != nil {
		return cli.Usage("keys are described in docs/operating.md", "%s: %v", file, err)
	}
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(v)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		return cli.Usage("keys are described in docs/operating.md", "%s: unknown key:\n%s", file, strict.String())
	}
	if at, ok := errors.AsType[*toml.DecodeError](err); ok {
		return cli.Usage("", "%s:\n%s", file, at.String())
	}
	if err != nil {
		return cli.Usage("", "%s: %v", file, err)
	}
	return nil
}

// existing tells how to go on with keys that are in the tokens.
func (p *Plan) existing() string {
	if p.hash != [32]byte{} {
		return "add existing_keys = true to the file, which is then another plan, and repeat"
	}
	return "repeat with --existing-keys"
}

// summary says what the plan will do, for [confirm]. What others wrote is
// quoted: it cannot pass for a line of ours.
func (p *Plan) summary(dir string, config *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "perform %q (plan sha256:%x):\n  make a coordinator in %q for %q, trust domain %q\n", p.Title, p.hash, dir, p.URL, p.TrustDomain)
	for _, h := range config.HSM {
		what := keyNames
		if len(h.Keys) > 0 {
			what = h.Keys
		}
		fmt.Fprintf(&b, "  token %s for %s\n", h.URI, strings.Join(what, ", "))
		for _, name := range slices.Sorted(maps.Keys(h.Environment)) {
			fmt.Fprintf(&b, "    with %q\n", name+"="+h.Environment[name])
		}
		if h.Wrappable {
			fmt.Fprintf(&b, "    WRAPPABLE keys: whoever has the PINs of its user and security officer can take them out\n")
		}
	}
	for _, name := range keyNames {
		fmt.Fprintf(&b, "  key %s is %s\n", name, config.Keys.named(name))
	}
	if p.ExistingKeys {
		fmt.Fprintf(&b, "  use the keys that are there, and generate those that are missing\n")
	} else {
		fmt.Fprintf(&b, "  generate the keys\n")
	}
	if p.PIN.wanted() {
		fmt.Fprintf(&b, "  split the PIN into %d shares in %q, any %d of which bring it back\n", p.PIN.Shares, p.PIN.Directory, p.PIN.Threshold)
	}
	for _, f := range p.EKRoots {
		fmt.Fprintf(&b, "  believe in the TPM manufacturers of %q\n", f)
	}
	for _, f := range p.SimulatorRoots {
		fmt.Fprintf(&b, "  let SIMULATOR chips enrol, of the makers in %q\n", f)
	}
	for _, w := range p.Witnesses {
		fmt.Fprintf(&b, "  witnessed by %q\n", w)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// config is the configuration of the coordinator that the plan makes. It finds
// what is wrong with the plan before anything is done.
func (p *Plan) config() (*Config, error) {
	endpoint, err := url.Parse(p.URL)
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || len(p.URL) > 255 {
		return nil, cli.Usage("as in https://coordinator.example:8443", "%q is not an https URL", p.URL)
	}
	c := defaultConfig()
	c.Listen = p.Listen
	if c.Listen == "" {
		c.Listen = ":" + portOf(endpoint)
	}
	if p.TrustDomain == "" {
		p.TrustDomain = "chancery.internal"
	}
	c.HSM = p.HSM
	for i := range c.HSM {
		c.HSM[i].Wrappable = c.HSM[i].Wrappable || p.Wrappable
	}
	for _, k := range []struct {
		from string
		to   *string
	}{{p.Keys.CA, &c.Keys.CA}, {p.Keys.NextCA, &c.Keys.NextCA}, {p.Keys.Approval, &c.Keys.Approval}, {p.Keys.X509, &c.Keys.X509}} {
		if k.from != "" {
			*k.to = k.from
		}
	}
	c.SimulatorRoots = p.SimulatorRoots
	if _, err := readPool(c.SimulatorRoots); err != nil {
		return nil, err
	}
	for _, f := range p.EKRoots { // found unfit before anything is done
		if err := tryEKRoots(f); err != nil {
			return nil, err
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, p.PIN.check()
}

func (p *PINPlan) check() error {
	if !p.wanted() {
		return nil
	}
	if !filepath.IsAbs(p.Directory) {
		return cli.Usage("", "pin: the directory %q for the shares is not an absolute path", p.Directory)
	}
	info, err := os.Stat(p.Directory)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", p.Directory)
	}
	if err != nil {
		return cli.Usage("mount it, or create it with mode 0700", "the directory for the shares cannot be used: %v", err)
	}
	// It may be read-only, full, or somebody else's.
	trial, err := os.CreateTemp(p.Directory, ".trial-*")
	if err != nil {
		return cli.Usage("it must be writable for this user", "the directory for the shares cannot be used: %v", err)
	}
	err = errors.Join(trial.Close(), os.Remove(trial.Name()))
	if err != nil {
		return cli.Usage("", "the directory for the shares cannot be used: %v", err)
	}
	// How many of how many is for package share to judge, which says why.
	_, err = share.Split([]byte{0}, "trial", p.Threshold, p.Shares)
	return cli.WithCode(cli.ExitUsage, err)
}

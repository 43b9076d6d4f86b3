package main

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/witnesses"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
	"github.com/chancery-pki/chancery/internal/tomlkeys"
)

// A Config is DATA/chancery.toml. Unknown keys are errors.
type Config struct {
	// HSM lists the PKCS#11 tokens that hold the keys.
	HSM []HSMConfig `toml:"hsm"`
	// Keys names the keys in the tokens.
	Keys KeysConfig `toml:"keys"`

	// Listen is the address that nodes connect to. Default ":8443".
	Listen string `toml:"listen"`

	// EnrollRate is how many requests of enrolments a second one network
	// address may make on average; 0 is no limit. Default 20.
	EnrollRate float64 `toml:"enroll_rate"`

	// CertificateLife is the life of an N:C, at most the pointer record's
	// longest. Default 168h.
	CertificateLife Duration `toml:"certificate_life"`
	// CRLLife is the time from a CRL's thisUpdate to its nextUpdate: how long
	// nodes go on without the coordinator. Default 1h.
	CRLLife Duration `toml:"crl_life"`
	// Heartbeat is how often a CRL head and a checkpoint are signed when
	// nothing happens. It must be shorter than half of CRLLife. Default 2m.
	Heartbeat Duration `toml:"heartbeat"`
	// ReattestWindow is how long after its last certificate expired a node that
	// was away may come back with its old key and chip. Default 2160h, 90 days.
	ReattestWindow Duration `toml:"reattest_window"`
	// WitnessWait is how long certificates wait for the cosignatures of witnesses,
	// so that nodes can require them. Default 0s: they do not.
	WitnessWait Duration `toml:"witness_wait,omitempty"`
	// DNSSuffix gives every node the DNS name NAME.SUFFIX. Optional.
	DNSSuffix string `toml:"dns_suffix,omitempty"`

	// WithoutVendors are TPM vendors whose certificates, which the program
	// carries, are not to be believed: names as chancery ek-roots list has them.
	WithoutVendors []string `toml:"without_vendors,omitempty"`
	// SimulatorRoots are PEM files with certificates of makers of simulators.
	// The policy says whether their chips may enrol.
	SimulatorRoots []string `toml:"simulator_roots,omitempty"`

	// OperatorGroup is the group whose members are operators, beside the user
	// that the coordinator runs as. Default none.
	OperatorGroup string `toml:"operator_group,omitempty"`

	// Anchor is where the coordinator notes, outside of its database, how far it
	// has come: the path of a file, relative to the data directory, or "tpm:" and
	// the device of this machine's TPM. Put it where no backup of the database is
	// restored: whoever can write there can have an older database believed.
	// Default "anchor", which is of use if the database alone is restored.
	Anchor string `toml:"anchor,omitempty"`

	// Witness lists the machines that cosign the logs.
	Witness []witnesses.Config `toml:"witness,omitempty"`
}

// An HSMConfig is a [[hsm]] table: one token. Several with the same keys share
// the load, and one that fails is done without until it is back.
type HSMConfig struct {
	// URI names the token (RFC 7512). The PIN is never in it: pin-source names
	// a file, or systemd hands it over as the credential hsm.pin.
	URI string `toml:"uri"`
	// Sessions is how many signatures may be in the token at a time; see
	// chancery hsm bench. Default 4.
	Sessions int `toml:"sessions,omitempty"`
	// Deadline is how long the token may be silent while it has something to
	// sign, before it counts as hung. Default 5s.
	Deadline Duration `toml:"deadline,omitempty"`
	// KeepAlive is how long sessions may be idle before they are used.
	// Default 8s.
	KeepAlive Duration `toml:"keep_alive,omitempty"`
	// Environment is set for the vendor's module, as in
	// { SOFTHSM2_CONF = "/etc/softhsm2.conf" }. Optional.
	Environment map[string]string `toml:"environment,omitempty"`
	// Keys are the ones that the token is used for: ca, next_ca, approval,
	// x509. Default all.
	Keys []string `toml:"keys,omitempty"`
	// Wrappable accepts keys that were generated so that they can be backed
	// up: whoever has the security officer's PIN and the user's can take them
	// out of the token. Default false.
	Wrappable bool `toml:"wrappable,omitempty"`
}

// A KeysConfig is the [keys] table: PKCS#11 URIs with the object (label) or
// the id of each key, or both, as in "pkcs11:object=chancery-ca-1". Labels are
// init's own unless keys were made otherwise.
type KeysConfig struct {
	CA       string `toml:"ca,omitempty"`
	NextCA   string `toml:"next_ca,omitempty"`
	Approval string `toml:"approval,omitempty"`
	X509     string `toml:"x509,omitempty"`
}

// A Duration is written as Go writes one: 168h, 90s.
type Duration = tomlkeys.Duration

func defaultConfig() Config {
	return Config{
		Listen:          ":8443",
		EnrollRate:      20,
		CertificateLife: Duration(7 * 24 * time.Hour),
		CRLLife:         Duration(time.Hour),
		Heartbeat:       Duration(2 * time.Minute),
		ReattestWindow:  Duration(90 * 24 * time.Hour),
		Keys:            KeysConfig{CA: keyURI(labelCA), NextCA: keyURI(labelNextCA), Approval: keyURI(labelApproval), X509: keyURI(labelX509)},
	}
}

func keyURI(label string) string { return hsm.URI{Object: label}.String() }

// The files in the data directory.
type dataDir string

func (d dataDir) config() string     { return filepath.Join(string(d), "chancery.toml") }
func (d dataDir) store() string      { return filepath.Join(string(d), "chancery.db") }
func (d dataDir) tlsKey() string     { return filepath.Join(string(d), "tls.pem") }
func (d dataDir) socket() string     { return filepath.Join(string(d), "admin.sock") }
func (d dataDir) pointer() string    { return filepath.Join(string(d), "pointer") }
func (d dataDir) policy() string     { return filepath.Join(string(d), "policy.toml") }
func (d dataDir) ekRoots() string    { return filepath.Join(string(d), "ek-roots") }
func (d dataDir) transcript() string { return filepath.Join(string(d), "transcript") }
func (d dataDir) softhsm() string    { return filepath.Join(string(d), "softhsm") }
func (d dataDir) anchor(c *Config) anchor.Place {
	name := cmp.Or(c.Anchor, "anchor")
	if !filepath.IsAbs(name) && !strings.HasPrefix(name, "tpm:") {
		name = filepath.Join(string(d), name)
	}
	return anchor.At(name)
}
func (d dataDir) latch() hsm.Latch { return hsm.Latch(filepath.Join(string(d), "latch")) }

func (d dataDir) loadConfig() (Config, error) {
	c := defaultConfig()
	b, err := os.ReadFile(d.config())
	if errors.Is(err, fs.ErrNotExist) {
		return c, cli.Failure("run: chancery init --data "+string(d), "there is no coordinator in %s", d)
	}
	if err != nil {
		return c, err
	}
	if err := strictTOML(d.config(), b, &c); err != nil {
		return c, err
	}
	return c, c.check()
}

// maxWitnessWait is below the time that a node's request may take.
const maxWitnessWait = 20 * time.Second

func (c *Config) check() error {
	switch {
	case len(c.HSM) == 0:
		return cli.Usage("[[hsm]]\n      uri = \"pkcs11:token=...?module-path=...&pin-source=...\"", "the configuration names no token")
	case c.Heartbeat <= 0 || 2*c.Heartbeat > c.CRLLife:
		return cli.Usage("", "heartbeat %s must be longer than 0 and at most half of crl_life %s", time.Duration(c.Heartbeat), time.Duration(c.CRLLife))
	case c.DNSSuffix != "" && chancery.ValidateName(c.DNSSuffix) != nil:
		return cli.Usage("as in nodes.example", "dns_suffix: %v", chancery.ValidateName(c.DNSSuffix))
	case c.WitnessWait < 0 || time.Duration(c.WitnessWait) > maxWitnessWait:
		return cli.Usage("0s is no waiting", "witness_wait %s must be between 0s and %s", time.Duration(c.WitnessWait), maxWitnessWait)
	case c.WitnessWait > 0 && len(c.Witness) == 0:
		return cli.Usage("name one in a [[witness]] table", "witness_wait is %s and there is no witness", time.Duration(c.WitnessWait))
	case c.EnrollRate < 0:
		return cli.Usage("0 is no limit", "enroll_rate %v must not be below 0", c.EnrollRate)
	}
	return c.checkTokens()
}

func (c *Config) write(file string) error {
	b, err := toml.Marshal(c)
	if err != nil {
		return err
	}
	return durable.WriteFile(file, b)
}

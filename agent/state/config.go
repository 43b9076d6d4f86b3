package state

import (
	"bytes"
	"crypto/ecdsa"
	"fmt"
	"net"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
	"github.com/chancery-pki/chancery/internal/tomlkeys"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A Config is what an agent has to be told. The enrolment writes it; operators
// edit what is not the node's name, fleet and chip.
type Config struct {
	Name      string   `toml:"name" comment:"name of the node, as in its certificate"`
	Fleet     string   `toml:"fleet" comment:"pin of the fleet"`
	TPM       string   `toml:"tpm" comment:"device of the TPM: /dev/tpmrm0, or swtpm:/path/to/socket"`
	PCRs      []int    `toml:"pcrs" comment:"PCRs that the node quotes, and that a sealed key is sealed to"`
	PINFile   string   `toml:"key_pin_file,omitempty" comment:"file with the PIN of N:SK, for a key that asks for one"`
	EventLog  string   `toml:"event_log,omitempty" comment:"file with the boot's event log; empty: where Linux has it"`
	Listen    string   `toml:"listen" comment:"where the node listens for its peers, host:port"`
	Witnesses []string `toml:"witnesses,omitempty" comment:"verifier keys of the witnesses whose cosignatures peers' certificates must have"`
	Quorum    int      `toml:"witness_quorum,omitempty" comment:"how many of the witnesses; 0 is all"`
	Grace     string   `toml:"crl_grace,omitempty" comment:"how long after the end of the CRL peers are accepted that were good before, as in 30m; at most 24h, empty: not at all"`
	Advertise string   `toml:"advertise" comment:"where peers reach the node, host:port; empty: the address that it reaches the coordinator from"`

	Session string `toml:"session,omitempty" comment:"'tpm' has the chip sign in each handshake; by default it certifies a key for them, once an hour"`

	ProgramsSocket string `toml:"programs_socket,omitempty" comment:"Unix socket at which programs have a share in the node's identity; empty: none"`
	SPIFFESocket   string `toml:"spiffe_socket,omitempty" comment:"Unix socket of the SPIFFE Workload API and of Envoy's SDS; empty: none"`

	// What follows is read again by chancery-agent reload.

	Addresses map[string]string `toml:"addresses,omitempty" comment:"where peers are, NODE = 'HOST:PORT', before anybody is asked"`
	Programs  []local.Rule      `toml:"program,omitempty" comment:"who may use programs_socket and spiffe_socket, beside the agent's own user"`
	Forward   []Relay           `toml:"forward,omitempty"`
	Expose    []Relay           `toml:"expose,omitempty"`
}

// SessionTPM has N:SK be the TLS key.
const SessionTPM = "tpm"

// DefaultListen is where a node listens for its peers unless told otherwise.
const DefaultListen = ":7443"

// Pin returns the fleet.
func (c *Config) Pin() (chancery.FleetID, error) { return chancery.ParsePin(c.Fleet) }

// maxGrace bounds how long a node may go on without a fresh CRL.
const maxGrace = 24 * time.Hour

// Policy returns what is asked of every peer: the cosignatures of witnesses, and
// the grace.
func (c *Config) Policy() (p chancery.Policy, err error) {
	if c.Grace != "" {
		if p.Grace, err = time.ParseDuration(c.Grace); err != nil {
			return p, fmt.Errorf("crl_grace: %w", err)
		}
		if p.Grace < 0 || p.Grace > maxGrace {
			return p, fmt.Errorf("crl_grace %s: want 0s to %s", p.Grace, maxGrace)
		}
	}
	for _, vkey := range c.Witnesses {
		k, err := tlog.ParseKey(vkey)
		if err != nil {
			return p, fmt.Errorf("witnesses: %w", err)
		}
		public, ok := k.Public().(*ecdsa.PublicKey)
		if !ok || k.CosignerID().IsZero() {
			return p, fmt.Errorf("witnesses: the key of %s is for checkpoints; the one for certificates has a name like oid/1.3.6.1.4.1.32473.9", k.Name())
		}
		key, err := chancery.NewPublicKey(public)
		if err != nil {
			return p, fmt.Errorf("witnesses: %w", err)
		}
		p.Witnesses = append(p.Witnesses, chancery.WitnessKey{ID: k.CosignerID(), Key: key})
	}
	if p.Quorum = c.Quorum; c.Quorum == 0 {
		p.Quorum = len(p.Witnesses)
	}
	if p.Quorum < 0 || p.Quorum > len(p.Witnesses) {
		return p, fmt.Errorf("witness_quorum %d of %d witnesses", c.Quorum, len(p.Witnesses))
	}
	return p, nil
}

// Config returns the configuration. Unknown keys are errors.
func (d *Dir) Config() (*Config, error) { return read(d, "agent.toml", parseConfig) }

// SaveConfig replaces the configuration.
func (d *Dir) SaveConfig(c *Config) error {
	b, err := toml.Marshal(c)
	if err != nil {
		return err
	}
	return d.write("agent.toml", b)
}

func parseConfig(b []byte) (*Config, error) {
	c := &Config{Listen: DefaultListen}
	if err := tomlkeys.Check(b, c); err != nil {
		return nil, err
	}
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, err
	}
	if err := chancery.ValidateName(c.Name); err != nil {
		return nil, err
	}
	if _, err := c.Pin(); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	if _, err := c.Policy(); err != nil {
		return nil, err
	}
	if c.Session != "" && c.Session != SessionTPM {
		return nil, fmt.Errorf("session is %q, want %q or nothing", c.Session, SessionTPM)
	}
	for name, address := range c.Addresses {
		if err := chancery.ValidateName(name); err != nil {
			return nil, fmt.Errorf("addresses: %w", err)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("addresses: %s: %w", name, err)
		}
	}
	for i := range c.Programs {
		if err := c.Programs[i].Check(); err != nil {
			return nil, err
		}
	}
	listens := map[string]bool{}
	for _, list := range []struct {
		relays []Relay
		check  func(*Relay) error
	}{{c.Forward, (*Relay).CheckForward}, {c.Expose, (*Relay).CheckExpose}} {
		for i := range list.relays {
			r := &list.relays[i]
			if err := list.check(r); err != nil {
				return nil, err
			}
			if listens[r.Listen] {
				return nil, fmt.Errorf("two relays listen at %s", r.Listen)
			}
			listens[r.Listen] = true
		}
	}
	return c, nil
}

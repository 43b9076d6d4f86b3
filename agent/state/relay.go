package state

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/forward"
	"github.com/chancery-pki/chancery/internal/tomlkeys"
)

// A Relay is one connection after another of programs that know nothing of the
// fleet, see package forward.
type Relay struct {
	Listen         string            `toml:"listen" json:"listen" comment:"HOST:PORT; of a forward also unix:PATH"`
	To             string            `toml:"to" json:"to" comment:"of a forward NODE:PORT, where the node exposes it; of an expose HOST:PORT or unix:PATH of the program"`
	Allow          []string          `toml:"allow,omitempty" json:"allow,omitempty" comment:"of an expose: whom to let in, as in 'role:web', 'name:db-* assurance:ek-verified' or 'any'; nobody without"`
	ProxyProtocol  bool              `toml:"proxy_protocol,omitempty" json:"proxy_protocol,omitempty" comment:"of an expose: tell the program the peer's address and name by a PROXY protocol header"`
	MaxConnections int               `toml:"max_connections,omitempty" json:"max_connections,omitempty" comment:"at a time; more are reset"`
	ConnectTimeout tomlkeys.Duration `toml:"connect_timeout,omitempty" json:"connect_timeout,omitempty" comment:"for the way to the other side"`
	IdleTimeout    tomlkeys.Duration `toml:"idle_timeout,omitempty" json:"idle_timeout,omitempty" comment:"without a byte in either direction; 0s: for ever"`
	DrainTimeout   tomlkeys.Duration `toml:"drain_timeout,omitempty" json:"drain_timeout,omitempty" comment:"for connections to end when the agent stops"`
}

// Limits returns the relay's limits.
func (r *Relay) Limits() forward.Limits {
	return forward.Limits{Connections: r.MaxConnections, Connect: time.Duration(r.ConnectTimeout), Idle: time.Duration(r.IdleTimeout), Drain: time.Duration(r.DrainTimeout)}
}

// CheckForward tells whether it is one that forwards.
func (r *Relay) CheckForward() error {
	if len(r.Allow) > 0 || r.ProxyProtocol {
		return fmt.Errorf("forward at %s: allow and proxy_protocol are of an expose", r.Listen)
	}
	if _, _, err := r.Node(); err != nil {
		return fmt.Errorf("forward at %s: %w", r.Listen, err)
	}
	return r.check("forward")
}

// CheckExpose tells whether it is one that exposes.
func (r *Relay) CheckExpose() error {
	if network, _, err := forward.ParseAddress(r.Listen); err == nil && network != "tcp" {
		return fmt.Errorf("expose at %s: other nodes do not reach a Unix socket", r.Listen)
	}
	if _, _, err := forward.ParseAddress(r.To); err != nil {
		return fmt.Errorf("expose at %s: %w", r.Listen, err)
	}
	if _, err := forward.ParseRules(r.Allow); err != nil {
		return fmt.Errorf("expose at %s: %w", r.Listen, err)
	}
	return r.check("expose")
}

func (r *Relay) check(what string) error {
	if _, _, err := forward.ParseAddress(r.Listen); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.MaxConnections < 0 || r.ConnectTimeout < 0 || r.IdleTimeout < 0 || r.DrainTimeout < 0 {
		return fmt.Errorf("%s at %s: a limit is below 0", what, r.Listen)
	}
	return nil
}

// Node splits where a forward leads.
func (r *Relay) Node() (name, port string, err error) {
	name, port, err = net.SplitHostPort(r.To)
	if err == nil {
		err = chancery.ValidateName(name)
	}
	if e, ok := errors.AsType[*net.AddrError](err); ok {
		err = errors.New(e.Err) // which names the address too
	}
	if err != nil {
		return "", "", fmt.Errorf("to %q is not NODE:PORT: %w", r.To, err)
	}
	return name, port, nil
}

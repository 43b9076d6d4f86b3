package run

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
)

// changes tells programs that what the agent trusts has changed, or the N:C that
// it shows. The zero value is ready.
type changes struct {
	// mu guards next, which is closed with the next change.
	mu   sync.Mutex
	next chan struct{}
}

func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// programs is the agent as package local sees it.
type programs struct{ *agent }

func (p programs) Trust() (chancery.Trust, error, <-chan struct{}) {
	changed := p.changes.wait() // before the look: what changes after it is not missed
	return p.verifier.Trust(), *p.suspended.Load(), changed
}

func (p programs) Refresh(ctx context.Context) error { return p.newerCRL(ctx) }

func (p programs) Certify(ctx context.Context, key chancery.PublicKey) (*local.Session, error) {
	nc := p.nc.Load()
	der, from, until, err := p.newSession(ctx, nc, key)
	if err != nil {
		return nil, err
	}
	return &local.Session{Session: der, NC: nc.Raw(), NotBefore: from, NotAfter: until}, nil
}

// A nodeKey is N:SK as it is loaded at the moment.
type nodeKey struct{ *agent }

func (k nodeKey) PublicKey() chancery.PublicKey { return k.key.Load().PublicKey() }

func (k nodeKey) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	return k.key.Load().Sign(ctx, fleet, s)
}

// listenPrograms makes the socket for programs, if the configuration has one.
func (a *agent) listenPrograms() (net.Listener, error) {
	if a.config.ProgramsSocket == "" {
		return nil, nil
	}
	l, err := local.Listen(a.config.ProgramsSocket)
	if err != nil {
		return nil, &socketError{err}
	}
	return l, nil
}

// servePrograms answers programs until ctx ends.
func (a *agent) servePrograms(ctx context.Context, l net.Listener) error {
	return local.Serve(ctx, l, local.Config{Source: programs{a}, Name: a.config.Name, Logger: a.Logger, Allow: func(c local.Caller) bool {
		rules := *a.rules.Load()
		return c.UID == uint32(os.Geteuid()) || slices.ContainsFunc(rules, func(r local.Rule) bool { return r.Allows(c) })
	}})
}

// newSession has N:SK certify a session key (docs/protocol.md section 7).
func (a *agent) newSession(ctx context.Context, nc *chancery.Certificate, key chancery.PublicKey) (der []byte, from, until time.Time, err error) {
	from = a.clock().UTC().Truncate(time.Second)
	if from.Before(nc.NotBefore) {
		from = nc.NotBefore
	}
	until = from.Add(chancery.DefaultSessionLife)
	if until.After(nc.NotAfter) {
		until = nc.NotAfter
	}
	tbs, err := chancery.NewSession(nc, key, newSerial(), from, until)
	if err != nil {
		return nil, from, until, err
	}
	// An X.509 signature carries no fleet; N:C above it does.
	sig, err := a.key.Load().Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return nil, from, until, err
	}
	return tbs.Certificate(nc.NodeKey.Suite(), sig), from, until, nil
}

package run

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
)

// changes tells programs that what the agent trusts has changed. The zero
// value is ready.
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
	return p.verifier.Trust(), p.suspension(), changed
}

func (p programs) Refresh(ctx context.Context) error { return p.fetchCRL(ctx) }

func (p programs) Certify(ctx context.Context, key chancery.PublicKey) (*local.Session, error) {
	var s *local.Session
	err := p.withKey(ctx, func() (err error) {
		s, err = p.certifyProgram(ctx, key)
		return err
	})
	if err != nil {
		return nil, err // s may still be written to
	}
	return s, nil
}

// errChipBusy: the key loop has something else to do.
var errChipBusy = errors.New("the chip is busy, or does not sign: see chancery-agent status")

// withKey has the key loop, the only user of the chip, do something.
func (a *agent) withKey(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	select {
	case a.work <- func() { done <- do() }:
	case <-ctx.Done():
		return errChipBusy
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A nodeKey is N:SK, for whoever is not the key loop.
type nodeKey struct{ *agent }

func (k nodeKey) PublicKey() chancery.PublicKey { return k.nc.Load().NodeKey }

func (k nodeKey) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	var signed chancery.Signature
	err := k.withKey(ctx, func() (err error) {
		signed, err = k.key.Sign(ctx, fleet, s)
		return err
	})
	if err != nil {
		return nil, err // signed may still be written to
	}
	return signed, nil
}

// certifyProgram certifies a program's key.
func (a *agent) certifyProgram(ctx context.Context, key chancery.PublicKey) (*local.Session, error) {
	nc := a.nc.Load()
	der, from, until, err := a.newSession(ctx, nc, key)
	if err != nil {
		return nil, err
	}
	return &local.Session{Session: der, NC: nc.Raw(), NotBefore: from, NotAfter: until}, nil
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
	sig, err := a.key.Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return nil, from, until, err
	}
	return tbs.Certificate(a.key.PublicKey().Suite(), sig), from, until, nil
}

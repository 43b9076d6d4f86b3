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
	"github.com/chancery-pki/chancery/agent/spiffe"
)

// changes tells that what the agent trusts has changed, the N:C that it shows, or
// the rules for programs. The zero value is ready.
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

// Follow gives programs the X.509 certificate with a software key: they sign
// with it themselves.
func (p programs) Follow(ctx context.Context, look func(*spiffe.SVID, error) error) error {
	return p.followX509(ctx, KeySoftware, func(id *x509Identity, list *x509List, err error) error {
		if id == nil || list == nil {
			return look(nil, err)
		}
		return look(&spiffe.SVID{
			ID: id.nc.SPIFFEID(), TrustDomain: "spiffe://" + id.nc.TrustDomain,
			Certificate: id.certificate.Raw, Key: id.pkcs8, Bundle: id.issuer.Raw, CRL: list.Raw,
		}, err)
	})
}

// A programSocket is where programs are answered.
type programSocket struct {
	net.Listener
	serve func(context.Context, net.Listener) error
}

// listenPrograms makes the sockets for programs that the configuration has.
func (a *agent) listenPrograms() (sockets []programSocket, err error) {
	for _, s := range []struct {
		path  string
		serve func(context.Context, net.Listener) error
	}{{a.config.ProgramsSocket, a.servePrograms}, {a.config.SPIFFESocket, a.serveSPIFFE}} {
		if s.path == "" {
			continue
		}
		l, err := local.Listen(s.path)
		if err != nil {
			for _, s := range sockets {
				s.Close()
			}
			return nil, &socketError{err}
		}
		sockets = append(sockets, programSocket{l, s.serve})
	}
	return sockets, nil
}

// servePrograms answers programs that know this fleet until ctx ends.
func (a *agent) servePrograms(ctx context.Context, l net.Listener) error {
	return local.Serve(ctx, l, local.Config{Source: programs{a}, Name: a.config.Name, Logger: a.Logger, Allow: a.allows})
}

// serveSPIFFE answers those that know SPIFFE.
func (a *agent) serveSPIFFE(ctx context.Context, l net.Listener) error {
	return spiffe.Serve(ctx, l, spiffe.Config{Source: programs{a}, Allow: a.allows, Logger: a.Logger})
}

// allows tells whether a program may have a share in the node's identity.
func (a *agent) allows(c local.Caller) bool {
	rules := *a.rules.Load()
	return c.UID == uint32(os.Geteuid()) || slices.ContainsFunc(rules, func(r local.Rule) bool { return r.Allows(c) })
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

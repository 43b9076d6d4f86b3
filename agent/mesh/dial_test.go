package mesh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

func TestSessionKnowsBothEnds(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("edge-1"), w.enroll("edge-2")
	dialled, accepted := pair(t, a, b)
	checkAlive(t, dialled, accepted)
	for _, end := range []struct {
		session *mesh.Session
		at      *member
		peer    *member
		inbound bool
	}{{dialled, a, b, false}, {accepted, b, a, true}} {
		if p := end.session.Peer(); p.Name != end.peer.paper.Name || p.NodeID != end.peer.paper.ID {
			t.Errorf("%s sees %s %s", end.at.paper.Name, p.Name, p.NodeID)
		}
		live := end.at.Sessions()
		if len(live) != 1 {
			t.Fatalf("%s has %d sessions", end.at.paper.Name, len(live))
		}
		info := live[0]
		if info.Peer != end.peer.paper.Name || info.NodeID != end.peer.paper.ID || info.Inbound != end.inbound ||
			info.Serial != end.peer.paper.NC.Serial.String() || info.Remote != end.session.RemoteAddr().String() {
			t.Errorf("%s describes its session as %+v", end.at.paper.Name, info)
		}
		if want := info.Opened.Add(mesh.DefaultMaxSession); !info.Ends.Equal(want) {
			t.Errorf("session ends %s, want %s", info.Ends, want)
		}
	}
	if s := a.Stats(); s.Dialled != 1 || s.Accepted != 0 || s.Live != 1 {
		t.Errorf("dialler counts %+v", s)
	}
	if s := b.Stats(); s.Dialled != 0 || s.Accepted != 1 || s.Live != 1 {
		t.Errorf("responder counts %+v", s)
	}
}

// Each side refuses what it must. The dialler learns the reason of its own
// refusals; of the responder's it learns that there was one.
func TestRefusals(t *testing.T) {
	const localhost = "127.0.0.1:0"
	for _, test := range []struct {
		name string
		// make returns the two nodes and the name to dial.
		make func(w *world) (from, to *member, want string)
		// byDialler is the dialler's own reason, or nil.
		byDialler error
		refusal   mesh.Refusal // counted by whoever refuses
	}{
		{
			name: "dialler is revoked",
			make: func(w *world) (from, to *member, want string) {
				from, to = w.enroll("a"), w.enroll("b")
				to.update(w.revoke(from))
				return from, to, "b"
			},
			refusal: mesh.Refusal{Check: chancery.CheckCRL, Reason: "revoked"},
		},
		{
			name: "responder is revoked",
			make: func(w *world) (from, to *member, want string) {
				from, to = w.enroll("a"), w.enroll("b")
				from.update(w.revoke(to))
				return from, to, "b"
			},
			byDialler: chancery.ErrRevoked,
			refusal:   mesh.Refusal{Check: chancery.CheckCRL, Reason: "revoked"},
		},
		{
			name: "another node answers",
			make: func(w *world) (from, to *member, want string) {
				return w.enroll("a"), w.enroll("b"), "c"
			},
			byDialler: chancery.ErrWrongPeer,
			refusal:   mesh.Refusal{Check: chancery.CheckName, Reason: "wrong-name"},
		},
		{
			name: "the node itself answers",
			make: func(w *world) (from, to *member, want string) {
				a := w.enroll("a")
				return a, a, "a"
			},
			byDialler: chancery.ErrSelf,
			refusal:   mesh.Refusal{Check: chancery.CheckSelf, Reason: "self"},
		},
		{
			name: "dialler lacks a role",
			make: func(w *world) (from, to *member, want string) {
				return w.enroll("a"), w.enroll("b", func(c *mesh.Config) { c.Policy.Roles = []string{"gateway"} }), "b"
			},
			refusal: mesh.Refusal{Check: chancery.CheckPolicy, Reason: "role"},
		},
		{
			name: "responder's chip is a simulator",
			make: func(w *world) (from, to *member, want string) {
				return w.enroll("a", func(c *mesh.Config) { c.Policy.RefuseSimulator = true }), w.enroll("b"), "b"
			},
			byDialler: chancery.ErrSimulator,
			refusal:   mesh.Refusal{Check: chancery.CheckPolicy, Reason: "simulator"},
		},
		{
			name: "dialler is of another fleet",
			make: func(w *world) (from, to *member, want string) {
				other := newWorld(w.t, fleet.Options{})
				to = w.enroll("b")
				trusting := chancery.NewVerifier(w.Trust())
				return other.enroll("a", func(c *mesh.Config) { c.Verifier = trusting }), to, "b"
			},
			refusal: mesh.Refusal{Check: chancery.CheckNS, Reason: "signature"},
		},
		{
			name: "responder's certificate has ended",
			make: func(w *world) (from, to *member, want string) {
				to = w.enroll("b")
				id, err := to.paper.Identity()
				if err != nil {
					w.t.Fatal(err)
				}
				to = w.start(to.paper, func(c *mesh.Config) {
					c.Identity = func() (*chancery.Identity, error) { return id, nil }
				})
				w.advance(8 * 24 * time.Hour)
				w.publish()
				return w.enroll("a"), to, "b"
			},
			byDialler: chancery.ErrNotValidNow,
			refusal:   mesh.Refusal{Check: chancery.CheckNC, Reason: "not-valid-now"},
		},
		{
			name: "responder has no CRL",
			make: func(w *world) (from, to *member, want string) {
				bare := chancery.NewVerifier(chancery.Trust{Pointer: w.Trust().Pointer})
				return w.enroll("a"), w.enroll("b", func(c *mesh.Config) { c.Verifier = bare }), "b"
			},
			refusal: mesh.Refusal{Check: chancery.CheckCRL, Reason: "crl-missing"},
		},
		{
			name: "dialler's CRL is stale",
			make: func(w *world) (from, to *member, want string) {
				from, to = w.enroll("a"), w.enroll("b")
				from.update(w.publish()) // a list that knows both
				w.advance(2 * time.Hour)
				return from, to, "b"
			},
			byDialler: chancery.ErrCRLStale,
			refusal:   mesh.Refusal{Check: chancery.CheckCRL, Reason: "crl-stale"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			from, to, want := test.make(newWorld(t, fleet.Options{}))
			l, err := to.Listen("tcp", localhost)
			if err != nil {
				t.Fatal(err)
			}
			s, err := from.dial(l, want)
			if s != nil || err == nil {
				t.Fatalf("Dial returned %v, %v", s, err)
			}
			refuser := from
			if test.byDialler != nil {
				checkRefused(t, err, test.refusal.Check, test.byDialler)
			} else {
				byPeer, ok := errors.AsType[*mesh.RefusedByPeerError](err)
				if !ok || byPeer.Alert != "bad certificate" {
					t.Errorf("%v, want a refusal by the peer: bad certificate", err)
				}
				refuser = to
				l.Close() // returns when the refusal has been counted
			}
			if n := refuser.Stats().Refused[test.refusal]; n != 1 {
				t.Errorf("counted %v, want one %v", refuser.Stats().Refused, test.refusal)
			}
			for _, m := range []*member{from, to} {
				if s := m.Stats(); s.Accepted+s.Dialled != 0 || s.Live != 0 {
					t.Errorf("%s counts %+v: a refused peer had a session", m.paper.Name, s)
				}
			}
		})
	}
}

func TestDialWantsAName(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	_, err := a.dial(b.listen(), "")
	checkIs(t, err, chancery.ErrName)
}

// selfSigned is the certificate of somebody who never enrolled.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// recorded is what anybody can show who saw a node's handshake: its
// certificates, with a key that is not theirs.
func recorded(t *testing.T, from *fleet.Node) tls.Certificate {
	t.Helper()
	id, err := from.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{id.Session, id.NC.Raw()}, PrivateKey: selfSigned(t).PrivateKey}
}

// Nobody gets in without a certificate of the fleet and its key.
func TestStrangersAreRefused(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a := w.enroll("a")
	for _, test := range []struct {
		name    string
		config  *tls.Config
		refusal *mesh.Refusal // nil: counted as broken
	}{
		{"self-signed certificate", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}, &mesh.Refusal{Check: chancery.CheckParse, Reason: "not-n-c"}},
		{"recorded certificates", &tls.Config{Certificates: []tls.Certificate{recorded(t, a.paper)}}, &mesh.Refusal{Check: chancery.CheckChannel, Reason: "possession"}},
		{"no certificate", &tls.Config{}, nil},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, MaxVersion: tls.VersionTLS12}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := w.enroll("b")
			l := b.listen()
			c := test.config.Clone()
			c.InsecureSkipVerify, c.NextProtos = true, []string{chancery.ALPN}
			conn, err := tls.Dial("tcp", l.Addr().String(), c)
			if err == nil { // TLS 1.3: this side is done before it is judged
				defer conn.Close()
				var greeting [1]byte
				if _, err = conn.Read(greeting[:]); err == nil {
					t.Fatalf("greeted with %d", greeting)
				}
			}
			t.Log(err)
			l.Close()
			s := b.Stats()
			if test.refusal != nil && s.Refused[*test.refusal] != 1 || test.refusal == nil && s.Broken != 1 {
				t.Errorf("counted %+v, want one %v", s, test.refusal)
			}
			if s.Accepted != 0 || s.Live != 0 {
				t.Errorf("the stranger had a session: %+v", s)
			}
		})
	}
}

// respond runs a responder that the test plays itself: a TLS server with the
// certificate, and greet for what comes after the handshake.
func respond(t *testing.T, o chancery.TLSOptions, show *tls.Certificate, greet func(net.Conn)) net.Listener {
	t.Helper()
	config := chancery.ServerConfig(o)
	if show != nil {
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return show, nil }
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if conn.(*tls.Conn).Handshake() == nil {
			greet(conn)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

func (m *member) tlsOptions() chancery.TLSOptions {
	return chancery.TLSOptions{Verifier: m.verifier, Identity: m.paper.Identity, Now: m.config.Now, Self: m.paper.ID}
}

// A responder that shows recorded certificates of the wanted node.
func TestDialRefusesRecordedCertificates(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	show := recorded(t, b.paper)
	l := respond(t, b.tlsOptions(), &show, func(net.Conn) {})
	_, err := a.dial(l, "b")
	checkRefused(t, err, chancery.CheckChannel, mesh.ErrPossession)
	if s := a.Stats(); s.Refused[mesh.Refusal{Check: chancery.CheckChannel, Reason: "possession"}] != 1 || s.Live != 0 {
		t.Errorf("counted %+v", s)
	}
}

// The TLS handshake is not enough: Dial believes only the greeting.
func TestDialWaitsForTheGreeting(t *testing.T) {
	for _, test := range []struct {
		name  string
		greet func(net.Conn)
		check func(*testing.T, error)
	}{
		{"closed in order", func(net.Conn) {}, func(t *testing.T, err error) {
			checkIs(t, err, mesh.ErrNotReady)
			checkIs(t, err, io.EOF)
		}},
		{"hung up", func(c net.Conn) { c.(*tls.Conn).NetConn().Close() }, func(t *testing.T, err error) { checkIs(t, err, mesh.ErrNotReady) }},
		{"another byte", func(c net.Conn) { c.Write([]byte("H")) }, func(t *testing.T, err error) { checkIs(t, err, mesh.ErrNotReady) }},
		{"refused", func(c net.Conn) { c.Write([]byte{2}) }, func(t *testing.T, err error) {
			if byPeer, ok := errors.AsType[*mesh.RefusedByPeerError](err); !ok || byPeer.Alert != "" || byPeer.Hint() == "" {
				t.Errorf("%v, want a refusal by the peer after the handshake", err)
			}
		}},
		{"silence", func(c net.Conn) { io.Copy(io.Discard, c) }, func(t *testing.T, err error) { checkIs(t, err, context.DeadlineExceeded) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, fleet.Options{})
			a, b := w.enroll("a"), w.enroll("b")
			l := respond(t, b.tlsOptions(), nil, test.greet)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			s, err := a.Dial(ctx, "tcp", l.Addr().String(), "b")
			if s != nil {
				t.Fatal("Dial returned a session")
			}
			test.check(t, err)
			if s := a.Stats(); s.Dialled != 0 || s.Live != 0 {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// What the peer sends right behind its greeting is not lost.
func TestFirstWordsAfterTheGreeting(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	l := respond(t, b.tlsOptions(), nil, func(c net.Conn) { c.Write([]byte("\x01hello")) })
	s, err := a.dial(l, "b")
	if err != nil {
		t.Fatal(err)
	}
	if words, err := io.ReadAll(s); string(words) != "hello" || err != nil {
		t.Errorf("heard %q, %v", words, err)
	}
}

// Certificates that travelled in a batch are held by everybody in the fleet;
// so is every proof. A node must not be able to talk as its neighbour.
func TestNeighbourInTheBatch(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	nodes, err := w.Enroll(fleet.Request{Name: "a"}, fleet.Request{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	victim, err := nodes[1].Identity()
	if err != nil {
		t.Fatal(err)
	}
	own, err := nodes[0].Identity()
	if err != nil {
		t.Fatal(err)
	}
	// a's session certificate over b's N:C.
	a := w.start(nodes[0], func(c *mesh.Config) {
		c.Identity = func() (*chancery.Identity, error) {
			return &chancery.Identity{Session: own.Session, NC: victim.NC, Key: own.Key}, nil
		}
	})
	c := w.enroll("c")
	l := c.listen()
	_, err = a.dial(l, "c")
	if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); !ok {
		t.Errorf("%v, want a refusal by the peer", err)
	}
	l.Close()
	if s := c.Stats(); s.Refused[mesh.Refusal{Check: chancery.CheckSession, Reason: "session-certificate"}] != 1 {
		t.Errorf("counted %+v", s)
	}
}

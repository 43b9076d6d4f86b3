package chancery

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// options are those of an honest node of the world.
func (w *world) options(n *node) TLSOptions {
	id := &Identity{Session: n.certificate, NC: n.nc, Key: n.session.PrivateKey}
	return TLSOptions{
		Verifier: NewVerifier(w.trust()),
		Identity: func() (*Identity, error) { return id, nil },
		Now:      func() time.Time { return w.now },
		Self:     n.nc.NodeID(w.fleet()),
	}
}

// An outcome is how a connection ended for its two sides.
type outcome struct {
	client, server       error
	clientState, atState tls.ConnectionState
}

// connect runs one connection on loopback: handshake, one byte each way. An
// error of the handshake on one side becomes an error of the other's first
// read, as TLS 1.3 has it.
func connect(t *testing.T, client, server *tls.Config) (o outcome) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	run := func(c *tls.Conn, state *tls.ConnectionState) error {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := c.Handshake(); err != nil {
			return err
		}
		*state = c.ConnectionState()
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			o.server = err
			return
		}
		o.server = run(tls.Server(c, server), &o.atState)
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o.client = run(tls.Client(c, client), &o.clientState)
	wg.Wait()
	return o
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	one, two := w.enroll("edge-1"), w.enroll("edge-2")
	dialler, listener := w.options(two), w.options(one)
	o := connect(t, ClientConfig(dialler, "edge-1"), ServerConfig(listener))
	if o.client != nil || o.server != nil {
		t.Fatalf("client: %v; server: %v", o.client, o.server)
	}
	for _, side := range []struct {
		options TLSOptions
		state   tls.ConnectionState
		want    string
	}{{dialler, o.clientState, "edge-1"}, {listener, o.atState, "edge-2"}} {
		p, err := side.options.VerifyConnection(side.state, "")
		if err != nil || p.Name != side.want {
			t.Errorf("peer is %v, %v, want %s", p, err, side.want)
		}
		if s := side.state; s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != ALPN || s.DidResume || s.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%s: version %x, protocol %q, resumed %t, key exchange %s", side.want, s.Version, s.NegotiatedProtocol, s.DidResume, s.CurveID)
		}
	}
}

// session = "tpm": N:C alone, and N:SK is the TLS key.
func TestTLSWithNodeKey(t *testing.T) {
	w := newWorld(t)
	one, two := w.enroll("edge-1"), w.enroll("edge-2")
	direct := func(n *node) TLSOptions {
		o := w.options(n)
		o.Identity = func() (*Identity, error) { return &Identity{NC: n.nc, Key: n.key.PrivateKey}, nil }
		return o
	}
	for name, side := range map[string][2]TLSOptions{
		"both":     {direct(two), direct(one)},
		"dialler":  {direct(two), w.options(one)},
		"listener": {w.options(two), direct(one)},
	} {
		if o := connect(t, ClientConfig(side[0], "edge-1"), ServerConfig(side[1])); o.client != nil || o.server != nil {
			t.Errorf("%s: client: %v; server: %v", name, o.client, o.server)
		}
	}
}

// Each refusal ends the connection on both sides, and the side that refuses
// says why.
func TestTLSRefuses(t *testing.T) {
	w := newWorld(t)
	one, two, three := w.enroll("edge-1"), w.enroll("edge-2"), w.enroll("edge-3")
	w.revoke(three.nc)
	w.publish()
	for _, test := range []struct {
		name           string
		dial, listen   *node
		want           string
		client, server func(c *tls.Config)
		by             string // the side that refuses
		check          Check  // "" where crypto/tls itself refuses
		reason         error
	}{
		{name: "revoked dialler", dial: three, listen: one, want: "edge-1", by: "server", check: CheckCRL, reason: ErrRevoked},
		{name: "revoked listener", dial: two, listen: three, want: "edge-3", by: "client", check: CheckCRL, reason: ErrRevoked},
		{name: "another node answers", dial: two, listen: one, want: "edge-9", by: "client", check: CheckName, reason: ErrWrongPeer},
		{name: "connection to oneself", dial: one, listen: one, want: "edge-1", by: "client", check: CheckSelf, reason: ErrSelf},
		{name: "TLS 1.2 dialler", dial: two, listen: one, want: "edge-1", by: "server",
			client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{name: "TLS 1.2 listener", dial: two, listen: one, want: "edge-1", by: "client",
			server: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{name: "no client certificate", dial: two, listen: one, want: "edge-1", by: "server",
			client: func(c *tls.Config) {
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
			}},
		{name: "listener asks for no certificate", dial: two, listen: one, want: "edge-1", by: "server", check: CheckParse, reason: ErrNoNC,
			server: func(c *tls.Config) { c.ClientAuth = tls.NoClientCert }},
		{name: "three certificates", dial: two, listen: one, want: "edge-1", by: "server", check: CheckParse, reason: errTooMany,
			client: func(c *tls.Config) { c.GetClientCertificate = presenting(two, two.session.PrivateKey, two.nc.Raw()) }},
		{name: "only a session certificate", dial: two, listen: one, want: "edge-1", by: "server", check: CheckParse,
			client: func(c *tls.Config) {
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return &tls.Certificate{Certificate: [][]byte{two.certificate}, PrivateKey: two.session.PrivateKey}, nil
				}
			}},
		{name: "no ALPN from the dialler", dial: two, listen: one, want: "edge-1", by: "server", check: CheckChannel, reason: ErrProtocol,
			client: func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }},
		{name: "no ALPN from the listener", dial: two, listen: one, want: "edge-1", by: "client", check: CheckChannel, reason: ErrProtocol,
			server: func(c *tls.Config) { c.NextProtos = nil }},
		{name: "another protocol", dial: two, listen: one, want: "edge-1", by: "server",
			client: func(c *tls.Config) { c.NextProtos = []string{"h2"} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := ClientConfig(w.options(test.dial), test.want), ServerConfig(w.options(test.listen))
			if test.client != nil {
				test.client(client)
			}
			if test.server != nil {
				test.server(server)
			}
			o := connect(t, client, server)
			if o.client == nil || o.server == nil {
				t.Fatalf("client: %v; server: %v; want both to fail", o.client, o.server)
			}
			by, other := o.client, o.server
			if test.by == "server" {
				by, other = other, by
			}
			var r *RefusedError
			if errors.As(other, &r) {
				t.Errorf("the wrong side refuses: %v", other)
			}
			if test.check == "" {
				if errors.As(by, &r) {
					t.Errorf("%s: %v, want crypto/tls to refuse", test.by, by)
				}
				return
			}
			reason := test.reason
			if reason == nil && errors.As(by, &r) {
				reason = r.Reason
			}
			refused(t, by, test.check, reason)
		})
	}
}

// presenting is the certificate message of a node under another key, and with
// certificates added.
func presenting(n *node, key crypto.Signer, more ...[]byte) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: append(slices.Clone(n.certs()), more...), PrivateKey: key}, nil
	}
}

// Attack: N:PK, N:S and N:C are public. Whoever recorded them, the session
// certificate included, presents them on a connection of his own. All of the
// protocol's checks pass; the handshake does not, as he lacks the key.
func TestRecordedCertificatesOnAnotherConnection(t *testing.T) {
	w := newWorld(t)
	one, victim, thief := w.enroll("edge-1"), w.enroll("edge-2"), w.enroll("edge-3")
	if err := w.judge(victim.certs()); err != nil {
		t.Fatal(err)
	}

	client := ClientConfig(w.options(thief), "edge-1")
	client.GetClientCertificate = presenting(victim, thief.session.PrivateKey)
	o := connect(t, client, ServerConfig(w.options(one)))
	if o.client == nil || o.server == nil || o.atState.HandshakeComplete {
		t.Errorf("as dialler, client: %v; server: %v", o.client, o.server)
	}

	server := ServerConfig(w.options(thief))
	server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return presenting(victim, thief.session.PrivateKey)(nil)
	}
	o = connect(t, ClientConfig(w.options(one), "edge-2"), server)
	if o.client == nil || o.server == nil || o.clientState.HandshakeComplete {
		t.Errorf("as listener, client: %v; server: %v", o.client, o.server)
	}

	// With the thief's own key certified by himself it is the session check
	// that refuses: the certificate has to be the victim's N:SK's.
	tbs, err := NewSession(victim.nc, thief.session.PublicKey(), [16]byte{}, w.now, w.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	forged := &node{nc: victim.nc, certificate: tbs.Certificate(P256, thief.key.must(w.fleet(), tbs))}
	client.GetClientCertificate = presenting(forged, thief.session.PrivateKey)
	o = connect(t, client, ServerConfig(w.options(one)))
	refused(t, o.server, CheckSession, ErrSignature)
}

// A peer that was revoked since would pass a resumed handshake unchecked.
func TestNoResumption(t *testing.T) {
	w := newWorld(t)
	one, two := w.enroll("edge-1"), w.enroll("edge-2")
	client, server := ClientConfig(w.options(two), "edge-1"), ServerConfig(w.options(one))
	// An eager dialler: nothing but the listener keeps it from resuming.
	client.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.ServerName = "edge-1" // the cache's key
	for range 2 {
		if o := connect(t, client, server); o.client != nil || o.server != nil || o.clientState.DidResume || o.atState.DidResume {
			t.Fatalf("client: %v; server: %v; resumed: %t", o.client, o.server, o.atState.DidResume)
		}
	}
	// Where somebody turns tickets on, the check itself refuses.
	server.SessionTicketsDisabled = false
	if o := connect(t, client, server); o.client != nil || o.server != nil {
		t.Fatalf("client: %v; server: %v", o.client, o.server)
	}
	o := connect(t, client, server)
	if o.server == nil && o.client == nil {
		t.Fatal("the connection was resumed")
	}
	refused(t, errors.Join(o.server, o.client), CheckChannel, ErrResumed)
}

func TestVerifyConnectionLooksAtTheChannel(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	options := w.options(w.enroll("edge-2"))
	good := tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: ALPN}
	for _, der := range n.certs() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		good.PeerCertificates = append(good.PeerCertificates, c)
	}
	if _, err := options.VerifyConnection(good, "edge-1"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		change func(cs *tls.ConnectionState)
		want   error
	}{
		{func(cs *tls.ConnectionState) { cs.DidResume = true }, ErrResumed},
		{func(cs *tls.ConnectionState) { cs.Version = tls.VersionTLS12 }, ErrNotTLS13},
		{func(cs *tls.ConnectionState) { cs.NegotiatedProtocol = "" }, ErrProtocol},
	} {
		cs := good
		test.change(&cs)
		_, err := options.VerifyConnection(cs, "edge-1")
		refused(t, err, CheckChannel, test.want)
	}
	good.PeerCertificates = nil
	_, err := options.VerifyConnection(good, "edge-1")
	refused(t, err, CheckParse, ErrNoNC)
}

// An identity that is not there fails the handshake; it never goes without.
func TestTLSWithoutIdentity(t *testing.T) {
	w := newWorld(t)
	one, two := w.enroll("edge-1"), w.enroll("edge-2")
	sealed := errors.New("the chip refuses")
	broken := w.options(two)
	broken.Identity = func() (*Identity, error) { return nil, sealed }
	if o := connect(t, ClientConfig(broken, "edge-1"), ServerConfig(w.options(one))); !errors.Is(o.client, sealed) || o.server == nil {
		t.Errorf("dialler: %v; listener: %v", o.client, o.server)
	}
	if o := connect(t, ClientConfig(w.options(one), "edge-2"), ServerConfig(broken)); !errors.Is(o.server, sealed) || o.client == nil {
		t.Errorf("dialler: %v; listener: %v", o.client, o.server)
	}
}

// NextProtos carries other protocols over the same checks.
func TestTLSWithOtherProtocol(t *testing.T) {
	w := newWorld(t)
	one, two := w.options(w.enroll("edge-1")), w.options(w.enroll("edge-2"))
	one.NextProtos, two.NextProtos = []string{"h2"}, []string{"h2"}
	o := connect(t, ClientConfig(two, "edge-1"), ServerConfig(one))
	if o.client != nil || o.server != nil || o.clientState.NegotiatedProtocol != "h2" {
		t.Errorf("client: %v; server: %v; protocol %q", o.client, o.server, o.clientState.NegotiatedProtocol)
	}
}

func TestPinnedConfig(t *testing.T) {
	w := newWorld(t)
	ep := w.pointer().Endpoints[0]
	serve := func(key softKey, version uint16) *tls.Config {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "any name"}, NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
		der, err := x509.CreateCertificate(nil, template, template, key.Public(), key.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key.PrivateKey}}, MinVersion: version, MaxVersion: version}
	}
	if o := connect(t, PinnedConfig(ep, nil), serve(newKey("tls"), tls.VersionTLS13)); o.client != nil || o.server != nil {
		t.Errorf("pinned key, client: %v; server: %v", o.client, o.server)
	}
	if o := connect(t, PinnedConfig(ep, nil), serve(newKey("stranger"), tls.VersionTLS13)); !errors.Is(o.client, ErrNotOurCoordinator) || o.server == nil {
		t.Errorf("another key, client: %v; server: %v", o.client, o.server)
	}
	if o := connect(t, PinnedConfig(ep, nil), serve(newKey("tls"), tls.VersionTLS12)); o.client == nil || o.server == nil {
		t.Errorf("TLS 1.2, client: %v; server: %v", o.client, o.server)
	}
	// The pinned certificate under another key: recorded, like N:C above.
	config := serve(newKey("tls"), tls.VersionTLS13)
	config.Certificates[0].PrivateKey = newKey("stranger").PrivateKey
	if o := connect(t, PinnedConfig(ep, nil), config); o.client == nil || o.server == nil {
		t.Errorf("recorded certificate, client: %v; server: %v", o.client, o.server)
	}
}

// A renewal is made under the current N:C, an enrolment under none.
func TestPinnedConfigPresentsIdentity(t *testing.T) {
	w := newWorld(t)
	n, key := w.enroll("edge-1"), newKey("tls")
	o := w.options(n)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key.PrivateKey}},
		ClientAuth:   tls.RequestClientCert,
	}
	for name, test := range map[string]struct {
		identity func() (*Identity, error)
		want     [][]byte
	}{"enrolment": {nil, [][]byte{}}, "renewal": {o.Identity, n.certs()}} {
		got := connect(t, PinnedConfig(w.pointer().Endpoints[0], test.identity), server)
		if got.client != nil || got.server != nil || !slices.EqualFunc(rawCertificates(got.atState.PeerCertificates), test.want, bytes.Equal) {
			t.Errorf("%s, client: %v; server: %v; %d certificates", name, got.client, got.server, len(got.atState.PeerCertificates))
		}
	}
	sealed := errors.New("the chip refuses")
	broken := func() (*Identity, error) { return nil, sealed }
	if got := connect(t, PinnedConfig(w.pointer().Endpoints[0], broken), server); !errors.Is(got.client, sealed) || got.server == nil {
		t.Errorf("no identity, client: %v; server: %v", got.client, got.server)
	}
}

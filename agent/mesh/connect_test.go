package mesh_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// An agent is what package local sees of one, over a node on paper.
type agent struct {
	t        *testing.T
	now      func() time.Time
	paper    *fleet.Node
	verifier *chancery.Verifier
	socket   string

	// mu guards what follows.
	mu        sync.Mutex
	changed   chan struct{}
	suspended error
	life      time.Duration // of the session certificates
	certified int
	fresh     func() []byte // what a Refresh finds
	refused   bool          // every program

	stop context.CancelFunc
	done chan error
}

func (w *world) agent(name string) *agent {
	w.t.Helper()
	nodes, err := w.Enroll(fleet.Request{Name: name, Roles: []string{"web"}})
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agent{t: w.t, now: w.now, paper: nodes[0], verifier: chancery.NewVerifier(w.Trust()), socket: filepath.Join(w.t.TempDir(), "programs.sock"),
		changed: make(chan struct{}), life: chancery.DefaultSessionLife}
	a.start()
	w.t.Cleanup(a.end)
	return a
}

func (a *agent) start() {
	a.t.Helper()
	l, err := local.Listen(a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	a.done = make(chan error, 1)
	go func() {
		a.done <- local.Serve(ctx, l, local.Config{Source: a, Name: a.paper.Name, Logger: slog.New(slog.DiscardHandler), Allow: func(local.Caller) bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return !a.refused
		}})
	}()
}

func (a *agent) end() {
	a.stop()
	if err := <-a.done; err != nil {
		a.t.Error(err)
	}
	a.done <- nil // once more does no harm
}

func (a *agent) Trust() (chancery.Trust, error, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.verifier.Trust(), a.suspended, a.changed
}

func (a *agent) Refresh(context.Context) error {
	a.mu.Lock()
	fresh := a.fresh
	a.mu.Unlock()
	if fresh == nil {
		return errors.New("the coordinator is away")
	}
	a.update(fresh())
	return nil
}

func (a *agent) Certify(ctx context.Context, key chancery.PublicKey) (*local.Session, error) {
	a.mu.Lock()
	a.certified++
	life := a.life
	a.mu.Unlock()
	var serial [16]byte
	rand.Read(serial[:])
	from := a.now().UTC().Truncate(time.Second)
	tbs, err := chancery.NewSession(a.paper.NC, key, serial, from, from.Add(life))
	if err != nil {
		return nil, err
	}
	sig, err := a.paper.Key.Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return nil, err
	}
	return &local.Session{Session: tbs.Certificate(chancery.P256, sig), NC: a.paper.NC.Raw(), NotBefore: from, NotAfter: from.Add(life)}, nil
}

// update gives the agent a list, and tells.
func (a *agent) update(list []byte) {
	a.t.Helper()
	if _, err := a.verifier.UpdateCRL(list, a.now()); err != nil {
		a.t.Error(err)
	}
	a.tell(func() {})
}

func (a *agent) tell(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) connect() *mesh.Node {
	a.t.Helper()
	n, err := mesh.Connect(a.t.Context(), a.socket, mesh.Config{Now: a.now})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { n.Close() })
	return n
}

// open opens a session between the programs of two nodes.
func open(t *testing.T, from, to *mesh.Node, name string) (dialled, accepted *mesh.Session) {
	t.Helper()
	l, err := to.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if dialled, err = from.Dial(t.Context(), "tcp", l.Addr().String(), name); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.AcceptSession(); err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

// Programs of two nodes talk, and know who is at the other end. Neither has a
// chip, a file, or a key that it did not make itself.
func TestConnect(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	near, far := open(t, a.connect(), b.connect(), "db-1")
	checkAlive(t, near, far)
	if p := far.Peer(); p.Name != "web-1" || p.NodeID != a.paper.ID || !p.Certificate.HasRole("web") {
		t.Errorf("%+v", p)
	}
	// Each has a key of its own.
	if x, y := a.connect(), a.connect(); sessionKey(t, x) == sessionKey(t, y) {
		t.Error("two programs have one key")
	}
}

func sessionKey(t *testing.T, n *mesh.Node) string {
	t.Helper()
	c, err := n.ServerConfig().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(c.Certificate[0])
}

// A revocation that the agent hears of ends the sessions of its programs.
func TestConnectRevocation(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	client, server := a.connect(), b.connect()
	_, far := open(t, client, server, "db-1")
	list, err := w.Revoke(a.paper)
	if err != nil {
		t.Fatal(err)
	}
	b.update(list)
	checkRefused(t, ended(t, far), chancery.CheckCRL, chancery.ErrRevoked)
	l, err := server.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(t.Context(), "tcp", l.Addr().String(), "db-1"); err == nil {
		t.Error("a revoked node is let in")
	}
}

// An agent that refuses everybody has its programs do so too, and take it back.
func TestConnectSuspended(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	client, server := a.connect(), b.connect()
	l, err := server.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		s, err := client.Dial(t.Context(), "tcp", l.Addr().String(), "db-1")
		if err == nil {
			s.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []error{errors.New("two lists of one number"), nil} {
		a.tell(func() { a.suspended = reason })
		for end := time.Now().Add(soon); (dial() == nil) != (reason == nil); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("with %v: %v", reason, dial())
			}
		}
	}
}

// A peer whose certificate is newer than the list: the program asks its agent,
// who asks the coordinator.
func TestConnectRefresh(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a := w.agent("web-1")
	client := a.connect()
	w.advance(2 * time.Hour)
	list := w.publish()
	server := w.agent("db-1").connect()
	l, err := server.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Dial(t.Context(), "tcp", l.Addr().String(), "db-1")
	checkRefused(t, err, chancery.CheckCRL, chancery.ErrNewerThanCRL)
	a.mu.Lock()
	a.fresh = func() []byte { return list }
	a.mu.Unlock()
	s, err := client.Dial(t.Context(), "tcp", l.Addr().String(), "db-1")
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// An agent that is away takes nothing from a program that has what it needs,
// and is found again when it is back.
func TestConnectAgentAway(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	client, server := a.connect(), b.connect()
	near, far := open(t, client, server, "db-1")
	b.end()
	checkAlive(t, near, far)
	open(t, client, server, "db-1")
	list, err := w.Revoke(a.paper)
	if err != nil {
		t.Fatal(err)
	}
	b.update(list)
	b.start()
	checkRefused(t, ended(t, far), chancery.CheckCRL, chancery.ErrRevoked)
}

// The next key is certified at half of the life of the one before, and what is
// open stays open.
func TestConnectRotation(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	a.mu.Lock()
	a.life = 3 * time.Second
	a.mu.Unlock()
	client, server := a.connect(), b.connect()
	near, far := open(t, client, server, "db-1")
	first := sessionKey(t, client)
	for end := time.Now().Add(soon); sessionKey(t, client) == first; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no other key in time")
		}
	}
	checkAlive(t, near, far)
	open(t, client, server, "db-1")
}

// Who is not let in, or finds no agent, is told so.
func TestConnectRefused(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a := w.agent("web-1")
	a.mu.Lock()
	a.refused = true
	a.mu.Unlock()
	_, err := mesh.Connect(t.Context(), a.socket, mesh.Config{})
	checkIs(t, err, local.ErrNotAllowed)
	_, err = mesh.Connect(t.Context(), filepath.Join(t.TempDir(), "none"), mesh.Config{})
	checkIs(t, err, local.ErrNoAgent)
	if _, err = mesh.Connect(t.Context(), a.socket, mesh.Config{Self: a.paper.ID}); err == nil {
		t.Error("a program says who it is")
	}
}

// A program that does TLS itself: HTTP/2 by the standard library.
func TestConnectTLSConfig(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	client, server := a.connect(), b.connect()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p, err := server.VerifyConnection(*r.TLS, "")
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(rw, r.Proto+" "+p.Name)
	})}
	go h.Serve(tls.NewListener(inner, server.ServerConfig("h2")))
	defer h.Close()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: client.ClientConfig("db-1", "h2"), ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://" + inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "HTTP/2.0 web-1" {
		t.Errorf("%q, %v", b, err)
	}
	wrong := &http.Client{Transport: &http.Transport{TLSClientConfig: client.ClientConfig("db-2", "h2"), ForceAttemptHTTP2: true}}
	defer wrong.CloseIdleConnections()
	_, err = wrong.Get("https://" + inner.Addr().String())
	checkRefused(t, err, chancery.CheckName, chancery.ErrWrongPeer)
}

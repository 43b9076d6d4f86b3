package mesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A goroutine that outlives its node fails the whole run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a fleet on paper with a clock that tests may set forward.
type world struct {
	t *testing.T
	*fleet.Fleet
	ahead atomic.Int64 // of the machine's clock, nanoseconds
}

func newWorld(t *testing.T, o fleet.Options) *world {
	t.Helper()
	w := &world{t: t}
	o.Now = w.now
	var err error
	if w.Fleet, err = fleet.New(o); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time          { return time.Now().Add(time.Duration(w.ahead.Load())) }
func (w *world) advance(d time.Duration) { w.ahead.Add(int64(d)) }

// A member is an enrolled node with all that an agent would hold for it.
type member struct {
	*mesh.Node
	t        *testing.T
	paper    *fleet.Node
	verifier *chancery.Verifier
	config   mesh.Config
}

// enroll enrols a node and starts its mesh; edit may change the configuration.
func (w *world) enroll(name string, edit ...func(*mesh.Config)) *member {
	w.t.Helper()
	nodes, err := w.Enroll(fleet.Request{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.start(nodes[0], edit...)
}

// start starts the mesh of a node that trusts what the fleet publishes now.
func (w *world) start(paper *fleet.Node, edit ...func(*mesh.Config)) *member {
	w.t.Helper()
	m := &member{t: w.t, paper: paper, verifier: chancery.NewVerifier(w.Trust())}
	m.config = mesh.Config{Verifier: m.verifier, Identity: paper.Identity, Self: paper.ID, Now: w.now}
	for _, e := range edit {
		e(&m.config)
	}
	var err error
	if m.Node, err = mesh.New(m.config); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { m.Close() })
	return m
}

func (m *member) listen() *mesh.Listener {
	m.t.Helper()
	l, err := m.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	return l
}

func (m *member) dial(l net.Listener, name string) (*mesh.Session, error) {
	return m.Dial(m.t.Context(), "tcp", l.Addr().String(), name)
}

// update gives the member a newer CRL, as its agent would.
func (m *member) update(list []byte) (cut int) {
	m.t.Helper()
	if _, err := m.verifier.UpdateCRL(list, m.config.Now()); err != nil {
		m.t.Fatal(err)
	}
	return m.Recheck()
}

func (w *world) revoke(m *member) []byte {
	w.t.Helper()
	list, err := w.Revoke(m.paper)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func (w *world) publish() []byte {
	w.t.Helper()
	list, err := w.PublishCRL()
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// pair opens a session between two members and returns both ends.
func pair(t *testing.T, from, to *member) (dialled, accepted *mesh.Session) {
	t.Helper()
	l := to.listen()
	dialled, err := from.dial(l, to.paper.Name)
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.AcceptSession(); err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

// soon is far more than anything takes that does not wait for a deadline.
const soon = 5 * time.Second

// ended waits for the end of a session and returns its reason.
func ended(t *testing.T, s *mesh.Session) error {
	t.Helper()
	select {
	case <-s.Done():
		return s.Err()
	case <-time.After(soon):
		t.Fatal("the session lives on")
		return nil
	}
}

// checkAlive says something in both directions.
func checkAlive(t *testing.T, a, b *mesh.Session) {
	t.Helper()
	for _, way := range [][2]*mesh.Session{{a, b}, {b, a}} {
		said := []byte("from " + way[1].Peer().Name)
		errs := make(chan error, 1)
		go func() {
			_, err := way[0].Write(said)
			errs <- err
		}()
		heard := make([]byte, len(said))
		if _, err := io.ReadFull(way[1], heard); err != nil || string(heard) != string(said) {
			t.Errorf("heard %q, %v; want %q", heard, err, said)
		}
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// checkIs fails unless err is the wanted one.
func checkIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

// checkRefused fails unless the node refused the peer by that check.
func checkRefused(t *testing.T, err error, check chancery.Check, reason error) {
	t.Helper()
	refused, ok := errors.AsType[*chancery.RefusedError](err)
	if !ok || refused.Check != check || !errors.Is(refused, reason) {
		t.Errorf("%v, want a refusal by the %s check: %v", err, check, reason)
	}
}

// pipes is a network of net.Pipe, for tests on a clock of their own.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// pipePair is pair over a pipe.
func pipePair(t *testing.T, from, to *member) (dialled, accepted *mesh.Session) {
	t.Helper()
	network := newPipes()
	l, err := to.NewListener(network)
	if err != nil {
		t.Fatal(err)
	}
	dialled, err = from.Client(context.Background(), network.dial(), to.paper.Name)
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.AcceptSession(); err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

package gossip_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/gossip"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A goroutine that outlives its node fails the whole run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a fleet on paper with a clock that tests may set forward.
type world struct {
	t *testing.T
	*fleet.Fleet
	ahead atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.Fleet, err = fleet.New(fleet.Options{Now: w.now}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time          { return time.Now().Add(time.Duration(w.ahead.Load())) }
func (w *world) advance(d time.Duration) { w.ahead.Add(int64(d)) }

// publish makes the next list, which nobody has yet.
func (w *world) publish(revoke ...*node) []byte {
	w.t.Helper()
	var named []*fleet.Node
	for _, n := range revoke {
		named = append(named, n.paper)
	}
	list, err := w.Revoke(named...)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// A node does with what it is sent what an agent does.
type node struct {
	t        *testing.T
	w        *world
	paper    *fleet.Node
	verifier *chancery.Verifier
	mesh     *mesh.Node
	gossip   *gossip.Gossip
	listener *mesh.Listener

	mu    sync.Mutex
	takes []string // what was taken, by kind
}

// enroll enrols a node, which listens and holds what the fleet has published.
func (w *world) enroll(name string) *node {
	w.t.Helper()
	papers, err := w.Enroll(fleet.Request{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{t: w.t, w: w, paper: papers[0]}
	n.start(w.Trust())
	return n
}

// start starts the node with what it holds, anew if it ran.
func (n *node) start(held chancery.Trust) {
	t, w := n.t, n.w
	t.Helper()
	if n.mesh != nil {
		n.mesh.Close()
	}
	n.forget()
	n.verifier = chancery.NewVerifier(held)
	var err error
	logger := slog.New(slog.DiscardHandler)
	if n.gossip, err = gossip.New(gossip.Config{Trust: n.verifier.Trust, TakePointer: n.takePointer, TakeCRL: n.takeCRL, Now: w.now, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if n.mesh, err = mesh.New(mesh.Config{
		Verifier: n.verifier, Identity: n.paper.Identity, Self: n.paper.ID, Now: w.now,
		Guests: map[string]mesh.Guest{gossip.ALPN: n.gossip},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.mesh.Close() })
	if n.listener, err = n.mesh.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
}

func (n *node) took(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takes = append(n.takes, what)
}

func (n *node) takePointer(p *chancery.Pointer) error {
	err := n.verifier.UpdatePointer(p, n.w.now())
	if err == nil {
		n.took("record")
		n.mesh.Recheck()
	}
	return err
}

func (n *node) takeCRL(list []byte) error {
	if _, err := n.verifier.UpdateCRL(list, n.w.now()); err != nil {
		return err
	}
	n.took(chancery.Identify(list))
	n.gossip.Keep(list)
	n.mesh.Recheck()
	return nil
}

// update gives the node the fleet's newest list as the coordinator would: what
// changed since the one that it holds.
func (n *node) update(list []byte) {
	n.t.Helper()
	held := n.verifier.Trust()
	next, err := chancery.OpenCRL(held.Pointer, held.CRL, list, n.w.now())
	if err != nil {
		n.t.Fatal(err)
	}
	delta, err := next.Delta(held.CRL)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.takeCRL(delta); err != nil {
		n.t.Fatal(err)
	}
	n.forget()
}

func (n *node) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takes = nil
}

func (n *node) address() string { return n.listener.Addr().String() }
func (n *node) number() uint64  { return n.verifier.Trust().CRL.Head().Number }

// ask has an exchange with another node.
func (n *node) ask(o *node) (moved bool, err error) {
	return n.gossip.Exchange(n.t.Context(), o.address())
}

// wantTook waits until the node has taken those things and no others, and
// checks that it holds a list of the number.
func (n *node) wantTook(number uint64, what ...string) {
	n.t.Helper()
	eventually(n.t, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.takes) >= len(what)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.takes, what) || n.number() != number {
		n.t.Errorf("%s took %q and holds list %d; want %q and list %d", n.paper.Name, n.takes, n.number(), what, number)
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within ten seconds")
		}
	}
}

func checkIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

// A stranger speaks the exchange byte by byte.
type stranger struct {
	t *testing.T
	net.Conn
}

// dial connects to a node as anybody can.
func dial(t *testing.T, to *node) *stranger {
	t.Helper()
	s, err := tryDial(t, to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryDial(t *testing.T, to *node) (*stranger, error) {
	conn, err := tls.Dial("tcp", to.address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{gossip.ALPN}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &stranger{t, conn}, nil
}

// says is a hello as docs/protocol.md section 7.6 writes it.
type says struct {
	fleet  chancery.FleetID
	seq    uint64
	record [32]byte
	number uint64
	list   [32]byte
}

// as says what a node of that trust says.
func as(t chancery.Trust) says {
	return says{t.Pointer.FleetID(), t.Pointer.Seq, t.Pointer.Hash(), t.CRL.Head().Number, t.CRL.Head().Hash()}
}

func (h says) bytes() []byte {
	b := append([]byte(nil), h.fleet[:]...)
	b = append(binary.BigEndian.AppendUint64(b, h.seq), h.record[:]...)
	return append(binary.BigEndian.AppendUint64(b, h.number), h.list[:]...)
}

func frame(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// rest reads until the other end hangs up.
func (s *stranger) rest() []byte {
	s.t.Helper()
	b, err := io.ReadAll(s)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		var op *net.OpError
		if !errors.As(err, &op) || op.Timeout() {
			s.t.Errorf("reading to the end: %v", err)
		}
	}
	return b
}

// impostor listens as a node does, and serves with a function.
func impostor(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	w := newWorld(t)
	n := w.enroll("cert") // for a certificate; nobody looks at whose
	id, err := n.paper.Identity()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{id.Session}, PrivateKey: id.Key}}, NextProtos: []string{gossip.ALPN},
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

package forward_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/forward"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A goroutine that outlives its relay fails the whole run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is far more than anything takes that does not wait for a deadline.
const soon = 10 * time.Second

// A world is two nodes with a relay each: programs that dial the front reach
// the program behind the back.
type world struct {
	t           testing.TB
	fleet       *fleet.Fleet
	web, db     *member
	front, back *forward.Relay
}

type member struct {
	*mesh.Node
	paper    *fleet.Node
	verifier *chancery.Verifier
}

// options of a world. The zero value allows every node and has no limits.
type options struct {
	rules  []string
	target string // where the program listens; empty: an echo
	front  string // where the front listens; empty: a port
	proxy  bool
	limits forward.Limits
	roles  []string // of web
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, fleet: f}
	w.web, w.db = w.enroll("web-1", o.roles...), w.enroll("db-1")
	if o.target == "" {
		o.target = echo(t)
	}
	if o.rules == nil {
		o.rules = []string{"any"}
	}
	if o.limits.Drain == 0 {
		o.limits.Drain = time.Millisecond // tests that end in the middle need not wait
	}
	rules, err := forward.ParseRules(o.rules)
	if err != nil {
		t.Fatal(err)
	}
	l, err := w.db.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if w.back, err = forward.NewExpose(l, o.target, rules, o.proxy, o.limits, discard); err != nil {
		t.Fatal(err)
	}
	if o.front == "" {
		o.front = "127.0.0.1:0"
	}
	in, err := forward.Listen(o.front)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if w.front, err = forward.NewForward(in, w.dialer(), "db-1", port, o.limits, discard); err != nil {
		t.Fatal(err)
	}
	w.run(w.back)
	w.run(w.front)
	return w
}

var discard = slog.New(slog.DiscardHandler)

// dialer dials nodes as web, on this machine.
func (w *world) dialer() forward.Dialer {
	return func(ctx context.Context, name, port string) (*mesh.Session, error) {
		return w.web.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", port), name)
	}
}

// run runs a relay until the test ends.
func (w *world) run(r *forward.Relay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) enroll(name string, roles ...string) *member {
	w.t.Helper()
	nodes, err := w.fleet.Enroll(fleet.Request{Name: name, Roles: roles})
	if err != nil {
		w.t.Fatal(err)
	}
	m := &member{paper: nodes[0], verifier: chancery.NewVerifier(w.fleet.Trust())}
	if m.Node, err = mesh.New(mesh.Config{Verifier: m.verifier, Identity: m.paper.Identity, Self: m.paper.ID}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { m.Close() })
	return m
}

// revoke revokes a node; the others hear of it.
func (w *world) revoke(m *member, others ...*member) {
	w.t.Helper()
	list, err := w.fleet.Revoke(m.paper)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range others {
		if _, err := o.verifier.UpdateCRL(list, time.Now()); err != nil {
			w.t.Fatal(err)
		}
		o.Recheck()
	}
}

// dial connects to the front, as a program does.
func (w *world) dial() *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.front.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(soon))
	return c.(*net.TCPConn)
}

// talks tells whether what is said comes back.
func talks(c net.Conn, what string) error {
	if _, err := io.WriteString(c, what); err != nil {
		return err
	}
	heard := make([]byte, len(what))
	if _, err := io.ReadFull(c, heard); err != nil {
		return err
	}
	if string(heard) != what {
		return errors.New("heard " + string(heard))
	}
	return nil
}

// isReset fails unless the connection ended by a failure: a program must not
// take a revocation, say, for the end of what its peer had to say.
func isReset(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, c)
	if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
		t.Errorf("read %d bytes, then %v; want a reset", n, err)
	}
}

// refused fails unless a program that connects to the front is reset, be it
// before it has noticed that it was connected.
func (w *world) refused() {
	w.t.Helper()
	c, err := net.Dial("tcp", w.front.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	isReset(w.t, c)
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// serve runs a program that handles each connection.
func serve(t testing.TB, handle func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().String()
}

// echo is a program that says what it hears, to the end.
func echo(t testing.TB) string { return serve(t, func(c net.Conn) { io.Copy(c, c) }) }

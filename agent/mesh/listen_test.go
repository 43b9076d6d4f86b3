package mesh_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// Three hundred connections that say nothing, more than a listener has places
// for, hold nobody up for longer than a second, and are gone after ten.
func TestSlowHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const strangers = 300
		w := newWorld(t, fleet.Options{})
		a, b := w.enroll("a"), w.enroll("b")
		network := newPipes()
		l, err := b.NewListener(network)
		if err != nil {
			t.Fatal(err)
		}
		for range strangers {
			go network.dial()
		}
		synctest.Wait()
		began := time.Now()
		s, err := a.Client(context.Background(), network.dial(), "b")
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.AcceptSession()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("a good node waited %s behind strangers", took)
		}
		checkAlive(t, s, accepted)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if s := b.Stats(); s.Broken != strangers || s.Accepted != 1 {
			t.Errorf("counted %+v, want %d broken handshakes", s, strangers)
		}
		checkAlive(t, s, accepted)
	})
}

// While nobody waits for their places, slow handshakes have their ten seconds.
func TestSlowHandshakeMayFinish(t *testing.T) {
	for _, test := range []struct {
		name  string
		delay time.Duration
		ok    bool
	}{{"in time", 9 * time.Second, true}, {"too late", 11 * time.Second, false}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fleet.Options{})
				a, b := w.enroll("a"), w.enroll("b")
				network := newPipes()
				l, err := b.NewListener(network)
				if err != nil {
					t.Fatal(err)
				}
				raw := network.dial()
				time.Sleep(test.delay)
				s, err := a.Client(context.Background(), raw, "b")
				if (err == nil) != test.ok {
					t.Fatalf("after %s: %v", test.delay, err)
				}
				if !test.ok {
					return
				}
				accepted, err := l.AcceptSession()
				if err != nil {
					t.Fatal(err)
				}
				// The handshake's deadline is not the session's.
				time.Sleep(time.Minute)
				checkAlive(t, s, accepted)
			})
		})
	}
}

// Sessions that nobody accepts take places too, and are not thrown out.
func TestUnacceptedSessionsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{})
		a, b := w.enroll("a"), w.enroll("b")
		network := newPipes()
		l, err := b.NewListener(network)
		if err != nil {
			t.Fatal(err)
		}
		const places = 256
		for range places {
			if _, err := a.Client(context.Background(), network.dial(), "b"); err != nil {
				t.Fatal(err)
			}
		}
		late := make(chan error, 1)
		go func() {
			_, err := a.Client(context.Background(), network.dial(), "b")
			late <- err
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-late:
			t.Fatalf("one session more than there are places: %v", err)
		default:
		}
		for range places + 1 {
			if _, err := l.AcceptSession(); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-late; err != nil {
			t.Error(err)
		}
		if live := b.Stats().Live; live != places+1 {
			t.Errorf("%d live sessions, want %d", live, places+1)
		}
	})
}

func TestListenerClose(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	l := b.listen()
	kept, err := a.dial(l, "b")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptSession()
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := a.dial(l, "b")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	checkAlive(t, kept, accepted)
	for what, c := range map[string]net.Conn{"session nobody accepted": waiting, "handshake under way": silent} {
		c.SetReadDeadline(time.Now().Add(soon))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: read %d, %v after the listener's end", what, n, err)
		}
	}
	_, err = l.Accept()
	checkIs(t, err, net.ErrClosed)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A failing listener plays back errors before it works, or ends.
type failing struct {
	net.Listener
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestListenerOutlivesShortages(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	shortage := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	l, err := b.NewListener(&failing{inner, []error{shortage, shortage}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.dial(l, "b"); err != nil {
		t.Error(err)
	}
}

func TestListenerEndsWithTheInnerOne(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("out of order")
	l, err := newWorld(t, fleet.Options{}).enroll("a").NewListener(&failing{inner, []error{broken}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Accept()
	checkIs(t, err, broken)
}

// A dialler that is refused while it still sends is not answered with a TCP
// reset, which could overtake the alert that tells it so.
func TestRefusalDoesNotReset(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	b.update(w.revoke(a))
	l := b.listen()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, chancery.ClientConfig(a.tlsOptions(), "b"))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(conn)
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "remote error" {
		t.Fatalf("%v, want the alert", err)
	}
	for range 3 {
		if _, err := raw.Write([]byte("are you there?")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // a reset takes less
	}
	// Nor does a dialler that goes on sending hold its place for ever.
	l.Close()
	if n := b.Stats().Refused[mesh.Refusal{Check: chancery.CheckCRL, Reason: "revoked"}]; n != 1 {
		t.Errorf("counted %d refusals, want 1", n)
	}
}

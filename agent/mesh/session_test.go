package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

func TestRevocationCutsLiveSessions(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b, c := w.enroll("a"), w.enroll("b"), w.enroll("c")
	condemned, far := pair(t, b, a)
	spared, other := pair(t, c, a)
	if cut := a.update(w.revoke(b)); cut != 1 {
		t.Errorf("Recheck cut %d sessions, want 1", cut)
	}
	// The side that cut knows why. So do its blocked and its later calls.
	checkRefused(t, ended(t, far), chancery.CheckCRL, chancery.ErrRevoked)
	_, err := far.Read(make([]byte, 1))
	checkIs(t, err, chancery.ErrRevoked)
	_, err = far.Write([]byte("x"))
	checkIs(t, err, chancery.ErrRevoked)
	if err := far.Close(); err != nil {
		t.Errorf("closing a session that was cut: %v", err)
	}
	// The revoked side finds its connection gone.
	if n, err := condemned.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("the revoked side read %d, %v; want an error that is not a good end", n, err)
	}
	if ended(t, condemned) == nil {
		t.Error("the revoked side has no reason")
	}
	checkAlive(t, spared, other)
	if s := a.Stats(); s.Cut["revoked"] != 1 || s.Live != 1 {
		t.Errorf("counted %+v", s)
	}
	if s := b.Stats(); s.Live != 0 {
		t.Errorf("the revoked side counts %+v", s)
	}
	// A list that changes nothing cuts nothing.
	if cut := a.update(w.publish()); cut != 0 {
		t.Errorf("a heartbeat cut %d sessions", cut)
	}
}

func TestRevocationUnblocksReadAndWrite(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	s, _ := pair(t, a, b)                    // b never reads
	s.SetDeadline(time.Now().Add(time.Hour)) // the caller's deadline is no obstacle
	errs := make(chan error, 2)
	go func() {
		_, err := s.Read(make([]byte, 1))
		errs <- err
	}()
	var written atomic.Int64
	go func() {
		chunk := make([]byte, 16<<10)
		for {
			n, err := s.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				errs <- err
				return
			}
		}
	}()
	// Blocked: nothing has moved for a while, and not for want of a start.
	for before := int64(-1); before <= 0 || written.Load() != before; time.Sleep(100 * time.Millisecond) {
		before = written.Load()
	}
	started := time.Now()
	a.update(w.revoke(b))
	for range 2 {
		select {
		case err := <-errs:
			checkIs(t, err, chancery.ErrRevoked)
		case <-time.After(soon):
			t.Fatal("a call is blocked on a session that was cut")
		}
	}
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("the cut took %s", took) // crypto/tls alone would wait 5 s to send an alert
	}
}

// What had arrived before the cut and was not read yet is not read any more.
func TestNothingIsReadAfterTheCut(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	near, far := pair(t, a, b)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := io.ReadFull(near, one); err != nil { // the rest of the record is in memory now
		t.Fatal(err)
	}
	a.update(w.revoke(b))
	n, err := near.Read(one)
	if n != 0 {
		t.Errorf("read %q from a revoked node", one)
	}
	checkIs(t, err, chancery.ErrRevoked)
}

func TestPointerRecordCutsLiveSessions(t *testing.T) {
	for _, test := range []struct {
		old chancery.CAKeyState
		cut int
	}{
		{chancery.CAKeyRetired, 0},
		{chancery.CAKeyRevoked, 1},
	} {
		t.Run(test.old.String(), func(t *testing.T) {
			w := newWorld(t, fleet.Options{})
			a, b := w.enroll("a"), w.enroll("b")
			near, far := pair(t, a, b)
			p, err := w.Rollover(test.old)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.verifier.UpdatePointer(p, w.now()); err != nil {
				t.Fatal(err)
			}
			if cut := a.Recheck(); cut != test.cut {
				t.Fatalf("Recheck cut %d sessions, want %d", cut, test.cut)
			}
			if test.cut == 0 {
				checkAlive(t, near, far)
				return
			}
			checkRefused(t, ended(t, near), chancery.CheckNC, chancery.ErrCARevoked)
		})
	}
}

func TestCloseIsAGoodEnd(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	near, far := pair(t, a, b)
	if _, err := near.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if err := near.Close(); err != nil {
		t.Error(err)
	}
	if heard, err := io.ReadAll(far); string(heard) != "the end" || err != nil {
		t.Errorf("heard %q, %v", heard, err)
	}
	if err := near.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	checkIs(t, near.Err(), net.ErrClosed)
	if s := a.Stats(); s.Live != 0 || len(s.Cut) != 0 {
		t.Errorf("counted %+v", s)
	}
	if err := far.Err(); err != nil {
		t.Errorf("the other side has not closed yet, and says %v", err)
	}
}

func TestCloseWriteLeavesTheOtherDirection(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	near, far := pair(t, w.enroll("a"), w.enroll("b"))
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if heard, err := io.ReadAll(far); len(heard) != 0 || err != nil {
		t.Errorf("heard %q, %v", heard, err)
	}
	if _, err := far.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if heard, err := io.ReadAll(near); string(heard) != "answer" || err != nil {
		t.Errorf("heard %q, %v", heard, err)
	}
}

// A deadline is the caller's business and ends no session.
func TestReadDeadline(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	near, far := pair(t, w.enroll("a"), w.enroll("b"))
	near.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := near.Read(make([]byte, 1))
	checkIs(t, err, os.ErrDeadlineExceeded)
	near.SetReadDeadline(time.Time{})
	checkAlive(t, near, far)
}

// A revocation that arrives after the TLS handshake has judged the peer, and
// before the session is registered, is found by the look-up that follows.
func TestRevokedDuringTheHandshake(t *testing.T) {
	t.Run("dialler", func(t *testing.T) {
		w := newWorld(t, fleet.Options{})
		judged := &judgement{}
		a, b := w.enroll("a"), w.enroll("b", judged.watch)
		judged.then = func() { b.update(w.revoke(a)) }
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.NewListener(&slowListener{inner, judged})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.dial(l, "b")
		// No alert: the handshake itself was passed.
		if byPeer, ok := errors.AsType[*mesh.RefusedByPeerError](err); !ok || byPeer.Alert != "" {
			t.Errorf("%v, want a refusal by the peer after the handshake", err)
		}
		l.Close()
		if s := b.Stats(); s.Refused[mesh.Refusal{Check: chancery.CheckCRL, Reason: "revoked"}] != 1 || s.Accepted != 0 || s.Live != 0 {
			t.Errorf("counted %+v", s)
		}
	})
	t.Run("responder", func(t *testing.T) {
		w := newWorld(t, fleet.Options{})
		judged := &judgement{}
		a, b := w.enroll("a", judged.watch), w.enroll("b")
		judged.then = func() { a.update(w.revoke(b)) }
		raw, err := net.Dial("tcp", b.listen().Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Client(t.Context(), &slowConn{Conn: raw, judged: judged}, "b")
		checkRefused(t, err, chancery.CheckCRL, chancery.ErrRevoked)
		if !judged.fired {
			t.Error("the revocation did not come between judgement and registration")
		}
		if s := a.Stats(); s.Dialled != 0 || s.Live != 0 {
			t.Errorf("counted %+v", s)
		}
	})
}

// A judgement is the moment right after a node has judged its peer within the
// handshake: the next time that TLS wants a record from the network after
// the node asked for the time.
type judgement struct {
	mu    sync.Mutex
	asked bool
	fired bool
	then  func()
}

// watch notices that the node asks for the time.
func (j *judgement) watch(c *mesh.Config) {
	now := c.Now
	c.Now = func() time.Time {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.asked = true
		return now()
	}
}

func (j *judgement) fire() {
	j.mu.Lock()
	due := j.asked && !j.fired
	j.fired = j.fired || due
	j.mu.Unlock()
	if due {
		j.then()
	}
}

// A slowConn delivers one TLS record a Read at most.
type slowConn struct {
	net.Conn
	judged *judgement
	record bytes.Buffer
}

func (c *slowConn) Read(b []byte) (int, error) {
	if c.record.Len() == 0 {
		c.judged.fire()
		header := make([]byte, 5) // RFC 8446 section 5.1: type, version, length
		if _, err := io.ReadFull(c.Conn, header); err != nil {
			return 0, err
		}
		c.record.Write(header)
		if _, err := io.CopyN(&c.record, c.Conn, int64(header[3])<<8|int64(header[4])); err != nil {
			return 0, err
		}
	}
	return c.record.Read(b)
}

type slowListener struct {
	net.Listener
	judged *judgement
}

func (l *slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c, judged: l.judged}, nil
}

// A hundred sessions talk at once, half of their peers are revoked in the
// middle of it, and exactly those sessions end.
func TestHundredSessions(t *testing.T) {
	const count = 100
	w := newWorld(t, fleet.Options{})
	hub := w.enroll("hub")
	var requests []fleet.Request
	for i := range count {
		requests = append(requests, fleet.Request{Name: fmt.Sprintf("node-%d", i)})
	}
	nodes, err := w.Enroll(requests...)
	if err != nil {
		t.Fatal(err)
	}
	l := hub.listen()
	var echoes sync.WaitGroup
	echoes.Go(func() {
		for {
			s, err := l.AcceptSession()
			if err != nil {
				return
			}
			echoes.Go(func() { io.Copy(s, s) })
		}
	})
	var good, revoked []*fleet.Node
	for i, n := range nodes {
		if i%2 == 0 {
			good = append(good, n)
		} else {
			revoked = append(revoked, n)
		}
	}
	var ready, clients sync.WaitGroup
	ready.Add(count)
	cut := make(chan struct{}) // closed after the revocation
	say := func(n *fleet.Node, stands bool) {
		m := w.start(n)
		s, err := m.dial(l, "hub")
		if err != nil {
			ready.Done()
			t.Error(err)
			return
		}
		echo := func() error {
			said, heard := []byte("I am "+n.Name), make([]byte, len("I am "+n.Name))
			if _, err := s.Write(said); err != nil {
				return err
			}
			if _, err := io.ReadFull(s, heard); err != nil {
				return err
			}
			if !bytes.Equal(said, heard) {
				return fmt.Errorf("said %q, heard %q", said, heard)
			}
			return nil
		}
		err = echo()
		ready.Done()
		if err != nil {
			t.Errorf("%s: %v", n.Name, err)
			return
		}
		<-cut
		if err := echo(); (err == nil) != stands {
			t.Errorf("%s: %v after the revocation; it stands: %v", n.Name, err, stands)
		}
		m.Close()
	}
	for _, n := range good {
		clients.Go(func() { say(n, true) })
	}
	for _, n := range revoked {
		clients.Go(func() { say(n, false) })
	}
	ready.Wait()
	list, err := w.Revoke(revoked...)
	if err != nil {
		t.Fatal(err)
	}
	if n := hub.update(list); n != len(revoked) {
		t.Errorf("cut %d sessions, want %d", n, len(revoked))
	}
	close(cut)
	clients.Wait()
	hub.Close()
	echoes.Wait()
	if s := hub.Stats(); s.Accepted != count || s.Cut["revoked"] != uint64(len(revoked)) || s.Live != 0 {
		t.Errorf("counted %+v", s)
	}
}

// Lists arrive while nodes dial: whatever the order, no session of a revoked
// node is left.
func TestRevocationRacesDials(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	hub := w.enroll("hub")
	l := hub.listen()
	for i := range 20 {
		m := w.enroll(fmt.Sprintf("node-%d", i))
		list := w.revoke(m)
		var both sync.WaitGroup
		both.Go(func() { m.dial(l, "hub") })
		both.Go(func() { hub.update(list) })
		both.Wait()
		for _, s := range hub.Sessions() {
			t.Errorf("%s is revoked and has a session", s.Peer)
		}
	}
}

func TestNodeCloseEndsEverything(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	near, _ := pair(t, a, b)
	l := a.listen()
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	// A dial to somebody who takes the connection and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dialled := make(chan error, 1)
	go func() {
		_, err := a.dial(silent, "b")
		dialled <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Read(make([]byte, 1)) // the handshake has begun

	if err := a.Close(); err != nil {
		t.Error(err)
	}
	checkIs(t, near.Err(), net.ErrClosed)
	checkIs(t, <-accepted, net.ErrClosed)
	checkIs(t, <-dialled, net.ErrClosed)
	if s := a.Stats(); s.Live != 0 || s.Cut["closed"] != 1 {
		t.Errorf("counted %+v", s)
	}
	// A closed node stays closed.
	_, err = a.dial(b.listen(), "b")
	checkIs(t, err, net.ErrClosed)
	_, err = a.Listen("tcp", "127.0.0.1:0")
	checkIs(t, err, net.ErrClosed)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a := w.enroll("a")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = a.Dial(ctx, "tcp", silent.Addr().String(), "b")
	checkIs(t, err, context.Canceled)
}

func TestNewTellsWhatIsMissing(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	good := w.enroll("a").config
	for name, edit := range map[string]func(*mesh.Config){
		"verifier": func(c *mesh.Config) { c.Verifier = nil },
		"identity": func(c *mesh.Config) { c.Identity = nil },
		"node_id":  func(c *mesh.Config) { c.Self = chancery.NodeID{} },
		"-1s":      func(c *mesh.Config) { c.MaxSession = -time.Second },
	} {
		c := good
		edit(&c)
		if _, err := mesh.New(c); err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%v, want an error that names %s", err, name)
		}
	}
}

// Whoever is on the way can end a TCP connection. That must not look as if the
// peer had said all it wanted to.
func TestTruncation(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	for _, said := range []bool{true, false} {
		network := newPipes()
		l, err := b.NewListener(network)
		if err != nil {
			t.Fatal(err)
		}
		raw := network.dial()
		near, err := a.Client(t.Context(), raw, "b")
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.AcceptSession()
		if err != nil {
			t.Fatal(err)
		}
		checkAlive(t, near, far)
		want := io.ErrUnexpectedEOF
		if said {
			go near.CloseWrite()
			want = io.EOF
		} else {
			raw.Close()
		}
		if n, err := far.Read(make([]byte, 1)); n != 0 || err != want {
			t.Errorf("close_notify %v: read %d, %v; want %v", said, n, err, want)
		}
		if !said {
			checkIs(t, ended(t, far), io.ErrUnexpectedEOF)
		}
		raw.Close()
	}
}

package mesh

import (
	"container/list"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/socket"
)

const (
	// maxHandshakes bounds the connections of a listener that are not
	// sessions in the caller's hands yet.
	maxHandshakes = 256
	// patience is how long a handshake may take while others wait for its
	// place. An honest one takes milliseconds, also when many come at once.
	patience = time.Second
)

// A Listener accepts sessions. Each handshake has a goroutine of its own, so
// that nobody who dials slowly or badly is in another's way.
type Listener struct {
	node  *Node
	inner net.Listener
	slots chan struct{} // one for every connection from its arrival until it is accepted or gone
	ready chan *Session
	work  sync.WaitGroup

	stopped sync.Once
	done    chan struct{}
	err     error // set before done is closed

	// mu guards shaking: the [shaking] connections, the oldest first.
	mu      sync.Mutex
	shaking list.List
}

// shaking is a connection in its handshake.
type shaking struct {
	raw   net.Conn
	since time.Time
}

var _ net.Listener = (*Listener)(nil)

// Listen listens at a network address, as [net.Listen] does.
func (n *Node) Listen(network, addr string) (*Listener, error) {
	inner, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	return n.NewListener(inner)
}

// NewListener accepts sessions from the connections of another listener,
// which belongs to the new one from then on.
func (n *Node) NewListener(inner net.Listener) (*Listener, error) {
	l := &Listener{node: n, inner: inner, slots: make(chan struct{}, maxHandshakes), ready: make(chan *Session), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		inner.Close()
		return nil, net.ErrClosed
	}
	n.listeners[l] = struct{}{}
	l.work.Go(l.run)
	return l, nil
}

// Accept returns the next session, a *[Session]. It never fails because of
// somebody who dials.
func (l *Listener) Accept() (net.Conn, error) {
	s, err := l.AcceptSession()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// AcceptSession is Accept with the type that it returns.
func (l *Listener) AcceptSession() (*Session, error) {
	select {
	case s := <-l.ready:
		return s, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: l.err}
	}
}

// Addr returns the address that is listened at.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close stops listening. Handshakes under way and sessions that were not
// accepted yet are ended; accepted ones live on.
func (l *Listener) Close() error {
	err := l.stop(net.ErrClosed)
	l.work.Wait()
	l.node.mu.Lock()
	delete(l.node.listeners, l)
	l.node.mu.Unlock()
	return err
}

func (l *Listener) stop(cause error) (err error) {
	l.stopped.Do(func() {
		l.err = cause
		close(l.done)
		err = l.inner.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for e := l.shaking.Front(); e != nil; e = e.Next() {
			e.Value.(shaking).raw.Close()
		}
	})
	return err
}

// run takes connections until the listener is closed.
func (l *Listener) run() {
	var pause time.Duration
	for {
		raw, err := l.inner.Accept()
		if err != nil {
			if !socket.Shortage(err) {
				l.stop(err)
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.node.config.Logger.Warn("accepting connections is held up", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
				continue
			case <-l.done:
				return
			}
		}
		pause = 0
		if !l.takeSlot() {
			raw.Close()
			return
		}
		l.work.Go(func() {
			defer func() { <-l.slots }()
			l.serve(raw)
		})
	}
}

// takeSlot waits for a slot. Handshakes that hold one for longer than
// patience give way.
func (l *Listener) takeSlot() bool {
	for {
		select {
		case l.slots <- struct{}{}:
			return true
		default:
		}
		select {
		case l.slots <- struct{}{}:
			return true
		case <-l.done:
			return false
		case <-time.After(l.dropOldest()):
		}
	}
}

// dropOldest closes the oldest handshake if it has used up its time, and
// returns how long to wait for the next one to do so.
func (l *Listener) dropOldest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.shaking.Front()
	if e == nil {
		return patience // the slots are held by sessions that nobody accepts
	}
	oldest := e.Value.(shaking)
	if left := patience - time.Since(oldest.since); left > 0 {
		return left
	}
	oldest.raw.Close()
	l.shaking.Remove(e)
	return patience
}

// serve leads one connection to a session in the caller's hands, or to its end.
func (l *Listener) serve(raw net.Conn) {
	n := l.node
	e := l.enter(raw)
	if e == nil {
		return
	}
	s, err := l.respond(raw)
	if err != nil {
		n.noteRefusal(err, raw.RemoteAddr())
		if errors.Is(err, chancery.ErrNewerThanCRL) && n.config.OnNewerCRL != nil {
			n.fetchCRLSoon()
		}
		var refused *chancery.RefusedError
		if errors.As(err, &refused) {
			linger(raw)
		}
		raw.Close()
	}
	l.leave(e)
	if s == nil {
		return
	}
	n.noteOpened(s)
	select {
	case l.ready <- s:
	case <-s.done:
	case <-l.done:
		s.cut(net.ErrClosed)
	}
}

// enter puts a connection where dropOldest and stop find it. It returns nil,
// with the connection closed, if the listener has stopped.
func (l *Listener) enter(raw net.Conn) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		raw.Close()
		return nil
	default:
		return l.shaking.PushBack(shaking{raw, time.Now()})
	}
}

func (l *Listener) leave(e *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shaking.Remove(e) // does nothing if dropOldest was faster
}

// respond is the responder's side of [Node.Client]. There is neither a session
// nor an error if the connection was a guest's.
func (l *Listener) respond(raw net.Conn) (*Session, error) {
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	h := &handshake{node: l.node, raw: raw}
	conn := h.server()
	if err := conn.Handshake(); err != nil {
		return nil, h.reason(err)
	}
	if h.guest != nil {
		l.host(h.guest, conn)
		return nil, nil
	}
	s, err := h.admit(conn)
	if s == nil {
		return nil, err
	}
	if err == nil {
		_, err = conn.Write([]byte{greetReady})
	}
	if err != nil {
		s.end(err)
		s.node.remove(s)
		conn.Write([]byte{greetRefused}) // to no effect if it is the connection that failed
		return nil, s.err                // a session that was cut meanwhile knows better than its connection
	}
	raw.SetDeadline(time.Time{})
	return s, nil
}

// linger lets the peer read why it was refused. A TCP connection that is
// closed with unread bytes in it is reset, and the reset may overtake the
// alert.
func linger(raw net.Conn) {
	if c, ok := raw.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	raw.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, raw, 64<<10)
}

package mesh

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Session is a connection to a node that passed every check. It is a
// [net.Conn]; what is written is authentic and secret between the two nodes.
// Deadlines are the caller's; they do not keep the session from ending.
type Session struct {
	node    *Node
	tls     *tls.Conn
	raw     net.Conn // under tls; closing it unblocks every call at once
	wire    *wire    // between them
	peer    *chancery.Peer
	inbound bool
	opened  time.Time
	ends    time.Time

	ended sync.Once
	done  chan struct{}
	err   error // set before done is closed
}

var _ net.Conn = (*Session)(nil)

// Peer returns the node at the other end. It must not be changed.
func (s *Session) Peer() *chancery.Peer { return s.peer }

// Opened returns when the session began.
func (s *Session) Opened() time.Time { return s.opened }

// Done is closed when the session has ended: cut by this node, closed by the
// caller, or found broken by a Read or Write. A peer that hangs up is noticed
// by a Read only.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err tells why the session ended: a [*chancery.RefusedError] if the peer does
// not stand any more, [ErrSessionExpired], [net.ErrClosed] after a Close, or
// the connection's own error. It is nil while the session lives.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Read reads what the peer sent, and returns [io.EOF] when the peer said that
// this was all: a connection that ends otherwise is [io.ErrUnexpectedEOF]. Once
// the session has been cut it returns nothing more, not even what had arrived
// before.
func (s *Session) Read(b []byte) (int, error) {
	if err := s.Err(); err != nil {
		return 0, err
	}
	n, err := s.tls.Read(b)
	if err == io.EOF && s.wire.ended.Load() {
		err = io.ErrUnexpectedEOF
	}
	if cut := s.Err(); err == nil && cut != nil {
		return 0, cut
	}
	return n, s.observe(err)
}

// Write sends b to the peer.
func (s *Session) Write(b []byte) (int, error) {
	if err := s.Err(); err != nil {
		return 0, err
	}
	n, err := s.tls.Write(b)
	return n, s.observe(err)
}

// observe ends the session if the connection is broken, and returns the error
// that the caller is to see.
func (s *Session) observe(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.abort(err) // does nothing if it was cut, which is why the call failed
	return s.err
}

// CloseWrite tells the peer that nothing more will come; its Read returns
// [io.EOF].
func (s *Session) CloseWrite() error { return s.tls.CloseWrite() }

// Close ends the session in good order: the peer's Read returns [io.EOF]. It
// may wait up to 5 seconds for a peer that does not read. Closing a session
// that has ended already is no error.
func (s *Session) Close() error {
	if !s.end(net.ErrClosed) {
		return nil
	}
	// Until the peer has been told, the session stays where a revocation
	// finds it.
	defer s.node.remove(s)
	return s.tls.Close()
}

// Abort ends the session without a word: the peer sees a broken connection and
// not the end of what was to come.
func (s *Session) Abort() { s.abort(net.ErrClosed) }

// LocalAddr returns this end's network address.
func (s *Session) LocalAddr() net.Addr { return s.raw.LocalAddr() }

// RemoteAddr returns the peer's network address.
func (s *Session) RemoteAddr() net.Addr { return s.raw.RemoteAddr() }

// SetDeadline sets both deadlines. After a Write that ran into its deadline
// the session cannot be written any more.
func (s *Session) SetDeadline(t time.Time) error { return s.tls.SetDeadline(t) }

// SetReadDeadline sets the deadline of Read.
func (s *Session) SetReadDeadline(t time.Time) error { return s.tls.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of Write.
func (s *Session) SetWriteDeadline(t time.Time) error { return s.tls.SetWriteDeadline(t) }

// end marks the session as ended and reports whether it was not before.
func (s *Session) end(err error) (first bool) {
	s.ended.Do(func() {
		s.err, first = err, true
		close(s.done)
	})
	return first
}

// abort ends the session and closes the connection without a word to the peer:
// an alert could block for as long as the peer does not read.
func (s *Session) abort(err error) (first bool) {
	first = s.end(err)
	var refused *chancery.RefusedError
	if tcp, ok := s.raw.(*net.TCPConn); ok && (errors.As(err, &refused) || err == net.ErrClosed) {
		tcp.SetLinger(0) // nothing that waits in the kernel reaches a revoked peer
	}
	s.raw.Close()
	s.node.remove(s)
	return first
}

// cut is abort for a session that was open, by this node's decision.
func (s *Session) cut(err error) bool {
	first := s.abort(err)
	if first {
		s.node.noteCut(s, err)
	}
	return first
}

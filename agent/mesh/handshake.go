package mesh

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
)

// handshakeTimeout bounds the time from the connection to the greeting.
const handshakeTimeout = 10 * time.Second

// The greeting is the responder's first byte inside of the TLS connection
// (docs/protocol.md section 7).
const (
	greetReady   = 1
	greetRefused = 2 // the peer passed the handshake, but does not stand any more
)

// A handshake is a connection on its way to being a session.
type handshake struct {
	node *Node
	raw  net.Conn
	wire wire   // raw, as TLS sees it
	want string // the name that was dialled; empty on the side that listens
	// peer is what VerifyConnection accepted. Until the TLS handshake has
	// returned, the peer has not shown that it holds its key.
	peer  *chancery.Peer
	guest Guest // if another protocol is wanted than that of nodes
}

// A wire notes that nothing more will come, which crypto/tls does not tell from
// a close_notify: without that an end may be anybody's (RFC 8446 section 6.1).
type wire struct {
	net.Conn
	ended atomic.Bool
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err == io.EOF {
		w.ended.Store(true)
	}
	return n, err
}

func (h *handshake) server() *tls.Conn {
	o := h.node.options(nil)
	h.wire.Conn = h.raw
	c := h.remember(o, chancery.ServerConfig(o))
	c.GetConfigForClient = h.hello
	return tls.Server(&h.wire, c)
}

func (h *handshake) client() *tls.Conn {
	o := h.node.options(nil)
	h.wire.Conn = h.raw
	return tls.Client(&h.wire, h.remember(o, chancery.ClientConfig(o, h.want)))
}

// remember keeps the peer that is accepted, so that it need not be judged a
// second time after the handshake.
func (h *handshake) remember(o chancery.TLSOptions, c *tls.Config) *tls.Config {
	c.VerifyConnection = func(cs tls.ConnectionState) (err error) {
		h.peer, err = o.VerifyConnection(cs, h.want)
		return err
	}
	return c
}

// admit makes a session of a connection whose TLS handshake is done: register
// first, look up once more after that. A revocation before the look-up is
// seen by it; Recheck after a later one finds the session. The session is
// nil if the node is closed; on other errors the caller aborts it.
func (h *handshake) admit(conn *tls.Conn) (*Session, error) {
	n := h.node
	s := &Session{node: n, tls: conn, raw: h.raw, wire: &h.wire, peer: h.peer, inbound: h.want == "", done: make(chan struct{})}
	s.opened = n.config.Now().Round(0) // by the clock on the wall: a machine that sleeps does not stop it
	s.ends = s.opened.Add(n.config.MaxSession)
	if h.peer.Until.Before(s.ends) {
		s.ends = h.peer.Until
	}
	if err := n.register(s); err != nil {
		return nil, err
	}
	return s, n.stands(s, n.config.Policy)
}

// reason says what ended the TLS handshake.
func (h *handshake) reason(err error) error {
	var refused *chancery.RefusedError
	if errors.As(err, &refused) {
		return err
	}
	if byPeer, ok := refusedByPeer(err); ok {
		return byPeer
	}
	if h.peer != nil && !brokeOff(err) {
		return &chancery.RefusedError{Check: chancery.CheckChannel, Peer: h.peer.Name, Reason: fmt.Errorf("%w: %w", ErrPossession, err)}
	}
	return err
}

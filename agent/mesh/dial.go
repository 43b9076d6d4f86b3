package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/chancery-pki/chancery"
)

// Dial opens a session to the node of the name at a network address, and
// returns when that node has accepted this one. The whole handshake takes 10
// seconds at most, also if ctx has more time.
//
// If the peer's certificate is newer than the CRL held, Dial calls
// [Config.OnNewerCRL] and tries once more. Errors are
// [*chancery.RefusedError], [*RefusedByPeerError], [ErrNotReady] and those of
// the network, wrapped.
func (n *Node) Dial(ctx context.Context, network, addr, name string) (*Session, error) {
	s, err := n.dialOnce(ctx, network, addr, name)
	if errors.Is(err, chancery.ErrNewerThanCRL) && n.config.OnNewerCRL != nil {
		if fetchErr := n.fetchCRL(ctx); fetchErr != nil {
			return nil, fmt.Errorf("mesh: dial %s at %s: %w; fetching the CRL: %w", name, addr, err, fetchErr)
		}
		s, err = n.dialOnce(ctx, network, addr, name)
	}
	if err != nil {
		return nil, fmt.Errorf("mesh: dial %s at %s: %w", name, addr, err)
	}
	return s, nil
}

func (n *Node) dialOnce(ctx context.Context, network, addr, name string) (*Session, error) {
	d := net.Dialer{Timeout: handshakeTimeout}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return n.Client(ctx, raw, name)
}

// Client is [Node.Dial] over a connection that exists: through a proxy, or a
// network of one's own. It makes one attempt. The connection belongs to the
// session, and is closed if there is none.
func (n *Node) Client(ctx context.Context, raw net.Conn, name string) (*Session, error) {
	s, err := n.client(ctx, raw, name)
	if err != nil {
		raw.Close()
		if n.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		n.noteRefusal(err, raw.RemoteAddr())
		return nil, err
	}
	n.noteOpened(s)
	return s, nil
}

func (n *Node) client(ctx context.Context, raw net.Conn, name string) (*Session, error) {
	// Without a name any node of the fleet could answer for any other.
	if err := chancery.ValidateName(name); err != nil {
		return nil, err
	}
	if err := n.begin(); err != nil {
		return nil, err
	}
	defer n.work.Done()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()

	h := &handshake{node: n, raw: raw, want: name}
	conn := h.client()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, h.reason(err)
	}
	s, err := h.admit(conn)
	if err == nil {
		err = awaitReady(ctx, conn, raw)
	}
	if err != nil && s != nil {
		// A session that was cut meanwhile knows better than its connection.
		s.abort(err)
		return nil, s.err
	}
	return s, err
}

// awaitReady reads the greeting. The TLS handshake has returned on this side,
// but the responder judges only now, so its refusal arrives here.
func awaitReady(ctx context.Context, conn *tls.Conn, raw net.Conn) error {
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	var greeting [1]byte
	_, err := conn.Read(greeting[:])
	if !stop() {
		return ctx.Err()
	}
	if byPeer, ok := refusedByPeer(err); ok {
		return byPeer
	}
	switch {
	case err != nil:
		return notReady(err)
	case greeting[0] == greetRefused:
		return &RefusedByPeerError{}
	case greeting[0] != greetReady:
		return notReady(fmt.Errorf("its greeting is %#x", greeting[0]))
	}
	return nil
}

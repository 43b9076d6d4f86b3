package mesh

import (
	"crypto/tls"
	"net"
	"slices"

	"github.com/chancery-pki/chancery"
)

// A Guest is another protocol at a node's listeners. Who speaks it is no peer:
// nobody is judged by this package, and nothing of it is a session.
type Guest interface {
	// TLS returns the configuration for a connection that asks for the protocol,
	// or an error that refuses it. It is called for every such connection before
	// any work is done for it.
	TLS(remote net.Addr) (*tls.Config, error)
	// Serve has the connection until it returns, and sets its deadlines. It is
	// closed under Serve when the listener is, and when handshakes have to wait
	// for the place that it takes among them.
	Serve(conn net.Conn) error
}

// hello looks which protocol is wanted. Nodes that offer their own get that.
func (h *handshake) hello(info *tls.ClientHelloInfo) (*tls.Config, error) {
	if slices.Contains(info.SupportedProtos, chancery.ALPN) {
		return nil, nil
	}
	for _, name := range info.SupportedProtos {
		if guest := h.node.config.Guests[name]; guest != nil {
			config, err := guest.TLS(h.raw.RemoteAddr())
			if err == nil {
				h.guest = guest
			}
			return config, err
		}
	}
	return nil, nil
}

// host serves a guest.
func (l *Listener) host(g Guest, conn *tls.Conn) {
	if err := g.Serve(conn); err != nil {
		l.node.config.Logger.Debug("guest", "protocol", conn.ConnectionState().NegotiatedProtocol, "remote", conn.RemoteAddr(), "error", err)
	}
	conn.Close()
}

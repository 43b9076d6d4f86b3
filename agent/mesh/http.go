package mesh

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/chancery-pki/chancery"
)

type peerKey struct{}

// ConnContext is for the field of that name of an [http.Server] that serves a
// [Listener]: it lets handlers ask [PeerFromContext]. TLS is done by the
// listener, so the server must be started with Serve, requests have no TLS
// field, and the protocol is HTTP/1.1.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(*Session); ok {
		return context.WithValue(ctx, peerKey{}, s.peer)
	}
	return ctx
}

// PeerFromContext returns the node that a request came from. It is false for
// requests that did not come over a session; refuse those.
func PeerFromContext(ctx context.Context) (*chancery.Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(*chancery.Peer)
	return p, ok
}

// Transport returns an HTTP transport for URLs whose host is a node's name,
// as in https://edge-2/status. It asks resolve for the node's network address
// ("10.0.0.7:7443"); a port in the URL is ignored. URLs with the scheme http
// are refused: they would not go over a session.
func (n *Node) Transport(resolve func(ctx context.Context, name string) (addr string, err error)) *http.Transport {
	return &http.Transport{
		IdleConnTimeout: 90 * time.Second,
		DialTLSContext: func(ctx context.Context, network, hostPort string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(hostPort)
			if err != nil {
				return nil, fmt.Errorf("mesh: %w", err)
			}
			addr, err := resolve(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("mesh: address of %s: %w", name, err)
			}
			s, err := n.Dial(ctx, network, addr, name)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		DialContext: func(_ context.Context, _, hostPort string) (net.Conn, error) {
			return nil, fmt.Errorf("mesh: %s: a URL without https does not lead over a session", hostPort)
		},
	}
}

package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

var (
	// ErrSessionExpired ends a session at the end of its peer's N:C or after
	// [Config.MaxSession]. Dial again.
	ErrSessionExpired = errors.New("session expired")
	// ErrNotReady means that the peer's end of the connection closed after
	// the TLS handshake, before the peer had said that it accepts this node.
	ErrNotReady = errors.New("peer closed the connection before it was ready")
	// ErrPossession is the reason of a [chancery.RefusedError] for a peer that
	// showed good certificates without holding their key: somebody replays
	// what he recorded.
	ErrPossession = errors.New("peer does not hold the key of its certificate")
)

// A RefusedByPeerError means that the peer does not accept this node. Alert
// is the text of the TLS alert (RFC 8446 section 6), "bad certificate" for
// all checks of certificates; it is empty if the peer had second thoughts
// after the handshake, for instance because this node was revoked meanwhile.
type RefusedByPeerError struct {
	Alert string
}

func (e *RefusedByPeerError) Error() string {
	if e.Alert == "" {
		return "refused by the peer after the handshake"
	}
	return "refused by the peer: " + e.Alert
}

// Hint tells where the reason is to be found.
func (e *RefusedByPeerError) Hint() string {
	return "the peer's log names the check that this node did not pass; look whether this node's certificate is revoked or expired, and whether the peer has a fresh CRL"
}

// refusedByPeer returns the TLS alert in err, if that is what ended the
// connection. crypto/tls marks the peer's alerts by the Op only.
func refusedByPeer(err error) (*RefusedByPeerError, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return nil, false
	}
	return &RefusedByPeerError{Alert: strings.TrimPrefix(op.Err.Error(), "tls: ")}, true
}

// brokeOff tells errors of the connection from those of what came over it.
func brokeOff(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, context.Canceled)
}

func notReady(err error) error { return fmt.Errorf("%w: %w", ErrNotReady, err) }

package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/ping"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A PingRequest asks the agent to ping a peer.
type PingRequest struct {
	Name     string        `json:"name"`
	Address  string        `json:"address,omitempty"` // host:port; empty: ask the coordinator
	Count    int           `json:"count"`
	Interval time.Duration `json:"interval"` // nanoseconds
	Keep     bool          `json:"keep"`     // until the session is cut; Count does not matter
}

// Kinds of a PingEvent.
const (
	EventSession = "session" // both ends have accepted each other
	EventPong    = "pong"
	EventEnd     = "end" // always the last one
)

// A PingEvent is one thing that happened.
type PingEvent struct {
	Event   string  `json:"event"`
	Address string  `json:"address,omitempty"` // that was dialled
	MS      float64 `json:"ms,omitempty"`      // of the handshake, or of the round trip
	Seq     uint64  `json:"seq,omitempty"`
	// Of a session: whom this node accepted, and whom the peer says that it
	// accepted.
	Peer *ping.Peer `json:"peer,omitempty"`
	Self *ping.Peer `json:"self,omitempty"`
	// Of an end, if it is not the expected one.
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Refused bool   `json:"refused,omitempty"` // by one of the two nodes' checks
	Check   string `json:"check,omitempty"`   // by which, if this node refused
}

// ping opens one session to a peer and pings over it. It tells of everything
// that happens, failures included.
func (a *agent) ping(ctx context.Context, r *PingRequest, tell func(PingEvent)) {
	end := PingEvent{Event: EventEnd}
	if err := a.pingSession(ctx, r, tell); err != nil {
		end.Error, end.Hint = err.Error(), cli.HintOf(err)
		if refused, ok := errors.AsType[*chancery.RefusedError](err); ok {
			end.Refused, end.Check = true, string(refused.Check)
		}
		if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); ok {
			end.Refused = true
		}
	}
	tell(end)
}

func (a *agent) pingSession(ctx context.Context, r *PingRequest, tell func(PingEvent)) error {
	address := r.Address
	if address == "" {
		var err error
		if address, err = a.resolve(ctx, r.Name); err != nil {
			return err
		}
	}
	start := time.Now()
	s, err := a.dial(ctx, address, r.Name)
	if err != nil {
		return err
	}
	handshake := time.Since(start)
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()

	client := ping.NewClient(s)
	for n := 0; r.Keep || n < r.Count; n++ {
		if n > 0 && !a.pauseInSession(ctx, s, r.Interval) {
			return a.cause(ctx, s, s.Err())
		}
		pong, took, err := client.Ping()
		if err != nil {
			return a.cause(ctx, s, err)
		}
		if n == 0 {
			peer := ping.Describe(s.Peer())
			tell(PingEvent{Event: EventSession, Address: address, MS: milliseconds(handshake), Peer: &peer, Self: &pong.Peer})
		}
		tell(PingEvent{Event: EventPong, Seq: pong.Seq, MS: milliseconds(took)})
	}
	return nil
}

// pauseInSession waits between two pings and reports whether the session still
// lives.
func (a *agent) pauseInSession(ctx context.Context, s *mesh.Session, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.Done():
	case <-ctx.Done():
	}
	return false
}

// cause finds out why a session ended. If this node did not end it, the peer
// did, and the likeliest reason that a peer has is the one that it would not
// tell: this node is revoked.
func (a *agent) cause(ctx context.Context, s *mesh.Session, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if cut := s.Err(); cut != nil && !errors.Is(cut, net.ErrClosed) {
		err = cut
	}
	if _, ok := errors.AsType[*chancery.RefusedError](err); ok || errors.Is(err, mesh.ErrSessionExpired) {
		return err
	}
	if fetched := a.fetchCRL(ctx); fetched != nil {
		a.Logger.Debug("looking for the reason of an ended session", "error", fetched)
	}
	if own := ownStanding(a.verifier, a.nc.Load(), a.clock()); own != nil {
		return fmt.Errorf("%w: %w", &mesh.RefusedByPeerError{}, own)
	}
	return fmt.Errorf("%s ended the session: %w", s.Peer().Name, err)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

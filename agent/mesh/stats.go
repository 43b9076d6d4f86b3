package mesh

import (
	"errors"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// Stats are the counts of a node since it was made.
type Stats struct {
	Accepted uint64 // sessions that peers opened
	Dialled  uint64 // sessions that this node opened
	Live     int    // sessions at present
	// Refused counts the peers that this node refused, on either side.
	Refused map[Refusal]uint64
	// RefusedByPeer counts the peers that refused this node, where they said so.
	RefusedByPeer uint64
	// Broken counts handshakes that ended for another reason: timeouts, lost
	// connections, strangers that do not speak TLS.
	Broken uint64
	// Cut counts the sessions that this node ended, by reason: those of
	// [Refusal], "expired", and "closed" for the end of the node itself.
	Cut map[string]uint64
}

// A Refusal is the check that a peer did not pass and the reason, a word out
// of a small set that is fit for a metric's label.
type Refusal struct {
	Check  chancery.Check
	Reason string
}

// reasons gives every reason for a refusal its word.
var reasons = []struct {
	err  error
	word string
}{
	{chancery.ErrRevoked, "revoked"},
	{chancery.ErrNewerThanCRL, "newer-than-crl"},
	{chancery.ErrCRLStale, "crl-stale"},
	{chancery.ErrCRLMissing, "crl-missing"},
	{chancery.ErrCRLFloor, "crl-floor"},
	{chancery.ErrBelowFirst, "below-first"},
	{chancery.ErrUnknownLog, "unknown-log"},
	{chancery.ErrUnknownCA, "unknown-ca"},
	{chancery.ErrCARevoked, "ca-revoked"},
	{chancery.ErrWitness, "witness"},
	{chancery.ErrCASignature, "ca-signature"},
	{chancery.ErrSuiteFloor, "suite-floor"},
	{chancery.ErrNotValidNow, "not-valid-now"},
	{chancery.ErrLife, "life"},
	{chancery.ErrNoNC, "no-certificate"},
	{chancery.ErrNotNC, "not-n-c"},
	{merkle.ErrNotMTC, "not-n-c"},
	{chancery.ErrWrongPeer, "wrong-name"},
	{chancery.ErrSelf, "self"},
	{chancery.ErrRole, "role"},
	{chancery.ErrAssurance, "assurance"},
	{chancery.ErrSimulator, "simulator"},
	{chancery.ErrResumed, "resumed"},
	{chancery.ErrNotTLS13, "tls-version"},
	{chancery.ErrProtocol, "alpn"},
	{ErrPossession, "possession"},
	{chancery.ErrSession, "session-certificate"},
	{chancery.ErrSignature, "signature"},
	{merkle.ErrMalformed, "malformed"},
	{ErrSessionExpired, "expired"},
	{net.ErrClosed, "closed"},
}

func reasonWord(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return "other"
}

// A tally counts what happens to a node.
type tally struct {
	mu                sync.Mutex // guards all fields
	accepted, dialled uint64
	refused           map[Refusal]*refusals
	byPeer, broken    uint64
	cut               map[string]uint64
}

type refusals struct {
	count  uint64
	logged time.Time // when a line about one of them was logged last
}

// Stats returns the counts.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	live := len(n.sessions)
	n.mu.Unlock()
	t := &n.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{
		Accepted: t.accepted, Dialled: t.dialled, Live: live,
		Refused:       make(map[Refusal]uint64, len(t.refused)),
		RefusedByPeer: t.byPeer, Broken: t.broken,
		Cut: maps.Clone(t.cut),
	}
	for k, r := range t.refused {
		s.Refused[k] = r.count
	}
	return s
}

func (n *Node) noteOpened(s *Session) {
	n.known.note(s.peer.NodeID)
	t := &n.tally
	t.mu.Lock()
	if s.inbound {
		t.accepted++
	} else {
		t.dialled++
	}
	t.mu.Unlock()
	n.config.Logger.Debug("session opened", "peer", s.peer.Name, "serial", s.peer.Certificate.Serial, "remote", s.RemoteAddr(), "inbound", s.inbound)
}

// noteRefusal counts and logs a handshake that did not lead to a session.
func (n *Node) noteRefusal(err error, remote net.Addr) {
	var refused *chancery.RefusedError
	var byPeer *RefusedByPeerError
	t := &n.tally
	switch {
	case errors.As(err, &refused):
		kind := Refusal{refused.Check, reasonWord(refused.Reason)}
		if count, due := t.refuse(kind, n.config.Now()); due {
			n.config.Logger.Warn("peer refused", "check", kind.Check, "reason", kind.Reason, "claims", refused.Peer, "remote", remote, "count", count, "error", err)
		}
	case errors.As(err, &byPeer):
		t.mu.Lock()
		t.byPeer++
		t.mu.Unlock()
		n.config.Logger.Debug("refused by peer", "remote", remote, "error", err)
	default:
		t.mu.Lock()
		t.broken++
		t.mu.Unlock()
		n.config.Logger.Debug("handshake broke off", "remote", remote, "error", err)
	}
}

// refuse counts a refusal, and says whether a line of log about its kind is
// due: one a second, because whoever dials can cause as many as he likes.
func (t *tally) refuse(kind Refusal, now time.Time) (count uint64, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.refused[kind]
	if r == nil {
		r = &refusals{}
		if t.refused == nil {
			t.refused = map[Refusal]*refusals{}
		}
		t.refused[kind] = r
	}
	r.count++
	if due = now.Sub(r.logged).Abs() >= time.Second; due {
		r.logged = now
	}
	return r.count, due
}

func (n *Node) noteCut(s *Session, err error) {
	word, t := reasonWord(err), &n.tally
	t.mu.Lock()
	if t.cut == nil {
		t.cut = map[string]uint64{}
	}
	t.cut[word]++
	t.mu.Unlock()
	n.config.Logger.Info("session cut", "peer", s.peer.Name, "serial", s.peer.Certificate.Serial, "remote", s.RemoteAddr(), "reason", word, "error", err)
}

package mesh

import (
	"fmt"
	"net"
	"time"

	"github.com/chancery-pki/chancery"
)

// sweepEvery is how long a session stands unchecked at most. The ends of
// sessions and of the CRL that are known beforehand are met exactly; this is
// for clocks that were set or slept, and for updates of the verifier that
// nobody told the node about.
const sweepEvery = time.Minute

// register makes a session one that Recheck finds.
func (n *Node) register(s *Session) error {
	crl, now := n.config.Verifier.Trust().CRL, n.config.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	n.sessions[s] = struct{}{}
	n.wakeFor(s, crl, now)
	return nil
}

func (n *Node) remove(s *Session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sessions, s)
}

func (n *Node) live() []*Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	live := make([]*Session, 0, len(n.sessions))
	for s := range n.sessions {
		live = append(live, s)
	}
	return live
}

// Recheck judges the peers of all live sessions by what the verifier holds
// now, closes the sessions of those that do not stand, and returns how many
// it closed. Call it after every newer CRL and pointer record.
func (n *Node) Recheck() (cut int) {
	policy := n.config.Policy
	policy.Known = func(chancery.NodeID) bool { return true } // each passed all checks when its session began
	for _, s := range n.live() {
		if err := n.stands(s, policy); err != nil && s.cut(err) {
			cut++
		}
	}
	n.foresee()
	return cut
}

// foresee has sweep run when the first of the live sessions may have to end, by
// the list that is held now.
func (n *Node) foresee() {
	crl, now := n.config.Verifier.Trust().CRL, n.config.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.sessions {
		n.wakeFor(s, crl, now)
	}
}

// stands judges a registered session's peer once more.
func (n *Node) stands(s *Session, policy chancery.Policy) error {
	now := n.config.Now()
	if !now.Before(s.ends) {
		return fmt.Errorf("%w: opened %s, ended %s", ErrSessionExpired, s.opened.Format(time.RFC3339), s.ends.Format(time.RFC3339))
	}
	return n.config.Verifier.Recheck(s.peer, policy, now)
}

// sweep runs when something that was foreseen may have come about.
func (n *Node) sweep() {
	if n.begin() != nil {
		return
	}
	defer n.work.Done()
	n.mu.Lock()
	n.wake = time.Time{} // whoever registers from here on sets the timer again
	n.mu.Unlock()
	n.Recheck()
}

// wakeFor has sweep run when the session may have to end, if it would not
// run earlier. The caller holds mu.
func (n *Node) wakeFor(s *Session, crl *chancery.CRL, now time.Time) {
	wake := now.Add(sweepEvery)
	if s.ends.Before(wake) {
		wake = s.ends
	}
	if crl != nil {
		// A list is good at its nextUpdate, and stale just after.
		stale := crl.Head().NextUpdate.Add(time.Millisecond)
		for _, t := range []time.Time{stale, stale.Add(n.config.Policy.Grace)} {
			if t.After(now) && t.Before(wake) {
				wake = t
			}
		}
	}
	if n.closed || !n.wake.IsZero() && !wake.Before(n.wake) {
		return
	}
	n.wake = wake
	n.timer.Reset(wake.Sub(now))
}

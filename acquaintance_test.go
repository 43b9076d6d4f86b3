package chancery

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// A peer that comes again costs no signature, and everything that may have
// changed about it is looked at all the same.
func TestAcquaintance(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world, v *Verifier, n *node) error
		later  time.Duration
		want   string
		check  Check
		reason error
	}{
		{name: "nothing"},
		{name: "almost over", later: DefaultSessionLife},
		{name: "another node revoked", change: func(w *world, v *Verifier, n *node) error {
			w.revoke(w.enroll("edge-2").nc)
			_, err := v.UpdateCRL(w.publish().Marshal(), w.now)
			return err
		}},
		{name: "revoked", check: CheckCRL, reason: ErrRevoked, change: func(w *world, v *Verifier, n *node) error {
			w.revoke(n.nc)
			_, err := v.UpdateCRL(w.publish().Marshal(), w.now)
			return err
		}},
		{name: "suspended", check: CheckCRL, reason: ErrCRLFork, change: func(w *world, v *Verifier, n *node) error {
			v.Suspend(ErrCRLFork)
			return nil
		}},
		{name: "its CA key revoked", check: CheckNC, reason: ErrCARevoked, change: func(w *world, v *Verifier, n *node) error {
			w.rollOver()
			w.point(func(p *Pointer) { p.Keys[1].State = CAKeyRevoked })
			return v.UpdatePointer(w.pointer(), w.now)
		}},
		{name: "session over", check: CheckSession, reason: ErrSession, change: func(w *world, v *Verifier, n *node) error {
			w.now = w.now.Add(DefaultSessionLife + time.Second)
			_, err := v.UpdateCRL(w.publish().Marshal(), w.now)
			return err
		}},
		{name: "list stale", later: 3 * time.Hour, check: CheckCRL, reason: ErrCRLStale},
		{name: "another one wanted", want: "edge-2", check: CheckName, reason: ErrWrongPeer},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.enroll("edge-1")
			w.publish()
			v := NewVerifier(w.trust())
			first, err := v.Verify(n.certs(), "", NodeID{}, Policy{}, w.now)
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				if err := test.change(w, v, n); err != nil {
					t.Fatal(err)
				}
			}
			before := verifications.Load() // the lists cost some
			again, err := v.Verify(n.certs(), test.want, NodeID{}, Policy{}, w.now.Add(test.later))
			if spent := verifications.Load() - before; spent != 0 {
				t.Errorf("%d signatures verified", spent)
			}
			if test.reason != nil {
				refused(t, err, test.check, test.reason)
			} else if err != nil || again.NodeID != first.NodeID || again.Name != "edge-1" || !bytes.Equal(again.Certificate.Raw(), n.nc.Raw()) {
				t.Errorf("%+v, %v", again, err)
			}
		})
	}
}

// Who is remembered is who showed these very certificates and passed.
func TestNotAcquainted(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	w.publish()
	v := NewVerifier(w.trust())
	verify := func(certs [][]byte) (spent uint64, err error) {
		before := verifications.Load()
		_, err = v.Verify(certs, "", NodeID{}, Policy{}, w.now)
		return verifications.Load() - before, err
	}
	broken := bytes.Clone(n.certificate)
	broken[len(broken)-1] ^= 1
	for range 2 { // a refusal is not remembered as a success
		if _, err := verify([][]byte{broken, n.nc.Raw()}); !errors.Is(err, ErrSession) {
			t.Error(err)
		}
	}
	if _, err := verify(n.certs()); err != nil {
		t.Fatal(err)
	}
	// The next session certificate of the same node, N:C alone, and the two in
	// another order or with other ends.
	w.now = w.now.Add(time.Minute)
	next := w.newSession(n.nc)
	for name, test := range map[string]struct {
		certs [][]byte
		spent uint64
		good  bool
	}{
		"the next session": {next.certs(), 2, true}, // N:S and the session certificate
		"N:C alone":        {[][]byte{n.nc.Raw()}, 1, true},
		"turned round":     {[][]byte{n.nc.Raw(), n.certificate}, 0, false},
		"one for two":      {[][]byte{append(bytes.Clone(n.certificate), n.nc.Raw()...)}, 0, false},
	} {
		if spent, err := verify(test.certs); spent != test.spent || (err == nil) != test.good {
			t.Errorf("%s: %d signatures, %v", name, spent, err)
		}
	}
	// It is bounded.
	for i := range maxKnown {
		v.known[[32]byte{byte(i), byte(i >> 8), 1}] = &acquaintance{}
	}
	if spent, err := verify(w.enroll("edge-2").certs()); err != nil || spent == 0 || len(v.known) > maxKnown {
		t.Errorf("%d acquaintances after an overflow, %d signatures, %v", len(v.known), spent, err)
	}
}

// BenchmarkVerify is what a peer costs who is met for the first time out of a
// batch that is known, and again.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	n := w.enroll("edge-1")
	w.publish()
	certs := n.certs()
	for name, known := range map[string]bool{"first": false, "known": true} {
		b.Run(name, func(b *testing.B) {
			v := NewVerifier(w.trust())
			b.ReportAllocs()
			for b.Loop() {
				if !known {
					clear(v.known)
				}
				if _, err := v.Verify(certs, "edge-1", NodeID{}, Policy{}, w.now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package gossip_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// Whoever has the newer list sends it, whichever side dialled: the deltas that
// it has, if the other one holds where they begin, else all of it.
func TestNewerListPasses(t *testing.T) {
	for _, test := range []struct {
		name   string
		behind int // lists
		lost   bool
		takes  []string
	}{
		{"nothing newer", 0, false, nil},
		{"one step", 1, false, []string{"crl-delta"}},
		{"three steps", 3, false, []string{"crl-delta", "crl-delta", "crl-delta"}},
		{"as many steps as are kept", 16, false, steps(16)},
		{"too many steps", 17, false, []string{"crl"}},
		{"the deltas are not there any more", 2, true, []string{"crl"}},
	} {
		for _, side := range []string{"the dialler", "who is dialled"} {
			t.Run(test.name+", "+side, func(t *testing.T) {
				w := newWorld(t)
				ahead, behind := w.enroll("ahead"), w.enroll("behind")
				var newest []byte
				for range test.behind {
					newest = w.publish()
					ahead.update(newest)
				}
				if test.lost { // as after a restart
					ahead.gossip.Keep(newest)
				}
				from, to := ahead, behind
				if side != "the dialler" {
					from, to = behind, ahead
				}
				moved, err := from.ask(to)
				if err != nil || moved != (test.behind > 0) {
					t.Errorf("moved %t, %v", moved, err)
				}
				behind.wantTook(1+uint64(test.behind), test.takes...)
				ahead.wantTook(1 + uint64(test.behind))
				if moved, err := from.ask(to); moved || err != nil {
					t.Errorf("once more: moved %t, %v", moved, err)
				}
			})
		}
	}
}

func steps(n int) (all []string) {
	for range n {
		all = append(all, "crl-delta")
	}
	return all
}

// What was passed on can be passed on: deltas as they came.
func TestPassedOn(t *testing.T) {
	w := newWorld(t)
	first, second, third := w.enroll("first"), w.enroll("second"), w.enroll("third")
	for range 4 {
		first.update(w.publish())
	}
	if _, err := first.ask(second); err != nil {
		t.Fatal(err)
	}
	second.wantTook(5, steps(4)...)
	if _, err := third.ask(second); err != nil {
		t.Fatal(err)
	}
	third.wantTook(5, steps(4)...)
}

// A node without any list gets one.
func TestFirstList(t *testing.T) {
	w := newWorld(t)
	ahead, empty := w.enroll("ahead"), w.enroll("empty")
	empty.start(chancery.Trust{Pointer: w.Trust().Pointer})
	if _, err := empty.ask(ahead); err != nil {
		t.Fatal(err)
	}
	empty.wantTook(1, "crl")
	// Two that have none have nothing to say to each other.
	empty.start(chancery.Trust{Pointer: w.Trust().Pointer})
	ahead.start(chancery.Trust{Pointer: w.Trust().Pointer})
	if moved, err := empty.ask(ahead); moved || err != nil {
		t.Errorf("moved %t, %v", moved, err)
	}
}

// Nodes whose lists are stale refuse each other. Whoever gets a fresh one gives
// it to the others, and the revocation in it cuts the session that was open.
func TestStaleNodesRecover(t *testing.T) {
	w := newWorld(t)
	one, two, lost := w.enroll("one"), w.enroll("two"), w.enroll("lost")
	list := w.publish() // names all three as issued
	for _, n := range []*node{one, two, lost} {
		n.update(list)
	}
	session, err := two.mesh.Dial(t.Context(), "tcp", lost.address(), "lost")
	if err != nil {
		t.Fatal(err)
	}
	w.publish(lost)
	w.advance(30 * time.Minute)
	one.update(w.publish())
	if _, err := two.ask(one); err != nil {
		t.Fatal(err)
	}
	two.wantTook(4, "crl-delta")
	<-session.Done()
	checkIs(t, session.Err(), chancery.ErrRevoked)

	w.advance(2 * time.Hour)
	_, err = two.mesh.Dial(t.Context(), "tcp", one.address(), "one")
	checkIs(t, err, chancery.ErrCRLStale)
	one.update(w.publish())
	if moved, err := one.ask(two); !moved || err != nil {
		t.Fatalf("moved %t, %v", moved, err)
	}
	two.wantTook(5, "crl-delta", "crl-delta")
	if _, err := two.mesh.Dial(t.Context(), "tcp", one.address(), "one"); err != nil {
		t.Error(err)
	}
}

// The pointer record passes likewise, before the list: it names the CA key
// that signed it.
func TestRecordPasses(t *testing.T) {
	for _, side := range []string{"the dialler", "who is dialled"} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t)
			ahead, behind := w.enroll("ahead"), w.enroll("behind")
			p, err := w.Rollover(chancery.CAKeyRetired)
			if err != nil {
				t.Fatal(err)
			}
			if err := ahead.takePointer(p); err != nil {
				t.Fatal(err)
			}
			ahead.update(w.publish())
			from, to := ahead, behind
			if side != "the dialler" {
				from, to = behind, ahead
			}
			if moved, err := from.ask(to); !moved || err != nil {
				t.Fatalf("moved %t, %v", moved, err)
			}
			behind.wantTook(2, "record", "crl-delta")
		})
	}
}

// Nodes and exchanges share a port, and neither is taken for the other.
func TestSharesThePort(t *testing.T) {
	w := newWorld(t)
	one, two := w.enroll("one"), w.enroll("two")
	list := w.publish()
	one.update(list)
	two.update(list)
	for range 3 {
		s, err := one.mesh.Dial(t.Context(), "tcp", two.address(), "two")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.ask(two); err != nil {
			t.Fatal(err)
		}
		if err := s.Err(); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	if s := two.mesh.Stats(); s.Accepted != 3 || s.Broken != 0 || len(s.Refused) != 0 {
		t.Errorf("counted %+v, want three sessions", s)
	}
}

// Another fleet's nodes learn nothing and teach nothing.
func TestOtherFleet(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	one, two := w.enroll("one"), other.enroll("two")
	two.update(other.publish())
	moved, err := one.ask(two)
	if moved || err == nil {
		t.Errorf("moved %t, %v", moved, err)
	}
	s := dial(t, one)
	s.Write(as(two.verifier.Trust()).bytes())
	if b := s.rest(); len(b) > 0 {
		t.Errorf("a node tells another fleet's node %x", b)
	}
	one.wantTook(1)
	two.wantTook(2)
}

// A list that came from elsewhere during the exchange, and is newer, is no
// reason to distrust the peer.
func TestOvertaken(t *testing.T) {
	w := newWorld(t)
	behind := w.enroll("behind")
	second := w.publish()
	trust := w.Trust()
	third := w.publish()
	address := impostor(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 112))
		c.Write(as(trust).bytes())
		if behind.number() == 1 {
			behind.takeCRL(third)
			c.Write(frame(second))
		}
		io.Copy(io.Discard, c)
	})
	moved, err := behind.gossip.Exchange(t.Context(), address)
	checkIs(t, err, chancery.ErrCRLRollback)
	if moved {
		t.Error("an older list counts as something newer")
	}
	for range 5 {
		if _, err := behind.gossip.Exchange(t.Context(), address); err != nil {
			t.Errorf("later: %v", err)
		}
	}
	behind.wantTook(3, "crl")
}

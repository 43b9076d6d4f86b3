package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// atTheEnd checks that a session lives for the time and no longer.
func atTheEnd(t *testing.T, life time.Duration, check func(error), sessions ...*mesh.Session) {
	t.Helper()
	opened := sessions[0].Opened()
	time.Sleep(time.Until(opened.Add(life - time.Second)))
	synctest.Wait()
	for _, s := range sessions {
		if err := s.Err(); err != nil {
			t.Errorf("ended a second or more early: %v", err)
		}
	}
	time.Sleep(2 * time.Second)
	synctest.Wait()
	for _, s := range sessions {
		if s.Err() == nil {
			t.Errorf("lives a second longer than %s", life)
			continue
		}
		check(s.Err())
	}
}

func TestSessionsExpire(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		name       string
		nc         time.Duration // life of N:C
		maxSession time.Duration
		want       time.Duration
	}{
		{"with the certificate", 3 * time.Hour, 0, 3 * time.Hour},
		{"after 12 hours", 7 * day, 0, 12 * time.Hour},
		{"as configured", 7 * day, 90 * time.Second, 90 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fleet.Options{Life: test.nc, CRLLife: 30 * day})
				edit := func(c *mesh.Config) { c.MaxSession = test.maxSession }
				a, b := w.enroll("a", edit), w.enroll("b", edit)
				// N:C counts in whole seconds, and time here starts with one.
				near, far := pipePair(t, a, b)
				atTheEnd(t, test.want, func(err error) { checkIs(t, err, mesh.ErrSessionExpired) }, near, far)
				if s := a.Stats(); s.Cut["expired"] != 1 || s.Live != 0 {
					t.Errorf("counted %+v", s)
				}
			})
		})
	}
}

// Without grace, live sessions end with the CRL. With it they have that much
// longer, also where nobody knows the peers otherwise.
func TestSessionsEndWithTheCRL(t *testing.T) {
	for _, grace := range []time.Duration{0, 20 * time.Minute} {
		t.Run(grace.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fleet.Options{CRLLife: time.Hour})
				edit := func(c *mesh.Config) { c.Policy.Grace = grace }
				a, b := w.enroll("a", edit), w.enroll("b", edit)
				list := w.publish() // one that knows both
				a.update(list)
				b.update(list)
				near, far := pipePair(t, a, b)
				atTheEnd(t, time.Hour+grace, func(err error) { checkRefused(t, err, chancery.CheckCRL, chancery.ErrCRLStale) }, near, far)
			})
		})
	}
}

// A newer list that arrives in time keeps the sessions.
func TestHeartbeatsKeepSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{CRLLife: time.Hour})
		a, b := w.enroll("a"), w.enroll("b")
		near, far := pipePair(t, a, b)
		for range 11 {
			time.Sleep(50 * time.Minute)
			list := w.publish()
			a.update(list)
			b.update(list)
		}
		checkAlive(t, near, far)
	})
}

// Past the CRL's end, within the grace, new sessions are for peers that are
// known from before.
func TestGraceIsForKnownPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{CRLLife: time.Hour})
		known := map[chancery.NodeID]bool{}
		grace := func(c *mesh.Config) {
			c.Policy.Grace = 20 * time.Minute
			c.Policy.Known = func(id chancery.NodeID) bool { return known[id] }
		}
		hub := w.enroll("hub", grace)
		friend, stranger := w.enroll("friend"), w.enroll("stranger")
		known[friend.paper.ID] = true
		hub.update(w.publish())
		network := newPipes()
		l, err := hub.NewListener(network)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + time.Minute)
		fresh := w.publish() // reaches the two, but not the hub
		friend.update(fresh)
		stranger.update(fresh)
		s, err := friend.Client(context.Background(), network.dial(), "hub")
		if err != nil {
			t.Fatalf("a known peer within the grace: %v", err)
		}
		far, err := l.AcceptSession()
		if err != nil {
			t.Fatal(err)
		}
		checkAlive(t, s, far)
		if _, err := stranger.Client(context.Background(), network.dial(), "hub"); err == nil {
			t.Error("an unknown peer was let in by a stale CRL")
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if n := hub.Stats().Refused[mesh.Refusal{Check: chancery.CheckCRL, Reason: "crl-stale"}]; n != 1 {
			t.Errorf("counted %+v", hub.Stats())
		}
	})
}

// Whom a node knows, unless it is told, are those with whom it has had a
// session, whoever dialled.
func TestNodeKnowsItsPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{CRLLife: time.Hour})
		hub := w.enroll("hub", func(c *mesh.Config) { c.Policy.Grace = 20 * time.Minute })
		guest, host, stranger := w.enroll("guest"), w.enroll("host"), w.enroll("stranger")
		all := []*member{hub, guest, host, stranger}
		list := w.publish()
		for _, m := range all {
			m.update(list)
		}
		pipePair(t, guest, hub)
		pipePair(t, hub, host)
		time.Sleep(time.Hour + time.Minute)
		fresh := w.publish() // reaches the others, but not the hub
		for _, m := range all[1:] {
			m.update(fresh)
		}
		for _, peer := range []struct {
			*member
			known bool
		}{{guest, true}, {host, true}, {stranger, false}} {
			network := newPipes()
			if _, err := hub.NewListener(network); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Client(context.Background(), network.dial(), "hub"); (err == nil) != peer.known {
				t.Errorf("%s within the grace: %v", peer.paper.Name, err)
			}
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
	})
}

// A list that somebody gave to the verifier without telling the node cuts
// sessions all the same, within a minute.
func TestSweepFindsWhatNobodyTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{})
		a, b := w.enroll("a"), w.enroll("b")
		near, _ := pipePair(t, a, b)
		if _, err := a.verifier.UpdateCRL(w.revoke(b), time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		checkIs(t, near.Err(), chancery.ErrRevoked)
	})
}

// A machine that slept finds its clock ahead of its timers.
func TestSweepFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Options{CRLLife: 48 * time.Hour})
		a, b := w.enroll("a"), w.enroll("b")
		near, far := pipePair(t, a, b)
		w.advance(13 * time.Hour)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		checkIs(t, near.Err(), mesh.ErrSessionExpired)
		checkIs(t, far.Err(), mesh.ErrSessionExpired)
	})
}

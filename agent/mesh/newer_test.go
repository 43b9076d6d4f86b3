package mesh_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// fetches is a node's way to the coordinator.
type fetches struct {
	w     *world
	m     *member
	calls atomic.Int64
	err   error         // instead of a list
	empty bool          // nothing newer is there
	gate  chan struct{} // if not nil, fetches wait for it
	done  chan struct{} // receives one value a fetch
}

// behind enrols a node and stops its clock of lists: it holds the one of
// two hours ago, stale, and nodes enrolled since are newer than that.
func behind(w *world, name string, f *fetches) *member {
	f.w, f.done = w, make(chan struct{}, 100)
	f.m = w.enroll(name, func(c *mesh.Config) { c.OnNewerCRL = f.fetch })
	f.m.update(w.publish())
	w.advance(2 * time.Hour)
	return f.m
}

func (f *fetches) fetch(ctx context.Context) error {
	f.calls.Add(1)
	defer func() { f.done <- struct{}{} }()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.err != nil || f.empty {
		return f.err
	}
	list, err := f.w.PublishCRL()
	if err != nil {
		return err
	}
	_, err = f.m.verifier.UpdateCRL(list, f.w.now())
	return err
}

// newcomer enrols a node that holds a fresh list.
func newcomer(w *world, name string) *member {
	list := w.publish()
	m := w.enroll(name)
	m.update(list)
	return m
}

func TestDialFetchesTheNewerCRL(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	var f fetches
	a := behind(w, "a", &f)
	b := newcomer(w, "b")
	s, err := a.dial(b.listen(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if s.Peer().Name != "b" || f.calls.Load() != 1 {
		t.Errorf("session with %s after %d fetches", s.Peer().Name, f.calls.Load())
	}
}

// A fetch that finds nothing newer, or fails, is not repeated by the same dial.
func TestDialTriesOnceMore(t *testing.T) {
	unreachable := errors.New("coordinator is not reachable")
	for _, test := range []struct {
		name string
		f    *fetches
		want error
	}{
		{"nothing newer", &fetches{empty: true}, chancery.ErrNewerThanCRL},
		{"unreachable", &fetches{err: unreachable}, unreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, fleet.Options{})
			a := behind(w, "a", test.f)
			_, err := a.dial(newcomer(w, "b").listen(), "b")
			checkRefused(t, err, chancery.CheckCRL, chancery.ErrNewerThanCRL)
			checkIs(t, err, test.want)
			if n := test.f.calls.Load(); n != 1 {
				t.Errorf("%d fetches, want 1", n)
			}
		})
	}
}

// The fetched list may say that live sessions must end.
func TestFetchRechecksLiveSessions(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	var f fetches
	f.w, f.done = w, make(chan struct{}, 1)
	a := w.enroll("a", func(c *mesh.Config) {
		c.OnNewerCRL = f.fetch
		c.Policy.Grace = 24 * time.Hour // keeps the old session past the end of the list
	})
	f.m = a
	old := w.enroll("old")
	a.update(w.publish())
	near, _ := pair(t, a, old)
	w.advance(2 * time.Hour)
	w.revoke(old)
	if _, err := a.dial(newcomer(w, "new").listen(), "new"); err != nil {
		t.Fatal(err)
	}
	checkRefused(t, ended(t, near), chancery.CheckCRL, chancery.ErrRevoked)
}

func TestDialsShareOneFetch(t *testing.T) {
	const dials = 10
	w := newWorld(t, fleet.Options{})
	f := fetches{gate: make(chan struct{})}
	a := behind(w, "a", &f)
	l := newcomer(w, "b").listen()
	var all sync.WaitGroup
	for range dials {
		all.Go(func() {
			if _, err := a.dial(l, "b"); err != nil {
				t.Error(err)
			}
		})
	}
	refused := mesh.Refusal{Check: chancery.CheckCRL, Reason: "newer-than-crl"}
	for a.Stats().Refused[refused] < dials {
		time.Sleep(time.Millisecond)
	}
	close(f.gate)
	all.Wait()
	// Who was refused just before the gate opened may come after the fetch
	// that the others shared.
	if n := f.calls.Load(); n > dials/2 {
		t.Errorf("%d dials made %d fetches", dials, n)
	}
}

// A dial does not wait for a fetch longer than its context.
func TestDialGivesUpOnTheFetch(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	f := fetches{gate: make(chan struct{})}
	a := behind(w, "a", &f)
	l := newcomer(w, "b").listen()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := a.Dial(ctx, "tcp", l.Addr().String(), "b")
	checkIs(t, err, context.DeadlineExceeded)
	// Close ends the fetch, or it would not return.
	a.Close()
}

// A listener refuses, fetches behind the dialler's back, and lets him in the
// next time.
func TestListenerFetchesInTheBackground(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	var f fetches
	b := behind(w, "b", &f)
	a := newcomer(w, "a")
	a.update(w.publish())
	l := b.listen()
	_, err := a.dial(l, "b")
	if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); !ok {
		t.Fatalf("%v, want a refusal by the peer", err)
	}
	<-f.done
	if _, err := a.dial(l, "b"); err != nil {
		t.Error(err)
	}
	if n := b.Stats().Refused[mesh.Refusal{Check: chancery.CheckCRL, Reason: "newer-than-crl"}]; n != 1 {
		t.Errorf("counted %+v", b.Stats())
	}
}

// The CRL is looked at before any signature, so whoever dials can look newer.
// He must not be able to make this node hammer the coordinator.
func TestStrangersCauseFewFetches(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	f := fetches{empty: true}
	b := behind(w, "b", &f)
	a := newcomer(w, "a")
	a.update(w.publish())
	l := b.listen()
	attempt := func(n int) {
		for range n {
			if _, err := a.dial(l, "b"); err == nil {
				t.Fatal("let in")
			}
		}
	}
	attempt(20)
	<-f.done
	if n := f.calls.Load(); n != 1 {
		t.Errorf("20 attempts at once made %d fetches, want 1", n)
	}
	w.advance(11 * time.Second)
	attempt(20)
	<-f.done
	if n := f.calls.Load(); n != 2 {
		t.Errorf("20 more after 11 s made %d fetches, want 2", n)
	}
}

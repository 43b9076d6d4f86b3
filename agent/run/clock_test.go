package run

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

// judge has the agent judge a node by its certificate alone.
func (a *agent) judge(m *machine) error {
	m.t.Helper()
	dir := m.path
	der, err := os.ReadFile(filepath.Join(dir, "nc.der"))
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = a.verifier.Verify([][]byte{der}, "", chancery.NodeID{}, chancery.Policy{}, a.clock())
	return err
}

// A list from more than a day ahead is not taken, by a node whose clock is
// wrong and that holds none which would tell it so. It lets nobody in then.
func TestListFromTheFuture(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	if err := os.Remove(filepath.Join(m.path, "crl")); err != nil {
		t.Fatal(err)
	}
	clock := -25 * time.Hour
	a := m.agent(&clock)
	if err := a.fetchCRL(t.Context()); !errors.Is(err, chancery.ErrCRLFuture) || !crlError(err) {
		t.Errorf("%v, want %v", err, chancery.ErrCRLFuture)
	}
	if _, err := os.Stat(filepath.Join(m.path, "crl")); err == nil || a.crlNumber() != 0 {
		t.Errorf("list %d is held", a.crlNumber())
	}
	if err := a.judge(m); !errors.Is(err, chancery.ErrCRLMissing) {
		t.Errorf("a session: %v, want %v", err, chancery.ErrCRLMissing)
	}
	clock = -23 * time.Hour
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Errorf("a day ahead: %v", err)
	}
}

// The clock of a node is set back while it runs, or while it does not. The
// newest list tells it better: newer ones are taken, and it ends when it
// should, not days later.
func TestClockSetBack(t *testing.T) {
	for _, test := range []struct {
		name   string
		before time.Duration // when the agent starts
	}{{"while it runs", 0}, {"while it does not", -72 * time.Hour}} {
		t.Run(test.name, func(t *testing.T) {
			c := testcoordinator.New(t, testcoordinator.Options{})
			m := enrol(t, c, "edge-1")
			clock := test.before
			a := m.agent(&clock)
			if err := a.judge(m); err != nil {
				t.Errorf("before: %v", err)
			}
			clock = -72 * time.Hour
			if ahead := a.clock().Sub(time.Now()).Abs(); ahead > 10*time.Second {
				t.Errorf("the agent takes it for %s from now", ahead)
			}
			c.Heartbeat()
			if err := a.fetchCRL(t.Context()); err != nil || a.crlNumber() != 2 {
				t.Errorf("list %d: %v", a.crlNumber(), err)
			}
			if err := a.judge(m); err != nil {
				t.Errorf("with a fresh list: %v", err)
			}
			if age := a.status().CRL.AgeSeconds; age < 0 || age > 10 {
				t.Errorf("the list is %d s old", age)
			}
			// However far behind the clock is, a list lasts no longer than it says.
			c.SetCRLLife(time.Second)
			c.Heartbeat()
			if err := a.fetchCRL(t.Context()); err != nil || a.crlNumber() != 3 {
				t.Errorf("list %d: %v", a.crlNumber(), err)
			}
			m.waitFor("the list is stale", func() bool { return errors.Is(a.judge(m), chancery.ErrCRLStale) })
		})
	}
}

// A clock that is set forward and back again is believed again: what raises the
// floor are lists, not clocks.
func TestClockSetForward(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Heartbeat()
	clock := time.Duration(0)
	a := m.agent(&clock)
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock = 2 * time.Hour
	if err := a.judge(m); !errors.Is(err, chancery.ErrCRLStale) {
		t.Errorf("two hours ahead: %v, want %v", err, chancery.ErrCRLStale)
	}
	clock = 0
	if err := a.judge(m); err != nil {
		t.Errorf("back again: %v", err)
	}
}

// An older list does not lower the floor, and a newer one raises it.
func TestFloor(t *testing.T) {
	now := time.Now()
	a := &agent{Options: Options{Now: func() time.Time { return now.Add(-48 * time.Hour) }}}
	if got := a.clock(); !got.Equal(now.Add(-48 * time.Hour)) {
		t.Errorf("without a list: %s", got)
	}
	for _, made := range []time.Duration{-time.Hour, -2 * time.Hour, 0, -time.Minute} {
		a.raiseFloor(now.Add(made))
	}
	if got := a.clock(); got.Before(now) || got.After(now.Add(time.Minute)) {
		t.Errorf("%s, want %s and what has passed", got, now)
	}
}

package run

import (
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

// grace sets the grace of a machine whose agent does not run.
func (m *machine) grace(d string) {
	m.t.Helper()
	dir := m.open()
	defer dir.Close()
	config, err := dir.Config()
	if err == nil {
		config.Grace = d
		err = dir.SaveConfig(config)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// tryPing returns how one ping ends.
func (m *machine) tryPing(peer *machine) PingEvent {
	m.t.Helper()
	return last(m.ping(PingRequest{Name: peer.name, Address: peer.status().Listen, Count: 1}))
}

// With a grace, peers that were good before are good for that much longer, on
// both sides; nobody else is, nor after a restart, which forgets them.
func TestGrace(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two, stranger := enrol(t, c, "edge-1"), enrol(t, c, "edge-2"), enrol(t, c, "edge-3")
	all := []*machine{one, two, stranger}
	for _, m := range all {
		m.grace("1h")
	}
	c.Heartbeat() // number 2 has all of them
	for _, m := range all {
		m.startReady()
		m.wantList(2)
	}
	one.wantPing(two)
	c.SetCRLLife(time.Second)
	c.Heartbeat()
	for _, m := range all {
		m.wantList(3)
		m.wantProblem("crl-stale", chancery.ErrCRLStale.Error())
	}
	for _, way := range [][2]*machine{{one, two}, {two, one}} {
		if end := way[0].tryPing(way[1]); end.Error != "" {
			t.Errorf("%s to %s, within the grace: %+v", way[0].name, way[1].name, end)
		}
	}
	for _, way := range [][2]*machine{{one, stranger}, {stranger, one}} {
		if end := way[0].tryPing(way[1]); !end.Refused || !strings.Contains(end.Error, chancery.ErrCRLStale.Error()) {
			t.Errorf("%s to %s, who have not met: %+v", way[0].name, way[1].name, end)
		}
	}
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	one.startReady()
	if end := one.tryPing(two); !end.Refused || !strings.Contains(end.Error, chancery.ErrCRLStale.Error()) {
		t.Errorf("after a restart: %+v", end)
	}
}

// The grace ends: no new session, and the live one is cut.
func TestGraceEnds(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	c.Heartbeat()
	for _, m := range []*machine{one, two} {
		m.grace("3s")
		m.startReady()
		m.wantList(2)
	}
	kept := make(chan []PingEvent)
	go func() {
		kept <- one.ping(PingRequest{Name: "edge-2", Address: two.status().Listen, Keep: true, Interval: 10 * time.Millisecond})
	}()
	one.eventually("the session lives", func() bool { return len(one.status().Sessions) == 1 })
	c.SetCRLLife(2 * time.Second)
	stale := c.Heartbeat().Head().NextUpdate
	end := last(<-kept)
	if after := time.Since(stale); after < 3*time.Second || after > 10*time.Second {
		t.Errorf("the session ended %s after the list did, want 3s", after)
	}
	if !end.Refused || end.Check != "" && end.Check != string(chancery.CheckCRL) {
		t.Errorf("%+v, want a refusal for the list", end)
	}
	if end := one.tryPing(two); !end.Refused || !strings.Contains(end.Error, chancery.ErrCRLStale.Error()) {
		t.Errorf("after the grace: %+v", end)
	}
}

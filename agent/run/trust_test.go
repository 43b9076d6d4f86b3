package run

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

func onDisk(t *testing.T, m *machine, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.path, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

// A bad list changes nothing, in memory or on disk.
func TestBadCRL(t *testing.T) {
	c, other := testcoordinator.New(t, testcoordinator.Options{}), testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Heartbeat()
	var clock time.Duration
	a := m.agent(&clock)
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, next, other2 := onDisk(t, m, "crl"), c.OtherCRL(2, time.Hour), c.OtherCRL(1, time.Hour).Marshal()
	gap, err := c.OtherCRL(2, time.Hour).Delta(c.CRL(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		list []byte
		want error
	}{
		{"rollback", c.CRL(1).Marshal(), chancery.ErrCRLRollback},
		{"junk", []byte("junk"), chancery.ErrMalformed},
		{"empty", []byte{}, chancery.ErrMalformed},
		{"of another fleet", other.CRL(1).Marshal(), chancery.ErrSignature},
		{"a flipped bit", flip(next.Marshal(), -1), nil},
		{"a delta from a list that is not held", gap, chancery.ErrCRLGap},
		{"fork", other2, chancery.ErrCRLFork},
		{"a successor of another list", c.AfterOther(1).Marshal(), chancery.ErrCRLFork},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return test.list }})
			before := len(c.Shown())
			if err := a.fetchCRL(t.Context()); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			} else if test.want != nil && !crlError(err) {
				t.Error("this is not taken for a problem with the list")
			}
			if a.crlNumber() != 2 || !bytes.Equal(onDisk(t, m, "crl"), held) {
				t.Errorf("list %d is held", a.crlNumber())
			}
			// A coordinator that says something else, or less, is shown what the
			// node holds; one whose list is no list is not.
			shown := c.Shown()[before:]
			if contradicts := test.want == chancery.ErrCRLRollback || test.want == chancery.ErrCRLFork; contradicts != (len(shown) == 1) {
				t.Errorf("%d heads were shown", len(shown))
			} else if contradicts && !bytes.Equal(shown[0].CRLHead, c.CRL(2).Head().Marshal()) {
				t.Error("another head was shown than that of the list held")
			}
		})
	}
	// Both of the fork are kept, and the alarm stands after better lists too.
	if !bytes.Equal(onDisk(t, m, string(state.CRLFork)), other2) {
		t.Error("the other list is not kept")
	}
	c.Misbehave(testcoordinator.Faults{})
	c.Heartbeat()
	if err := a.fetchCRL(t.Context()); err != nil || a.crlNumber() != 3 {
		t.Errorf("list %d, %v", a.crlNumber(), err)
	}
	if _, ok := a.status().Problems[string(state.CRLFork)]; !ok {
		t.Error("no alarm in the status")
	}
	// Nobody gets in meanwhile.
	if _, err := a.verifier.Verify([][]byte{a.nc.Load().Raw()}, "", chancery.NodeID{}, chancery.Policy{}, a.Now()); !errors.Is(err, chancery.ErrCRLFork) {
		t.Errorf("a session during the alarm: %v", err)
	}
	if err := os.Remove(filepath.Join(m.path, string(state.CRLFork))); err != nil {
		t.Fatal(err)
	}
	if p := a.status().Problems; len(p) > 0 {
		t.Errorf("an operator has cleared the alarm: %v", p)
	}
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.verifier.Verify([][]byte{a.nc.Load().Raw()}, "", chancery.NodeID{}, chancery.Policy{}, a.Now()); err != nil {
		t.Errorf("a session after the alarm: %v", err)
	}
}

// A list on disk that cannot be verified any more is of no use, but no older
// one may take its place.
func TestCRLFloorFromDisk(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Heartbeat()
	broken := flip(c.CRL(2).Marshal(), -1)
	if err := os.WriteFile(filepath.Join(m.path, "crl"), broken, 0o600); err != nil {
		t.Fatal(err)
	}
	var clock time.Duration
	a := m.agent(&clock)
	if p := a.status().Problems; p[topicCRL] == "" || p["crl-missing"] == "" {
		t.Errorf("problems %v", p)
	}
	c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return c.CRL(1).Marshal() }})
	if err := a.fetchCRL(t.Context()); !errors.Is(err, chancery.ErrCRLRollback) {
		t.Errorf("%v, want %v", err, chancery.ErrCRLRollback)
	}
	c.Misbehave(testcoordinator.Faults{})
	if err := a.fetchCRL(t.Context()); err != nil || a.crlNumber() != 2 {
		t.Errorf("list %d, %v", a.crlNumber(), err)
	}
}

// A delta that does not fit is answered by asking for the full list.
func TestCRLGap(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Heartbeat()
	c.Heartbeat()
	gap, err := c.CRL(3).Delta(c.CRL(2))
	if err != nil {
		t.Fatal(err)
	}
	var clock time.Duration
	a := m.agent(&clock)
	var asked []uint64
	c.Misbehave(testcoordinator.Faults{CRL: func(after uint64) []byte {
		if asked = append(asked, after); after == 0 {
			return c.CRL(3).Marshal()
		}
		return gap
	}})
	if err := a.fetchCRL(t.Context()); err != nil || a.crlNumber() != 3 || !slices.Equal(asked, []uint64{1, 0}) {
		t.Errorf("list %d after asking for what is newer than %v, %v", a.crlNumber(), asked, err)
	}
}

// The loop reports a bad list, does not spin on a coordinator that answers at
// once, and recovers.
func TestCRLLoop(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return []byte("junk") }})
	m.startReady()
	m.wantProblem(topicCRL, chancery.ErrMalformed.Error())

	c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return nil }})
	m.wantHealthy()
	before := c.Calls("GET /v1/crl")
	time.Sleep(2500 * time.Millisecond)
	if n := c.Calls("GET /v1/crl") - before; n > 4 {
		t.Errorf("%d polls in two and a half seconds", n)
	}

	c.Misbehave(testcoordinator.Faults{})
	c.Heartbeat()
	m.eventually("edge-1 has list 2", func() bool { return m.status().CRL.Number == 2 })
	m.wantHealthy()
}

// A stale list is a problem, and refuses peers.
func TestStaleCRL(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{CRLLife: time.Hour})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	one.startReady()
	two.startReady()
	one.wantPing(two)
	c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return nil }})
	one.ahead.Store(int64(2 * time.Hour))
	one.wantProblem("crl-stale", chancery.ErrCRLStale.Error())
	if end := one.ping(PingRequest{Name: "edge-2", Address: two.status().Listen, Count: 1})[0]; !end.Refused || end.Check != "crl" {
		t.Errorf("%+v", end)
	}
}

// A record that would lead back or aside is not taken.
func TestBadPointer(t *testing.T) {
	c, other := testcoordinator.New(t, testcoordinator.Options{}), testcoordinator.New(t, testcoordinator.Options{})
	first := c.Pointer()
	c.Publish(func(p *chancery.Pointer) { p.MinCRL = 1 })
	m := enrol(t, c, "edge-1")
	held := onDisk(t, m, "pointer")
	aside := c.Record(func(p *chancery.Pointer) {
		p.Seq, p.Previous, p.MinCRL = 2, first.Hash(), 1
		p.CRLURL = "https://elsewhere.example"
	})
	var clock time.Duration
	a := m.agent(&clock)
	for _, test := range []struct {
		name   string
		serves []byte
		want   error
	}{
		{"rollback", first.Marshal(), chancery.ErrPointerRollback},
		{"of another fleet", other.Pointer().Marshal(), chancery.ErrPin},
		{"junk", []byte("junk"), chancery.ErrMalformed},
		{"a lower floor", c.Record(func(p *chancery.Pointer) { p.MinCRL = 0 }).Marshal(), chancery.ErrPointerFloor},
		{"expired", c.Record(func(p *chancery.Pointer) { p.Issued, p.Expires = p.Issued.Add(-2*time.Hour), p.Issued.Add(-time.Hour) }).Marshal(), chancery.ErrPointerExpired},
		{"fork", aside.Marshal(), chancery.ErrPointerFork},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Misbehave(testcoordinator.Faults{Pointer: func([]byte) []byte { return test.serves }})
			before := len(c.Shown())
			a.refreshPointer(t.Context())
			shown := c.Shown()[before:]
			if contradicts := test.want == chancery.ErrPointerRollback || test.want == chancery.ErrPointerFork; contradicts != (len(shown) == 1 && bytes.Equal(shown[0].Pointer, held)) {
				t.Errorf("%d records were shown", len(shown))
			}
			if p := a.status().Problems[topicPointer]; !bytes.Contains([]byte(p), []byte(test.want.Error())) {
				t.Errorf("problem %q, want %v", p, test.want)
			}
			if a.pointer().Seq != 2 || !bytes.Equal(onDisk(t, m, "pointer"), held) {
				t.Errorf("record %d is held", a.pointer().Seq)
			}
		})
	}
	if !bytes.Equal(onDisk(t, m, string(state.PointerFork)), aside.Marshal()) {
		t.Error("the other record is not kept")
	}
	c.Misbehave(testcoordinator.Faults{})
	c.Publish(func(*chancery.Pointer) {})
	a.refreshPointer(t.Context())
	if p := a.status().Problems; a.pointer().Seq != 3 || p[topicPointer] != "" || p[string(state.PointerFork)] == "" {
		t.Errorf("record %d, problems %v; want 3, and the alarm", a.pointer().Seq, p)
	}
}

// The coordinator comes back with another TLS key: the agent looks for a newer
// pointer record, which names it.
func TestPinChanges(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	m.startReady()
	m.wantHealthy()
	c.Stop()
	c.ChangeTLSKey()
	c.Restart()
	m.wantProblem(topicCoordinator, chancery.ErrNotOurCoordinator.Error())
	c.Publish(func(p *chancery.Pointer) { p.Endpoints = []chancery.Endpoint{{URL: c.URL, Pins: [][32]byte{c.Pin()}}} })
	m.eventually("record 2 is held", func() bool { return m.status().Pointer.Seq == 2 })
	m.wantHealthy()
}

// An expired record is a problem, and still verifies peers.
func TestPointerExpires(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{CRLLife: 48 * time.Hour})
	m := enrol(t, c, "edge-1")
	clock := 25 * time.Hour
	a := m.agent(&clock)
	p := a.status().Problems
	if len(p) != 1 || p["pointer-expired"] == "" {
		t.Errorf("problems %v, want pointer-expired", p)
	}
}

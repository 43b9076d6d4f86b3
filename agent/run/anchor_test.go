package run

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// The anchor moves when somebody was revoked or the pointer record changed, not
// with heartbeats, and at most once in ten minutes.
func TestAnchorMoves(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{CRLLife: 48 * time.Hour})
	m, other, third := enrol(t, c, "edge-1"), enrol(t, c, "edge-2"), enrol(t, c, "edge-3")
	var clock time.Duration
	a := m.agent(&clock)
	moving := &anchoring{agent: a}
	want := func(step string, moves uint64, crl, pointer uint64) {
		t.Helper()
		before := a.anchored.Load()
		if err := a.fetchCRL(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.refreshPointer(t.Context())
		if _, err := moving.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		note := a.anchored.Load()
		if note.Counter != before.Counter+moves || note.CRL != crl || note.Pointer != pointer {
			t.Errorf("%s: anchored at %d+%d: CRL %d, pointer record %d; want %d, %d, %d", step, before.Counter, note.Counter-before.Counter, note.CRL, note.Pointer, moves, crl, pointer)
		}
		if onDisk, err := a.node().Verify(); err != nil || onDisk.Counter != note.Counter {
			t.Errorf("%s: on disk: %v", step, err)
		}
	}
	want("just enrolled", 0, 0, 1)
	clock += anchor.Every
	want("the first list", 1, 1, 1)
	clock += anchor.Every
	c.Heartbeat()
	want("a heartbeat", 0, 1, 1)
	c.Revoke(other.name)
	want("a revocation", 1, 3, 1)
	c.Revoke(third.name)
	want("another one, too soon", 0, 3, 1)
	clock += anchor.Every - time.Second
	want("still too soon", 0, 3, 1)
	clock += time.Second
	want("ten minutes later", 1, 4, 1)
	clock += anchor.Every
	c.Publish(func(*chancery.Pointer) {})
	want("a pointer record", 1, 4, 2)
	clock += anchor.Every
	for range 2 { // the agent was away meanwhile, and cannot know what they brought
		c.Heartbeat()
	}
	want("two lists at once", 1, 6, 2)

	// A clock that is set back keeps the anchor for ten minutes, not for ever.
	c.Publish(func(*chancery.Pointer) {})
	clock -= 24 * time.Hour
	want("the clock was set back", 0, 6, 2)
	clock += anchor.Every
	want("ten minutes later again", 1, 6, 3)
}

// What does not reach the disk is not anchored: the next start would be refused.
func TestAnchorOfWhatIsOnDisk(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m, other := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	var clock time.Duration
	a := m.agent(&clock)
	moving := &anchoring{agent: a}
	clock += anchor.Every
	if err := os.Mkdir(filepath.Join(m.path, "crl.tmp"), 0o700); err != nil { // whoever writes fails
		t.Fatal(err)
	}
	c.Revoke(other.name)
	if err := a.fetchCRL(t.Context()); err == nil || a.crlNumber() != 2 {
		t.Fatalf("list %d, %v; want 2, and an error", a.crlNumber(), err)
	}
	if _, err := moving.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if note := a.anchored.Load(); note.CRL != 1 {
		t.Errorf("list %d is anchored, 1 is on disk", note.CRL)
	}
	if _, err := a.node().Verify(); err != nil {
		t.Errorf("the next start is refused: %v", err)
	}

	// A heartbeat that gets there brings the revocation with it.
	if err := os.Remove(filepath.Join(m.path, "crl.tmp")); err != nil {
		t.Fatal(err)
	}
	c.Heartbeat()
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock += anchor.Every
	if _, err := moving.step(t.Context()); err != nil || a.anchored.Load().CRL != 3 {
		t.Errorf("list %d is anchored, %v; want 3", a.anchored.Load().CRL, err)
	}
}

// The running agent anchors by itself, and says so.
func TestAnchorLoop(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	var clock time.Duration
	func() { // a first note, long ago
		dir := m.open()
		defer dir.Close()
		o := m.options()
		o.Now = func() time.Time { return time.Now().Add(clock - time.Hour) }
		a, err := prepare(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		if _, err := a.node().Make(t.Context(), a.key.Load(), 1, 0, o.Now()); err != nil {
			t.Fatal(err)
		}
	}()
	m.startReady()
	m.eventually("the list is anchored", func() bool { return m.status().Anchor.CRL == m.status().CRL.Number })
	m.wantHealthy()
}

// restore puts an older copy of the state directory back.
func (m *machine) restore(from string) {
	m.t.Helper()
	if err := errors.Join(os.RemoveAll(m.path), os.CopyFS(m.path, os.DirFS(from)), os.Chmod(m.path, 0o700)); err != nil {
		m.t.Fatal(err)
	}
}

// wantRefused checks that the agent does not start.
func (m *machine) wantRefused(says string) {
	m.t.Helper()
	dir := m.open()
	defer dir.Close()
	err := Run(m.t.Context(), dir, m.options())
	refused, ok := errors.AsType[*anchor.RollbackError](err)
	if !ok || !strings.Contains(err.Error(), says) || !strings.Contains(refused.Hint(), "chancery-agent anchor reset") {
		m.t.Fatalf("%v; want a *RollbackError that says %q and what to do", err, says)
	}
}

func (m *machine) reset() (*AnchorInfo, error) {
	m.t.Helper()
	dir := m.open()
	defer dir.Close()
	return ResetAnchor(m.t.Context(), dir, m.options())
}

// A node whose disk was restored does not start, and does not believe the old
// list when the operator takes the directory: it fetches the newest first, and
// without a coordinator stays where it is.
func TestRolledBack(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m, other := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	other.startReady()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(m.path)); err != nil {
		t.Fatal(err)
	}
	c.Revoke("edge-2")
	func() {
		clock := anchor.Every
		dir, o := m.open(), m.options()
		defer dir.Close()
		o.Now = func() time.Time { return time.Now().Add(clock) }
		a, err := open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		if err := a.fetchCRL(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := (&anchoring{agent: a}).step(t.Context()); err != nil || a.anchored.Load().CRL != 2 {
			t.Fatalf("anchored %+v, %v", a.anchored.Load(), err)
		}
	}()
	newest := filepath.Join(t.TempDir(), "newest")
	if err := os.CopyFS(newest, os.DirFS(m.path)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.reset(); !errors.Is(err, ErrAnchored) {
		t.Errorf("nothing is wrong: %v, want %v", err, ErrAnchored)
	}

	m.restore(backup)
	m.wantRefused("the chip's counter at")
	if s, err := Offline(m.look(), time.Now()); err != nil || s.Anchor == nil {
		t.Errorf("not running: %+v, %v", s, err)
	}
	c.Stop()
	if _, err := m.reset(); err == nil {
		t.Fatal("reset without a coordinator")
	}
	m.wantRefused("the chip's counter at")
	c.Restart()

	// Only part of it was restored, so the note knows how far it was: a
	// coordinator that has an old list is of no use.
	m.restore(newest)
	old, err := os.ReadFile(filepath.Join(backup, "crl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.path, "crl"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	m.wantRefused("CRL 1")
	for name, serves := range map[string]func(uint64) []byte{
		"an old list": func(uint64) []byte { return c.CRL(1).Marshal() },
		"nothing":     func(uint64) []byte { return nil },
	} {
		c.Misbehave(testcoordinator.Faults{CRL: serves})
		if _, err := m.reset(); !errors.Is(err, chancery.ErrCRLRollback) {
			t.Errorf("the coordinator has %s: %v, want %v", name, err, chancery.ErrCRLRollback)
		}
		m.wantRefused("CRL 1")
	}
	c.Misbehave(testcoordinator.Faults{})

	m.restore(backup)
	info, err := m.reset()
	if err != nil || info.CRL != 2 {
		t.Fatalf("%+v, %v; want list 2", info, err)
	}
	m.startReady()
	if end := m.ping(PingRequest{Name: "edge-2", Address: other.status().Listen, Count: 1})[0]; !end.Refused || end.Check != "crl" {
		t.Errorf("a peer that was revoked meanwhile: %+v", end)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	m.restore(newest)
	m.wantRefused("the chip's counter at") // two directories, and one of them counts
}

func (m *machine) look() *state.Dir {
	m.t.Helper()
	dir, err := state.Look(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { dir.Close() })
	return dir
}

// A stale list does not do for a reset, whoever has it.
func TestResetWantsFreshList(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	if err := os.Remove(filepath.Join(m.path, "anchor")); err != nil {
		t.Fatal(err)
	}
	m.wantRefused("no anchor")
	dir, o := m.open(), m.options()
	o.Now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	_, err := ResetAnchor(t.Context(), dir, o)
	dir.Close()
	if !errors.Is(err, chancery.ErrCRLStale) {
		t.Errorf("%v, want %v", err, chancery.ErrCRLStale)
	}
	m.wantRefused("no anchor")
	if _, err := m.reset(); err != nil {
		t.Fatal(err)
	}
	m.startReady()
}

// A node that was restored and whose boot state changed too waits for approval
// in the reset, as it would at its start.
func TestResetOfSealedKey(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	if err := os.Remove(filepath.Join(m.path, "anchor")); err != nil {
		t.Fatal(err)
	}
	chip, err := tpm.Open(m.chip.Device())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(chip.ExtendPCR(7, [32]byte{1}), chip.Close()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		dir, err := state.Open(m.path)
		if err == nil {
			_, err = ResetAnchor(t.Context(), dir, m.options())
			err = errors.Join(err, dir.Close())
		}
		done <- err
	}()
	for c.ApproveReseal("edge-1") != nil {
		select {
		case err := <-done:
			t.Fatalf("the reset did not wait: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	m.startReady()
}

// Both sides of a fork are kept and shown, nobody gets in until it is cleared,
// and a restart does not clear it.
func TestForks(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m, peer := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	peer.startReady()
	m.startReady()
	m.wantPing(peer)
	_, other := c.Fork()
	m.wantProblem(string(state.CRLFork), "chancery-agent fork show")
	peer.wantProblem(string(state.CRLFork), "chancery-agent fork show")
	wantShut := func() {
		t.Helper()
		m.eventually("nobody is accepted", func() bool {
			end := m.ping(PingRequest{Name: "edge-2", Address: peer.status().Listen, Count: 1})[0]
			return end.Refused && end.Check == "crl"
		})
	}
	wantShut()
	forks, err := Forks(m.look())
	if err != nil || len(forks) != 1 {
		t.Fatalf("%+v, %v", forks, err)
	}
	f := forks[0]
	hash := other.Head().Hash()
	if f.Alarm != state.CRLFork || f.Held == nil || f.Held.Number != 2 || f.Other.Number != 2 || f.Held.Hash == f.Other.Hash || f.Other.Hash != hex.EncodeToString(hash[:]) {
		t.Errorf("held %+v, other %+v", f.Held, f.Other)
	}
	c.Misbehave(testcoordinator.Faults{})
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	m.startReady()
	wantShut()
	for _, m := range []*machine{m, peer} {
		var cleared []state.Alarm
		if err := m.client(func(client *Client) (err error) { cleared, err = client.ClearForks(t.Context()); return err }); err != nil || len(cleared) != 1 {
			t.Fatalf("cleared %v, %v", cleared, err)
		}
	}
	m.wantPing(peer)
	m.wantHealthy()
	if forks, err := Forks(m.look()); err != nil || len(forks) > 0 {
		t.Errorf("after it was cleared: %+v, %v", forks, err)
	}
}

// A fork of the pointer record shuts the node as well.
func TestPointerForkShuts(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	aside := c.Record(func(p *chancery.Pointer) {
		p.Seq, p.Previous, p.CRLURL = 1, [32]byte{}, "https://elsewhere.example"
	})
	var clock time.Duration
	a := m.agent(&clock)
	verify := func() error {
		_, err := a.verifier.Verify([][]byte{a.nc.Load().Raw()}, "", chancery.NodeID{}, chancery.Policy{}, a.Now())
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	held := onDisk(t, m, "pointer")
	c.Misbehave(testcoordinator.Faults{Pointer: func([]byte) []byte { return aside.Marshal() }})
	a.refreshPointer(t.Context())
	if err := verify(); !errors.Is(err, chancery.ErrPointerFork) {
		t.Errorf("%v, want %v", err, chancery.ErrPointerFork)
	}
	if before, other, err := a.dir.Evidence(state.PointerFork); err != nil || !bytes.Equal(before, held) || !bytes.Equal(other, aside.Marshal()) {
		t.Errorf("not both are kept: %v", err)
	}
	if forks, err := Forks(a.dir); err != nil || len(forks) != 1 || len(forks[0].Other.Coordinators) == 0 || forks[0].Held.Hash == forks[0].Other.Hash {
		t.Errorf("%+v, %v", forks, err)
	}
	if _, err := ClearForks(a.dir); err != nil {
		t.Fatal(err)
	}
	a.heedAlarms()
	if err := verify(); err != nil {
		t.Errorf("after it was cleared: %v", err)
	}
}

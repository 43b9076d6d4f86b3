package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// Two nodes talk; one is revoked; its session is cut and it is refused.
func TestStory(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	one.startReady()
	two.startReady()
	one.wantPing(two)
	two.wantPing(one)
	one.wantHealthy()

	// By name only: the coordinator knows where edge-2 is.
	one.eventually("edge-2 has said where it is", func() bool { return c.Address("edge-2") != "" })
	if e := one.ping(PingRequest{Name: "edge-2", Count: 1}); e[0].Address != two.status().Listen {
		t.Errorf("%+v", e)
	}

	kept := make(chan []PingEvent)
	go func() {
		kept <- one.ping(PingRequest{Name: "edge-2", Keep: true, Interval: 10 * time.Millisecond})
	}()
	one.eventually("the session lives", func() bool { return len(one.status().Sessions) == 1 })
	two.eventually("the session lives", func() bool { return len(two.status().Sessions) == 1 })
	if s := two.status().Sessions[0]; s.Peer != "edge-1" || !s.Inbound {
		t.Errorf("%+v", s)
	}
	start := time.Now()
	c.Revoke("edge-2")
	events := <-kept
	t.Logf("cut %s after the revocation", time.Since(start))
	end := events[len(events)-1]
	if !end.Refused || end.Check != "crl" && end.Check != "" || !strings.Contains(end.Error, "edge-2") && end.Check != "" {
		t.Errorf("%+v, want a refusal by the crl check", end)
	}
	one.eventually("edge-1 has the list", func() bool { return one.status().CRL.Revoked == 1 })
	events = one.ping(PingRequest{Name: "edge-2", Count: 1})
	if end := events[0]; !end.Refused || end.Check != "crl" || !strings.Contains(end.Error, chancery.ErrRevoked.Error()) {
		t.Errorf("%+v, want a refusal by the crl check", end)
	}
	two.wantProblem("certificate", chancery.ErrRevoked.Error())
	if end := two.ping(PingRequest{Name: "edge-1", Address: one.status().Listen, Count: 1})[0]; !end.Refused || end.Hint == "" {
		t.Errorf("the revoked one dials: %+v", end)
	}
}

// The one that is revoked learns why its session ended.
func TestRevokedDiallerIsTold(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	one.startReady()
	two.startReady()
	kept := make(chan []PingEvent)
	go func() {
		kept <- one.ping(PingRequest{Name: "edge-2", Address: two.status().Listen, Keep: true, Interval: 10 * time.Millisecond})
	}()
	two.eventually("the session lives", func() bool { return len(two.status().Sessions) == 1 })
	c.Revoke("edge-1")
	events := <-kept
	if end := events[len(events)-1]; !end.Refused || !strings.Contains(end.Error, "own certificate") {
		t.Errorf("%+v", end)
	}
}

func TestPingErrors(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	one.startReady()
	two.startReady()
	for _, test := range []struct {
		name    string
		request PingRequest
		says    string
		refused bool
	}{
		{"nobody there", PingRequest{Name: "edge-2", Address: "127.0.0.1:1", Count: 1}, "refused", false},
		{"unknown to the coordinator", PingRequest{Name: "edge-3", Count: 1}, "no such node", false},
		{"another node answers", PingRequest{Name: "edge-3", Address: two.status().Listen, Count: 1}, chancery.ErrWrongPeer.Error(), true},
		{"itself", PingRequest{Name: "edge-1", Address: one.status().Listen, Count: 1}, "", true},
		{"a coordinator", PingRequest{Name: "edge-2", Address: strings.TrimPrefix(c.URL, "https://"), Count: 1}, "application protocol", true},
	} {
		events := one.ping(test.request)
		if end := events[0]; end.Error == "" || !strings.Contains(end.Error, test.says) || end.Refused != test.refused {
			t.Errorf("%s: %+v", test.name, end)
		}
	}
}

// Without a coordinator the agents work on, also from a new start, and find
// each other where they were.
func TestCoordinatorAway(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	one.startReady()
	two.startReady()
	one.wantHealthy()
	one.eventually("edge-2 has said where it is", func() bool { return c.Address("edge-2") != "" })
	if e := one.ping(PingRequest{Name: "edge-2", Count: 1}); e[0].Event != EventSession {
		t.Fatalf("%+v", e)
	}
	c.Stop()
	one.wantProblem("coordinator", "refused")
	one.wantPing(two)
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	one.startReady()
	if e := one.ping(PingRequest{Name: "edge-2", Count: 1}); e[0].Event != EventSession {
		t.Errorf("from the address on disk: %+v", e)
	}
	c.Restart()
	one.wantHealthy()
}

func TestStartErrors(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	dir := m.open()
	defer dir.Close()

	o := m.options()
	o.Listen = strings.TrimPrefix(c.URL, "https://")
	if err := Run(t.Context(), dir, o); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("port in use: %v", err)
	}
	if _, err := state.Open(m.path); !errors.Is(err, state.ErrLocked) {
		t.Errorf("a second agent: %v", err)
	}
	config, err := dir.Config()
	if err != nil {
		t.Fatal(err)
	}
	good := *config
	config.TPM += "-gone"
	if err := dir.SaveConfig(config); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), dir, m.options()); !errors.Is(err, join.ErrChip) {
		t.Errorf("chip absent: %v", err)
	}
	if err := dir.SaveConfig(&good); err != nil {
		t.Fatal(err)
	}
	other := enrol(t, c, "edge-2")
	config.TPM = other.chip.Device()
	if err := dir.SaveConfig(config); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), dir, m.options()); !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("another machine's chip: %v", err)
	}
	empty, err := state.Open(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if err := Run(t.Context(), empty, m.options()); !errors.Is(err, state.ErrNotEnrolled) {
		t.Errorf("not enrolled: %v", err)
	}
}

// A socket that a crash left does not keep the next agent from starting.
func TestSocket(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	if _, err := m.tryStatus(); !isNotRunning(err) {
		t.Errorf("before the start: %v", err)
	}
	if err := os.WriteFile(filepath.Join(m.path, "agent.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	info, err := os.Stat(filepath.Join(m.path, "agent.sock"))
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.tryStatus(); !isNotRunning(err) {
		t.Errorf("after the stop: %v", err)
	}
}

func isNotRunning(err error) bool {
	_, ok := errors.AsType[*NotRunningError](err)
	return ok
}

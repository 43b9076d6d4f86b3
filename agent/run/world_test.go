package run

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A goroutine that outlives its agent fails the whole run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A machine is an enrolled node: a chip and a disk, and an agent at times.
type machine struct {
	t    *testing.T
	name string
	chip *tpmtest.TPM
	path string
	log  *logs

	ahead  atomic.Int64 // of the machine's clock, nanoseconds
	listen string       // where its agent listens; empty: anywhere
	slow   bool         // it asks peers as seldom as in earnest

	stop func() error // of the running agent
}

// enrol makes a machine and has it join.
func enrol(t *testing.T, c *testcoordinator.Coordinator, name string) *machine {
	t.Helper()
	return enrolWith(t, c, name, false)
}

// enrolUnsealed leaves the key open to other programs.
func enrolUnsealed(t *testing.T, c *testcoordinator.Coordinator, name string) *machine {
	t.Helper()
	return enrolWith(t, c, name, true)
}

func enrolWith(t *testing.T, c *testcoordinator.Coordinator, name string, unsealed bool) *machine {
	t.Helper()
	m := &machine{t: t, name: name, chip: tpmtest.New(t), path: filepath.Join(t.TempDir(), "s"), log: &logs{t: t}}
	token := c.Token()
	dir := m.open()
	defer dir.Close()
	_, err := join.Join(t.Context(), dir, join.Options{
		URL: c.URL, Fleet: c.Fleet(), Token: &token, Name: name, Device: m.chip.Device(), Unsealed: unsealed, PCRs: tpm.DefaultPCRs, Now: time.Now,
		Step: func(join.Step) {}, Notice: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// testGossip is gossipEvery in tests.
const testGossip = 100 * time.Millisecond

func (m *machine) open() *state.Dir {
	m.t.Helper()
	dir, err := state.Open(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	return dir
}

func (m *machine) now() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) }

func (m *machine) options() Options {
	o := Options{Listen: "127.0.0.1:0", Now: m.now, Logger: slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})), gossipEvery: testGossip}
	if m.listen != "" {
		o.Listen = m.listen
	}
	if m.slow {
		o.gossipEvery = 0
	}
	return o
}

// start runs the agent until the test ends or stop is called.
func (m *machine) start() {
	m.t.Helper()
	dir := m.open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := Run(ctx, dir, m.options())
		done <- errors.Join(err, dir.Close())
	}()
	m.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	m.t.Cleanup(func() {
		if err := m.stop(); err != nil {
			m.t.Errorf("%s: %v", m.name, err)
		}
	})
	m.eventually("the agent runs", func() bool {
		select {
		case err := <-done:
			done <- err
			m.t.Fatalf("the agent stopped: %v", err)
		default:
		}
		_, err := m.tryStatus()
		return err == nil
	})
}

// startReady runs the agent and waits for its session certificate.
func (m *machine) startReady() {
	m.t.Helper()
	m.start()
	m.eventually("there is a session certificate", func() bool { return m.status().Session != nil })
}

func (m *machine) client(use func(*Client) error) error {
	dir, err := state.Look(m.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	c := Connect(dir)
	defer c.Close()
	return use(c)
}

func (m *machine) tryStatus() (s *Status, err error) {
	err = m.client(func(c *Client) error {
		s, err = c.Status(m.t.Context())
		return err
	})
	return s, err
}

func (m *machine) status() *Status {
	m.t.Helper()
	s, err := m.tryStatus()
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// eventually waits for what the agent does in its own time.
func (m *machine) eventually(what string, is func() bool) {
	m.t.Helper()
	m.waitFor(what, is, func() any { s, _ := m.tryStatus(); return s })
}

// waitFor is eventually for a machine whose agent may not run.
func (m *machine) waitFor(what string, is func() bool, seen ...func() any) {
	m.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if !time.Now().After(end) {
			continue
		}
		var all []any
		for _, see := range seen {
			all = append(all, see())
		}
		m.t.Fatalf("%s: not within 20 seconds that %s: %+v", m.name, what, all)
	}
}

// wantProblem waits until the topic's problem says something.
func (m *machine) wantProblem(topic, says string) {
	m.t.Helper()
	m.eventually("problem "+topic+" says "+says, func() bool {
		p, ok := m.status().Problems[topic]
		return ok && strings.Contains(p, says)
	})
}

func (m *machine) wantHealthy() {
	m.t.Helper()
	m.eventually("all is well", func() bool { return len(m.status().Problems) == 0 })
}

// ping pings a peer and returns all that happened.
func (m *machine) ping(r PingRequest) []PingEvent {
	m.t.Helper()
	var events []PingEvent
	err := m.client(func(c *Client) error {
		return c.Ping(m.t.Context(), &r, func(e PingEvent) { events = append(events, e) })
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if n := len(events); n == 0 || events[n-1].Event != EventEnd {
		m.t.Fatalf("events %+v, want an end", events)
	}
	return events
}

// wantPing checks that two nodes accept each other now.
func (m *machine) wantPing(peer *machine) {
	m.t.Helper()
	// Whoever renews meanwhile has its session certificate a moment later.
	m.eventually("a session is under the present certificates", func() bool {
		mine, theirs := m.status().Certificate.Serial, peer.status().Certificate.Serial
		events := m.ping(PingRequest{Name: peer.name, Address: peer.status().Listen, Count: 2, Interval: time.Millisecond})
		if len(events) != 4 || events[0].Event != EventSession || events[3].Error != "" {
			m.t.Fatalf("%+v", events)
		}
		e := events[0]
		if e.Peer.Name != peer.name || e.Self.Name != m.name || !e.Self.Simulator {
			m.t.Fatalf("session of %+v with %+v, want %s with %s", e.Self, e.Peer, m.name, peer.name)
		}
		return e.Peer.Serial == theirs && e.Self.Serial == mine
	})
}

// agent opens the machine's agent without starting its loops, for a test that
// does what they do. Its clock is time.Now and what clock says.
func (m *machine) agent(clock *time.Duration) *agent {
	m.t.Helper()
	dir, o := m.open(), m.options()
	o.Now = func() time.Time { return time.Now().Add(*clock) }
	a, err := open(dir, o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := errors.Join(a.close(), dir.Close()); err != nil {
			m.t.Error(err)
		}
	})
	return a
}

func (m *machine) nodeKey() chancery.PublicKey {
	m.t.Helper()
	return m.nodeCertificate().NodeKey
}

func (m *machine) nodeCertificate() *chancery.Certificate {
	m.t.Helper()
	dir, err := state.Look(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer dir.Close()
	nc, err := dir.Certificate()
	if err != nil {
		m.t.Fatal(err)
	}
	return nc
}

// logs writes an agent's log to the test's, and counts lines.
type logs struct {
	t *testing.T
	// mu guards lines.
	mu    sync.Mutex
	lines []string
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logs) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

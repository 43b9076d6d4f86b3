package run

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

// A bridge is the network between two halves: it leads to an address while it
// is whole.
type bridge struct {
	address string
	to      string

	mu    sync.Mutex // guards what is below
	whole bool
	conns []net.Conn
}

func newBridge(t *testing.T, to string) *bridge {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{address: l.Addr().String(), to: to}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.carry(near) })
		}
	})
	t.Cleanup(func() { l.Close(); b.set(false); all.Wait() })
	return b
}

func (b *bridge) set(whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole = whole
	for _, c := range b.conns {
		c.Close()
	}
	b.conns = nil
}

func (b *bridge) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", b.to)
	if err != nil {
		return
	}
	defer far.Close()
	b.mu.Lock()
	whole := b.whole
	b.conns = append(b.conns, near, far)
	b.mu.Unlock()
	if !whole {
		return
	}
	go func() {
		io.Copy(far, near)
		far.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(near, far)
}

// peers has the machine ask those addresses while the coordinator is away.
func (m *machine) peers(addresses ...string) {
	m.t.Helper()
	dir := m.open()
	defer dir.Close()
	config, err := dir.Config()
	if err == nil {
		config.Addresses = map[string]string{}
		for i, address := range addresses {
			config.Addresses[fmt.Sprintf("peer-%d", i)] = address
		}
		err = dir.SaveConfig(config)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) wantList(number uint64) {
	m.t.Helper()
	m.eventually("it has the list", func() bool { s := m.status(); return s.CRL != nil && s.CRL.Number == number })
}

// Two halves of a fleet, and the coordinator away: one half has the list that
// revokes a node of the other. When the network is whole again the list comes
// across, goes from one to the next, and cuts the session that was open. Those
// who send junk do not keep it.
func TestPartitionHeals(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	var all []*machine
	for _, name := range []string{"edge-1", "edge-2", "edge-3", "edge-4"} {
		all = append(all, enrol(t, c, name))
	}
	here, there := all[:2], all[2:]
	c.Heartbeat() // number 2: all four are in it
	for _, m := range all {
		m.start()
		m.wantList(2)
	}
	for _, m := range there {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	c.Revoke("edge-4")
	for _, m := range here {
		m.wantList(3)
	}
	c.Stop()

	gate := newBridge(t, here[0].status().Listen)
	junk, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer junk.Close()
	go func() {
		for {
			conn, err := junk.Accept()
			if err != nil {
				return
			}
			conn.Write(bytes.Repeat([]byte("junk"), 1000))
			conn.Close()
		}
	}()
	// edge-3 reaches the other half and edge-4, which reaches edge-3 only.
	listen := make(map[string]string)
	for _, m := range there {
		if listen[m.name], err = freePort(); err != nil {
			t.Fatal(err)
		}
	}
	there[0].peers(gate.address, junk.Addr().String(), listen["edge-4"])
	there[1].peers(listen["edge-3"], junk.Addr().String())
	for _, m := range there {
		m.listen = listen[m.name]
		m.startReady()
	}
	kept := make(chan []PingEvent)
	go func() {
		kept <- there[0].ping(PingRequest{Name: "edge-4", Address: listen["edge-4"], Keep: true, Interval: 10 * time.Millisecond})
	}()
	there[0].eventually("the session lives", func() bool { return len(there[0].status().Sessions) == 1 })
	before := there[0].log.count("asked a peer")
	there[0].eventually("it has asked in vain", func() bool { return there[0].log.count("asked a peer") > before+4 })
	for _, m := range there {
		if n := m.status().CRL.Number; n != 2 {
			t.Errorf("%s has list %d across a gap", m.name, n)
		}
	}
	if s := there[0].status().Sessions; len(s) != 1 {
		t.Errorf("sessions %v", s)
	}

	gate.set(true)
	for _, m := range all {
		m.wantList(3)
	}
	end := last(<-kept)
	if !end.Refused || end.Check != string(chancery.CheckCRL) || !strings.Contains(end.Error, chancery.ErrRevoked.Error()) {
		t.Errorf("%+v, want a refusal by the crl check", end)
	}
	for _, m := range all {
		// It is believed first, and then on disk.
		m.eventually("list 3 is on disk", func() bool { return bytes.Equal(onDisk(t, m, "crl"), c.CRL(3).Marshal()) })
	}
	there[1].wantProblem("certificate", chancery.ErrRevoked.Error())
}

func last(events []PingEvent) PingEvent { return events[len(events)-1] }

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// While the coordinator answers, nobody asks peers.
func TestNoGossipWithCoordinator(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	two.startReady()
	one.peers(two.status().Listen)
	one.startReady()
	one.wantHealthy()
	one.wantPing(two)
	time.Sleep(10 * testGossip)
	if n := one.log.count("asked a peer"); n > 0 {
		t.Errorf("peers were asked %d times", n)
	}
	c.Stop()
	one.eventually("peers are asked", func() bool { return one.log.count("asked a peer") > 0 })
}

// A dial finds out that one of the two is behind, and it is not any more: also
// if it is the other side, who refuses without a reason, and without waiting.
func TestDialBringsTheListAlong(t *testing.T) {
	for _, test := range []struct{ name, from, to string }{
		{"to a node that is newer than the list held", "old", "new"},
		{"to a node that holds the older list", "new", "old"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testcoordinator.New(t, testcoordinator.Options{})
			machines := map[string]*machine{"old": enrol(t, c, "edge-1")}
			machines["new"] = enrol(t, c, "edge-2")
			for _, m := range machines {
				m.slow = true // nobody asks but for the dial
			}
			c.SetCRLLife(4 * time.Second)
			c.Heartbeat()
			machines["old"].startReady()
			machines["old"].wantList(2)
			machines["old"].wantProblem("crl-stale", chancery.ErrCRLStale.Error())
			if err := machines["old"].stop(); err != nil {
				t.Fatal(err)
			}
			c.SetCRLLife(time.Hour)
			c.Heartbeat()
			machines["new"].startReady()
			machines["new"].wantList(3)
			c.Stop()
			machines["old"].startReady()
			for _, m := range machines {
				m.wantProblem(topicCoordinator, "refused")
			}
			from, to := machines[test.from], machines[test.to]
			events := from.ping(PingRequest{Name: to.name, Address: to.status().Listen, Count: 1})
			if events[0].Event != EventSession {
				t.Errorf("%+v", events)
			}
			for _, m := range machines {
				m.wantList(3)
			}
		})
	}
}

// Two lists of one number meet: both nodes keep the other one as evidence and
// refuse everybody, and the list that each holds stays.
func TestForkMeets(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	mine, theirs := c.Heartbeat().Marshal(), c.OtherCRL(1, time.Hour).Marshal()
	var clock time.Duration
	a, b := one.agent(&clock), two.agent(&clock)
	if err := a.takeCRL(mine); err != nil {
		t.Fatal(err)
	}
	if err := b.takeCRL(theirs); err != nil {
		t.Fatal(err)
	}
	_, err := a.gossip.Exchange(t.Context(), b.listener.Addr().String())
	if err == nil || !strings.Contains(err.Error(), chancery.ErrCRLFork.Error()) {
		t.Errorf("%v, want %v", err, chancery.ErrCRLFork)
	}
	for _, side := range []struct {
		m           *machine
		a           *agent
		held, other []byte
	}{{one, a, mine, theirs}, {two, b, theirs, mine}} {
		side.m.waitFor("the evidence is kept", func() bool {
			got, err := os.ReadFile(filepath.Join(side.m.path, string(state.CRLFork)))
			return err == nil && bytes.Equal(got, side.other)
		})
		if !bytes.Equal(onDisk(t, side.m, "crl"), side.held) || side.a.crlNumber() != 2 {
			t.Errorf("%s does not hold its list any more", side.m.name)
		}
		_, err := side.a.verifier.Verify([][]byte{side.a.nc.Load().Raw()}, "", chancery.NodeID{}, chancery.Policy{}, side.a.Now())
		if err == nil || !strings.Contains(err.Error(), chancery.ErrCRLFork.Error()) {
			t.Errorf("%s lets somebody in: %v", side.m.name, err)
		}
	}
	// It is the coordinator's doing, not the peer's: it is talked to.
	if _, err := a.gossip.Exchange(t.Context(), b.listener.Addr().String()); err == nil || !strings.Contains(err.Error(), chancery.ErrCRLFork.Error()) {
		t.Errorf("again: %v", err)
	}
}

// Two pointer records of one number meet likewise.
func TestPointerForkMeets(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	other := c.Record(func(p *chancery.Pointer) { p.CRLURL = "https://elsewhere.example" })
	mine := c.Publish(func(*chancery.Pointer) {})
	var clock time.Duration
	a, b := one.agent(&clock), two.agent(&clock)
	for side, p := range map[*agent]*chancery.Pointer{a: mine, b: other} {
		if err := side.takePointer(p); err != nil {
			t.Fatal(err)
		}
	}
	a.gossip.Exchange(t.Context(), b.listener.Addr().String())
	for m, evidence := range map[*machine][]byte{one: other.Marshal(), two: mine.Marshal()} {
		m.waitFor("the evidence is kept", func() bool {
			got, err := os.ReadFile(filepath.Join(m.path, string(state.PointerFork)))
			return err == nil && bytes.Equal(got, evidence)
		})
	}
}

// A newer pointer record comes from a peer, and is on disk then.
func TestPointerFromPeer(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	p := c.Publish(func(*chancery.Pointer) {})
	var clock time.Duration
	a, b := one.agent(&clock), two.agent(&clock)
	if err := a.takePointer(p); err != nil {
		t.Fatal(err)
	}
	if moved, err := b.gossip.Exchange(t.Context(), a.listener.Addr().String()); !moved || err != nil {
		t.Errorf("moved %t, %v", moved, err)
	}
	if b.pointer().Seq != p.Seq || !bytes.Equal(onDisk(t, two, "pointer"), p.Marshal()) {
		t.Errorf("record %d is held", b.pointer().Seq)
	}
}

// Addresses that were met are remembered, some of them, and come back with a
// restart as far as the coordinator told them.
func TestMet(t *testing.T) {
	var m met
	now := time.Now()
	for i := range 3 * maxMet {
		now = now.Add(time.Second)
		m.note(strings.Repeat("x", i), now)
		m.note("live", now)
		if !m.due(strings.Repeat("x", i), now) || m.due(strings.Repeat("x", i), now.Add(gossipLeast-1)) || !m.due(strings.Repeat("x", i), now.Add(gossipLeast)) {
			t.Fatal("an address is due once in ten seconds")
		}
	}
	if all := m.addresses(); len(all) != maxMet || !slices.Contains(all, "live") {
		t.Errorf("%d addresses, the live one among them: %t", len(all), slices.Contains(all, "live"))
	}
	if len(m.asked) > maxMet {
		t.Errorf("%d addresses that were asked", len(m.asked))
	}
}

package run

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

// newLooking is an agent of edge-1, whose loops do not run, and edge-2 at work.
func newLooking(t *testing.T) (c *testcoordinator.Coordinator, one, two *machine, a *agent) {
	t.Helper()
	c = testcoordinator.New(t, testcoordinator.Options{})
	one, two = enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	two.startReady()
	dir := one.open()
	t.Cleanup(func() { dir.Close() })
	a, err := open(dir, one.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close() })
	if err := a.keepSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, one, two, a
}

// A peer is looked for in the configuration first, at the coordinator then,
// and what it said last is good while it is away.
func TestResolve(t *testing.T) {
	c, one, two, a := newLooking(t)
	resolve := func(name, want string) {
		t.Helper()
		if got, err := a.resolve(t.Context(), name); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	listens := two.status().Listen
	one.eventually("the coordinator has heard of edge-2", func() bool {
		got, err := a.resolve(t.Context(), "edge-2")
		return err == nil && got == listens
	})
	resolve("edge-3", "")
	a.addresses.Store(&map[string]string{"edge-2": "192.0.2.1:7443", "edge-3": "192.0.2.2:7443"})
	resolve("edge-2", "192.0.2.1:7443")
	resolve("edge-3", "192.0.2.2:7443")
	a.addresses.Store(&map[string]string{})
	c.Stop()
	resolve("edge-2", listens)
	resolve("edge-3", "")
}

// DNS is asked under the suffix that the coordinator certified for this node.
func TestLookup(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveDNS(server, []byte("\x04db-1\x05nodes\x04test\x00"), net.IPv4(192, 0, 2, 7))
	}()
	defer func() { server.Close(); <-served }()
	dns := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	of := func(names ...string) *chancery.Certificate {
		return &chancery.Certificate{Subject: chancery.Subject{Name: "web-1", DNSNames: names}}
	}
	for _, test := range []struct {
		own  *chancery.Certificate
		name string
		want string
	}{
		{of("web-1.nodes.test"), "db-1", "192.0.2.7:7443"},
		{of("web-1.nodes.test"), "db-2", ""},
		{of("web-1.other.test"), "db-1", ""},
		{of("another.name", "web-1.nodes.test"), "db-1", "192.0.2.7:7443"},
		{of(), "db-1", ""},
	} {
		if got := lookup(t.Context(), dns, test.own, test.name); got != test.want {
			t.Errorf("%s by %v: %q, want %q", test.name, test.own.DNSNames, got, test.want)
		}
	}
}

// serveDNS answers questions for the address of one name (RFC 1035 section
// 4.1).
func serveDNS(l net.PacketConn, name []byte, ip net.IP) {
	for b := make([]byte, 512); ; {
		n, from, err := l.ReadFrom(b)
		if err != nil {
			return
		}
		question := b[12:n]
		end := bytes.IndexByte(question, 0) + 5
		kind := binary.BigEndian.Uint16(question[end-4:])
		answer := append(bytes.Clone(b[:2]), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
		answer = append(answer, question[:end]...)
		switch {
		case !bytes.Equal(question[:end-4], name):
			answer[3] |= 3 // no such name
		case kind == 1:
			answer[7] = 1
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			answer = append(answer, ip.To4()...)
		}
		l.WriteTo(answer, from)
	}
}

// A forward asks for the address once, and again when the node is not there any
// more. What the configuration says comes first, whenever it is said.
func TestDiallerAsksOnce(t *testing.T) {
	c, one, two, a := newLooking(t)
	one.eventually("the coordinator has heard of edge-2", func() bool {
		_, err := a.resolve(t.Context(), "edge-2")
		return err == nil
	})
	if err := a.fetchCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(two.status().Listen)
	dial := a.dialler()
	asks := func(want int, good bool) {
		t.Helper()
		before := c.Calls("GET /v1/address/{name}")
		s, err := dial(t.Context(), "edge-2", port)
		if err == nil {
			s.Close()
		}
		if got := c.Calls("GET /v1/address/{name}") - before; got != want || (err == nil) != good {
			t.Errorf("asked %d times, %v; want %d, %v", got, err, want, good)
		}
	}
	asks(1, true)
	asks(0, true)
	asks(0, true)
	a.addresses.Store(&map[string]string{"edge-2": "127.0.0.1:1"}) // the port is the forward's
	asks(0, true)
	a.addresses.Store(&map[string]string{})
	if err := two.stop(); err != nil {
		t.Fatal(err)
	}
	asks(1, false)
}

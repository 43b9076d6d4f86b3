package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/forward"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

const (
	settling = time.Minute // for what was aborted to be gone
	breakers = 32          // who connect at a time
)

// forwarderLeak has programs, the network and the program behind the relays
// break connections off at random moments, and looks what is left of them.
func forwarderLeak() (results []Result, err error) {
	const command = command + " forwarder-leak"
	n := sized(100_000, 5_000)
	b, err := newBrokenWorld()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	before, err := b.left()
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range breakers {
		group.Go(func() {
			for next.Add(1) <= int64(n) {
				b.connection()
			}
		})
	}
	group.Wait()
	var after leftovers
	for deadline := time.Now().Add(settling); ; time.Sleep(100 * time.Millisecond) {
		if after, err = b.left(); err != nil {
			return nil, err
		}
		if after.within(before) || time.Now().After(deadline) {
			break
		}
	}
	near, far := b.near.Stats(), b.far.Stats()
	whole, opened := b.whole.Load(), near.Dialled
	fmt.Fprintf(os.Stderr, "forwarder-leak: %d connections, %d sessions dialled, %d accepted, %d and %d handshakes broken off, %d connections whole\n", n, near.Dialled, far.Accepted, near.Broken, far.Broken, whole)
	if whole == 0 || opened == whole || near.Broken == 0 || far.Broken == 0 {
		return nil, errors.New("not everything happened that was to happen")
	}
	if !after.within(before) {
		return nil, fmt.Errorf("left over: %+v, before %+v", after, before)
	}
	for _, l := range []struct {
		id, what      string
		after, before int
	}{
		{"goroutines", "goroutines", after.goroutines, before.goroutines},
		{"descriptors", "descriptors", after.descriptors, before.descriptors},
		{"connections", "sessions and relayed connections", after.connections, before.connections},
	} {
		r := within("forwarder-leak-"+l.id, fmt.Sprintf("%s that are left after %d connections of which %d came to their own end", l.what, n, whole), float64(max(0, l.after-l.before)), 0)
		r.Command = command
		results = append(results, r)
	}
	return results, nil
}

// A brokenWorld is two nodes with a relay each, all in this process, and a
// network between them, a program behind them and programs before them that
// break connections off.
type brokenWorld struct {
	near, far   *mesh.Node
	front, back *forward.Relay
	network     net.Listener // leads to back
	program     net.Listener
	stop        func() error
	whole       atomic.Uint64 // connections that came to their own end
}

func newBrokenWorld() (b *brokenWorld, err error) {
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		return nil, err
	}
	nodes, err := f.Enroll(fleet.Request{Name: "near"}, fleet.Request{Name: "far"})
	if err != nil {
		return nil, err
	}
	b = &brokenWorld{}
	for i, into := range []**mesh.Node{&b.near, &b.far} {
		if *into, err = mesh.New(mesh.Config{Verifier: chancery.NewVerifier(f.Trust()), Identity: nodes[i].Identity, Self: nodes[i].ID}); err != nil {
			return nil, err
		}
	}
	rules, err := forward.ParseRules([]string{"any"})
	if err != nil {
		return nil, err
	}
	if b.program, err = breaking(func(c *net.TCPConn) { b.answer(c) }); err != nil {
		return nil, err
	}
	l, err := b.far.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	if b.back, err = forward.NewExpose(l, b.program.Addr().String(), rules, false, forward.Limits{}, quiet); err != nil {
		return nil, err
	}
	if b.network, err = breaking(func(c *net.TCPConn) { b.cable(c) }); err != nil {
		return nil, err
	}
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, name, _ string) (*mesh.Session, error) {
		return b.near.Dial(ctx, "tcp", b.network.Addr().String(), name)
	}
	if b.front, err = forward.NewForward(in, dial, "far", "1", forward.Limits{}, quiet); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for _, r := range []*forward.Relay{b.front, b.back} {
		go func() { ended <- r.Run(ctx) }()
	}
	b.stop = func() error {
		cancel()
		return errors.Join(<-ended, <-ended)
	}
	return b, nil
}

func (b *brokenWorld) close() error {
	return errors.Join(b.stop(), b.network.Close(), b.program.Close(), b.near.Close(), b.far.Close())
}

// leftovers are what connections can leave behind.
type leftovers struct{ goroutines, descriptors, connections int }

func (l leftovers) within(before leftovers) bool {
	return l.goroutines <= before.goroutines && l.descriptors <= before.descriptors && l.connections <= before.connections
}

func (b *brokenWorld) left() (l leftovers, err error) {
	open, err := os.ReadDir("/proc/self/fd")
	return leftovers{runtime.NumGoroutine(), len(open),
		b.near.Stats().Live + b.far.Stats().Live + len(b.front.Connections()) + len(b.back.Connections())}, err
}

// breaking handles each connection, which is closed afterwards.
func breaking(handle func(*net.TCPConn)) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	return l, nil
}

// A little: of bytes, and of time.
func someBytes() int              { return rand.IntN(1 << rand.IntN(18)) }
func someTime() (d time.Duration) { return time.Duration(rand.IntN(1 << (10 + rand.IntN(14)))) } // nanoseconds, 8 ms at the most

// leave ends a connection, by RST or by FIN.
func leave(c *net.TCPConn) {
	if rand.IntN(2) == 0 {
		c.SetLinger(0)
	}
	c.Close()
}

// connection is one of a program before the relays.
func (b *brokenWorld) connection() {
	to := b.front.Addr().String()
	stranger := rand.IntN(20) == 0
	if stranger {
		to = b.back.Addr().String()
	}
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	c := conn.(*net.TCPConn)
	defer leave(c)
	c.SetDeadline(time.Now().Add(settling / 2))
	if stranger {
		c.Write(make([]byte, someBytes()))
		time.Sleep(someTime())
		return
	}
	switch rand.IntN(6) {
	case 0: // at once
	case 1: // at some moment of the handshake, or after it
		time.Sleep(someTime())
	case 2: // in the middle of a transfer
		c.Write(make([]byte, someBytes()))
		time.Sleep(someTime())
	case 3: // after an answer, or in vain
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		c.Write([]byte{1})
		io.ReadFull(c, make([]byte, 1))
	default: // by its own
		said := make([]byte, someBytes())
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(said)
			wrote <- errors.Join(err, c.CloseWrite())
		}()
		heard, err := io.Copy(io.Discard, c)
		if errors.Join(err, <-wrote) == nil && heard == int64(len(said)) {
			b.whole.Add(1)
		}
	}
}

// answer is the program behind the relays.
func (b *brokenWorld) answer(c *net.TCPConn) {
	c.SetDeadline(time.Now().Add(settling / 2))
	defer leave(c)
	switch rand.IntN(8) {
	case 0: // at once
	case 1: // after some bytes
		io.CopyN(io.Discard, c, int64(someBytes()))
	case 2: // after some time
		io.CopyN(c, c, int64(someBytes()))
		time.Sleep(someTime())
	case 3: // nothing to say, and it listens to the end
		c.CloseWrite()
		io.Copy(io.Discard, c)
	default:
		io.Copy(c, c)
		c.CloseWrite()
		io.Copy(io.Discard, c) // until the other side has gone
	}
}

// cable is the network between the two relays: every second connection is cut
// after some bytes, at one end or at both.
func (b *brokenWorld) cable(c *net.TCPConn) {
	conn, err := net.Dial("tcp", b.back.Addr().String())
	if err != nil {
		return
	}
	other := conn.(*net.TCPConn)
	defer other.Close()
	limits := [2]int64{1 << 62, 1 << 62}
	if rand.IntN(2) == 0 {
		limits[rand.IntN(2)] = int64(someBytes())
	}
	var both sync.WaitGroup
	for i, way := range [2][2]*net.TCPConn{{c, other}, {other, c}} {
		both.Go(func() {
			n, err := io.CopyN(way[0], way[1], limits[i])
			if n == limits[i] || err != io.EOF {
				leave(way[rand.IntN(2)])
				time.Sleep(someTime())
				leave(c)
				leave(other)
				return
			}
			way[0].CloseWrite()
		})
	}
	both.Wait()
}

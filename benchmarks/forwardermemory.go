package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
)

const (
	// connectionLimit is what an agent may hold for a connection that it forwards
	// and on which nothing happens, in bytes.
	connectionLimit = 40_000
	// collected is more than the two minutes after which the runtime collects
	// garbage though nobody allocates.
	collected = 3 * time.Minute
)

// forwarderMemory looks how much memory two agents hold, and how much more
// when they carry thousands of connections between them on which nothing
// happens.
func forwarderMemory() (results []Result, err error) {
	const command = command + " forwarder-memory"
	connections := sized(5000, 1000)
	dir, err := os.MkdirTemp("", "benchmarks-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := newProgram()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	t, stop, err := agentTunnel(dir, p.address(), connections+1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := oneByte(t.address); err != nil {
		return nil, err
	}
	ends := []struct {
		id, what string
		process  *child.Child
		before   map[string]float64
	}{{"dialling", "of the agent that dials", t.near, nil}, {"accepting", "of the agent that is dialled", t.far, nil}}
	time.Sleep(idle)
	for i := range ends {
		if ends[i].before, err = memoryOf(ends[i].process.PID()); err != nil {
			return nil, err
		}
	}
	held, err := holdMany(t.address, connections)
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, moment := range []struct {
		id, what string
		wait     time.Duration
	}{{"", "after a minute", idle}, {"-collected", "after three minutes, in which Go has collected its garbage unasked", collected - idle}} {
		time.Sleep(moment.wait)
		for _, e := range ends {
			after, err := memoryOf(e.process.PID())
			if err != nil {
				return nil, err
			}
			r := within("forwarder-memory-"+e.id+moment.id, fmt.Sprintf("bytes resident %s for an idle forwarded connection, of %d, %s", e.what, connections, moment.what),
				(after["Rss"]-e.before["Rss"])*1e6/float64(connections), connectionLimit)
			r.Command = command
			results = append(results, r)
		}
	}
	// Every one of them is there still.
	for _, c := range held {
		if err := speak(c); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// holdMany opens so many connections and keeps them.
func holdMany(address string, n int) (held []net.Conn, err error) {
	held = make([]net.Conn, n)
	failed := make([]error, dialers)
	var group sync.WaitGroup
	for d := range dialers {
		group.Go(func() {
			for i := d; i < n && failed[d] == nil; i += dialers {
				held[i], failed[d] = hold(address)
			}
		})
	}
	group.Wait()
	opened := held[:0]
	for _, c := range held {
		if c != nil {
			opened = append(opened, c)
		}
	}
	return opened, errors.Join(failed...)
}

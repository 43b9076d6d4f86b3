package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	agent "github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
)

const (
	enforcers     = 100
	enforceRounds = 5
)

// enforcement has 100 agents keep a session with one that is revoked, each the
// program with an swtpm of its own, and looks when the last of the sessions is
// cut: each agent has verified the list by then, and judged its peers by it.
func enforcement() (results []Result, err error) {
	w, err := newWorkshop(memoryDir, "./appliance", "./agent")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, appliance, program := w.dir, w.programs[0], w.programs[1]
	count, rounds := sized(enforcers, 10), sized(enforceRounds, 2)
	c, chips, stop, err := newSite(dir, appliance, count+rounds)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	agents := make([]*running, len(chips))
	for i := range agents {
		if agents[i], err = c.startAgent(program, dir, fmt.Sprintf("node-%d", i), chips[i].Device()); err != nil {
			return nil, err
		}
		defer agents[i].process.Stop(10 * time.Second)
	}
	fmt.Fprintf(os.Stderr, "push-enforce: %d agents run\n", len(agents))
	nodes, victims := agents[:count], agents[count:]
	var p99, last, call50, call99 []float64
	for _, v := range victims {
		h, err := c.revokeEnforced(nodes, v)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "push-enforce: %s: %s\n", v.name, h)
		p99, last, call50, call99 = append(p99, h.p99), append(last, h.last), append(call50, h.call50), append(call99, h.call99)
	}
	const command = command + " push-enforce"
	line := func(id, what string, ours float64, target bool) Result {
		r := within(id, what, ours, pushLimit)
		if r.Command = command; !target {
			r.Target, r.Met = "", true
		}
		return r
	}
	return []Result{
		line("push-enforce-p99", fmt.Sprintf("milliseconds from the return of chancery node revoke to the cut of the live session, 99th percentile of %d agents with swtpms on the same machine, worst of the rounds", count), slices.Max(p99), true),
		line("push-enforce-last", "milliseconds of the same, the last agent, worst of the rounds", slices.Max(last), false),
		line("push-enforce-call", "milliseconds from the start of the command, 99th percentile, median of the rounds", median(call99), false),
		line("push-enforce-call-p50", "milliseconds of the same, half of the agents", median(call50), false),
	}, nil
}

// revokeEnforced opens a session of each node with the victim, revokes that,
// and waits until all sessions are cut, by the CRL check.
func (c *coordinator) revokeEnforced(nodes []*running, victim *running) (h heard, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	at, failed := make([]int64, len(nodes)), make([]error, len(nodes))
	var open, ended sync.WaitGroup
	for i, n := range nodes {
		open.Add(1)
		ended.Go(func() {
			opened := sync.OnceFunc(open.Done)
			defer opened()
			at[i], failed[i] = n.sessionWith(ctx, victim, opened)
		})
	}
	open.Wait()
	called, returned, _, err := c.revoke(victim.name)
	if err != nil {
		cancel()
	}
	ended.Wait()
	if err := errors.Join(append(failed, err)...); err != nil {
		return h, err
	}
	return newHeard(at, called, returned), nil
}

// sessionWith keeps a session with a peer through the agent's socket, as
// chancery-agent ping --keep does, and returns when it was cut.
func (r *running) sessionWith(ctx context.Context, peer *running, opened func()) (at int64, err error) {
	dir, err := state.Look(r.state)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	client := agent.Connect(dir)
	defer client.Close()
	var end agent.PingEvent
	for deadline := time.Now().Add(giveUp); ; time.Sleep(100 * time.Millisecond) {
		live := false
		err = client.Ping(ctx, &agent.PingRequest{Name: peer.name, Address: peer.address, Keep: true, Interval: time.Minute}, func(e agent.PingEvent) {
			switch e.Event {
			case agent.EventPong:
				live = true
				opened()
			case agent.EventEnd:
				at, end = monotonic(), e
			}
		})
		if err != nil {
			return 0, err
		}
		if live {
			break
		}
		if time.Now().After(deadline) { // the agents have just begun, and may not be able to yet
			return 0, fmt.Errorf("%s: no session with %s: %s", r.name, peer.name, end.Error)
		}
	}
	if end.Check != string(chancery.CheckCRL) || !strings.Contains(end.Error, chancery.ErrRevoked.Error()) {
		return 0, fmt.Errorf("%s: the session with %s ended otherwise: %+v", r.name, peer.name, end)
	}
	return at, nil
}

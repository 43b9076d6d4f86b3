package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// transfers are more than the rounds elsewhere: they take half a second by
	// a clock, and what else the machine does decides each of them.
	transfers     = 3 * rounds
	dialers       = 8               // who connect at a time
	connecting    = 2 * time.Second // of one tunnel in a round
	forwarderGoal = 0.9
)

// forwarder sends bytes over one connection, and opens one connection after
// another, through two agents and through what else there is.
func forwarder() (results []Result, err error) {
	const command = command + " forwarder"
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
	tunnels, stop, err := newTunnels(dir, p.address())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	megabytes := sized(256, 32)
	for _, k := range []struct {
		id, what, unit string
		rounds         int
		run            func(*tunnel) (rate, each float64, err error)
	}{
		{"up", "megabytes a second over one connection, from who connects", "megabyte", transfers, func(t *tunnel) (float64, float64, error) { return t.throughput(wantTake, megabytes) }},
		{"down", "megabytes a second over one connection, to who connects", "megabyte", transfers, func(t *tunnel) (float64, float64, error) { return t.throughput(wantBytes, megabytes) }},
		{"connections", fmt.Sprintf("connections a second, %d at a time, a byte there and back on each", dialers), "connection", rounds, (*tunnel).connections},
	} {
		all := make([]figures, len(tunnels))
		for round := range k.rounds + 1 { // the first one does not count
			for i, t := range tunnels {
				if t.absent != nil {
					continue
				}
				r, c, err := k.run(t)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", t.name, k.id, err)
				}
				if round > 0 {
					all[i].rate, all[i].cost = append(all[i].rate, r), append(all[i].cost, c)
				}
			}
		}
		for i, t := range tunnels[1:] {
			id := "forwarder-" + k.id
			if i > 0 {
				id += "-" + dashed(t.name)
			}
			if t.absent != nil {
				results = append(results, absent(id, t.absent))
				continue
			}
			r := Result{ID: id, What: k.what, Ours: median(all[0].rate), Beside: median(all[i+1].rate), Peer: t.name, Met: true, Command: command}
			r.Ratio = r.Ours / r.Beside
			if i == 0 {
				r.Target, r.Met = fmt.Sprintf(">= %g", forwarderGoal), r.Ratio >= forwarderGoal
			}
			c := Result{ID: id + "-cpu", What: "microseconds of CPU of both processes for a " + k.unit + " of these", Ours: median(all[0].cost), Beside: median(all[i+1].cost), Peer: t.name, Met: true, Command: command}
			c.Ratio = c.Beside / c.Ours
			results = append(results, r.of(all[0].rate, all[i+1].rate), c.of(all[0].cost, all[i+1].cost))
		}
	}
	return results, nil
}

// figures are what a tunnel did in each round: how fast, and for how many
// microseconds of CPU.
type figures struct{ rate, cost []float64 }

// newTunnels starts ours, the bare one, and those of other programs.
func newTunnels(dir, target string) (tunnels []*tunnel, stop func() error, err error) {
	ours, stopOurs, err := agentTunnel(dir, target, 4096)
	if err != nil {
		return nil, nil, err
	}
	tunnels = []*tunnel{ours}
	stop = func() error {
		for _, t := range tunnels[1:] {
			t.stop()
		}
		return stopOurs()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	ca, err := newPlainCA()
	if err != nil {
		return nil, nil, err
	}
	files, err := ca.save(dir)
	if err != nil {
		return nil, nil, err
	}
	bare, err := bareTunnel(files, target)
	if err != nil {
		return nil, nil, err
	}
	tunnels = append(tunnels, bare)
	for _, guest := range []struct {
		name  string
		start func(name, dir string, files *plainFiles, target string) (*tunnel, error)
	}{{"stunnel4", stunnelTunnel}, {"nginx stream", nginxTunnel}} {
		t, err := guest.start(guest.name, dir, files, target)
		if err != nil {
			t = &tunnel{name: guest.name, absent: err}
		}
		tunnels = append(tunnels, t)
	}
	return tunnels, stop, nil
}

// throughput returns megabytes a second, and the CPU time of one.
func (t *tunnel) throughput(want byte, megabytes int) (rate, each float64, err error) {
	before, err := t.cpu()
	if err != nil {
		return 0, 0, err
	}
	took, err := transfer(t.address, want, megabytes*1_000_000)
	if err != nil {
		return 0, 0, err
	}
	after, err := t.cpu()
	return float64(megabytes) / took.Seconds(), float64((after - before).Microseconds()) / float64(megabytes), err
}

// connections returns connections a second, and the CPU time of one.
func (t *tunnel) connections() (rate, each float64, err error) {
	before, err := t.cpu()
	if err != nil {
		return 0, 0, err
	}
	var opened atomic.Uint64
	failed := make([]error, dialers)
	var group sync.WaitGroup
	start := time.Now()
	for i := range dialers {
		group.Go(func() {
			for failed[i] == nil && time.Since(start) < connecting {
				failed[i] = oneByte(t.address)
				opened.Add(1)
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	after, err := t.cpu()
	n := float64(opened.Load())
	return n / took.Seconds(), float64((after - before).Microseconds()) / n, errors.Join(err, errors.Join(failed...))
}

package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	listenerCount     = 10_000
	listenerProcesses = 2
	pushRounds        = 7
	// settle is how long the nodes are left alone between two revocations, and
	// quiet before the coordinator's memory is looked at.
	settle = 5 * time.Second
	quiet  = time.Minute
	// pushLimit is how many milliseconds a revocation may take to arrive, and
	// pollMemory how many kilobytes the coordinator may hold for a node.
	pushLimit  = 1000
	pollMemory = 40
)

// fanOut has 10,000 nodes wait for a newer list at chancery serve, each over a
// connection under an N:C of its own, looks how much memory that takes there,
// and revokes other nodes.
func fanOut() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	c, maker, err := newPaperCoordinator(program, dir)
	if err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	defer func() { c.stop() }()
	count, rounds := sized(listenerCount, 1000), sized(pushRounds, 3)
	victims, err := c.listeners(maker, "victim", rounds)
	if err != nil {
		return nil, err
	}
	defer victims.stop()
	var all []*listening
	for i := range listenerProcesses {
		l, err := c.listeners(maker, fmt.Sprintf("node-%d", i), count/listenerProcesses)
		if err != nil {
			return nil, err
		}
		defer l.stop()
		all = append(all, l)
	}
	if _, err := together(append(all, victims), listenOrder{Do: "enrol"}); err != nil {
		return nil, err
	}

	// A new process has no memory but what it needs.
	c.stop()
	if err := c.start(); err != nil {
		return nil, err
	}
	pause(quiet, settle)
	before, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := together(all, listenOrder{Do: "connect"}); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "push-fan-out: %d connected in %.1f s\n", count, time.Since(began).Seconds())
	pause(quiet, settle)
	waiting, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "push-fan-out: %.1f MB resident without nodes, %.1f MB with all of them waiting\n", before["Rss"], waiting["Rss"])

	var p99, last, call50, call99, spent []float64
	for i := range rounds {
		start, err := c.cpu()
		if err != nil {
			return nil, err
		}
		r, err := c.revokeHeard(all, fmt.Sprintf("victim-%d", i))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "push-fan-out: %d: %s\n", i, r)
		p99, last, call50, call99 = append(p99, r.p99), append(last, r.last), append(call50, r.call50), append(call99, r.call99)
		time.Sleep(settle)
		end, err := c.cpu()
		if err != nil {
			return nil, err
		}
		spent = append(spent, float64((end.own-start.own).Nanoseconds())/1000/float64(count))
	}
	pause(quiet, settle)
	after, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	const command = command + " push-fan-out"
	each := func(m map[string]float64, key string) float64 { return (m[key] - before[key]) * 1000 / float64(count) }
	line := func(id, what string, ours, limit float64, target bool) Result {
		r := within(id, what, ours, limit)
		if r.Command = command; !target {
			r.Target, r.Met = "", true
		}
		return r
	}
	of := fmt.Sprintf("%d nodes that wait for it over HTTPS in %d processes on the same machine", count, listenerProcesses)
	return []Result{
		line("push-fan-out-p99", "milliseconds from the return of chancery node revoke to the last byte of the list, 99th percentile, "+of+", median of the rounds", median(p99), pushLimit, true),
		line("push-fan-out-worst", "milliseconds of the same, 99th percentile, worst of the rounds", slices.Max(p99), pushLimit, true),
		line("push-fan-out-last", "milliseconds of the same, the last node, worst of the rounds", slices.Max(last), pushLimit, false),
		line("push-fan-out-call", "milliseconds from the start of the command, 99th percentile, median of the rounds", median(call99), pushLimit, false),
		line("push-fan-out-call-p50", "milliseconds of the same, half of the nodes", median(call50), pushLimit, false),
		{ID: "push-fan-out-cpu", What: "microseconds of the coordinator's CPU for each node and revocation, its next poll included", Ours: median(spent), Beside: pushLimit * 1000 / float64(count),
			Peer: "a processor's share in a second", Ratio: pushLimit * 1000 / float64(count) / median(spent), Met: true, Command: command},
		line("push-memory", "kilobytes resident of chancery serve for each node that waits, a minute after they came", each(waiting, "Rss"), pollMemory, true),
		line("push-memory-after", "kilobytes of the same, a minute after the last of the revocations", each(after, "Rss"), pollMemory, false),
		line("push-memory-peak", "kilobytes of the same, at the most (VmHWM)", each(after, "VmHWM"), pollMemory, false),
	}, nil
}

// pause waits, not as long if little is measured.
func pause(d, ofShort time.Duration) {
	if *short {
		d = ofShort
	}
	time.Sleep(d)
}

// listeners starts a worker for nodes that may enrol.
func (c *coordinator) listeners(maker, prefix string, count int) (*listening, error) {
	token, err := c.token(prefix+"-*", count)
	if err != nil {
		return nil, err
	}
	return startListeners(listenJob{URL: c.url, Token: token.Reveal(), Maker: maker, Prefix: prefix, Count: count})
}

// A heard is how long a revocation took to arrive, in milliseconds from the return
// of the command, or from its call. A node that had it before the command
// returned counts with less than nothing.
type heard struct{ p99, last, call50, call99 float64 }

func (h heard) String() string {
	return fmt.Sprintf("after revoke returned p99 %.0f ms, last %.0f ms; after it was called p50 %.0f ms, p99 %.0f ms", h.p99, h.last, h.call50, h.call99)
}

// revokeHeard revokes a node and waits until all others know.
func (c *coordinator) revokeHeard(all []*listening, name string) (h heard, err error) {
	called, returned, number, err := c.revoke(name)
	if err != nil {
		return h, err
	}
	at, err := together(all, listenOrder{Number: number})
	if err != nil {
		return h, err
	}
	return newHeard(at, called, returned), nil
}

func newHeard(at []int64, called, returned int64) heard {
	slices.Sort(at)
	ms := func(percent int, from int64) float64 {
		return float64(at[(len(at)*percent+99)/100-1]-from) / 1e6
	}
	return heard{p99: ms(99, returned), last: ms(100, returned), call50: ms(50, called), call99: ms(99, called)}
}

// revoke runs chancery node revoke, and tells when it was called and when it
// had returned, and in which list the node is.
func (c *coordinator) revoke(name string) (called, returned int64, number uint64, err error) {
	var out struct {
		CRL uint64 `json:"crl"`
	}
	called = monotonic()
	err = c.run(&out, "node", "revoke", name, "--yes", "--reason", "benchmark")
	return called, monotonic(), out.CRL, err
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	loadgen "github.com/chancery-pki/chancery/simulator/load"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// enrolHTTPS has chancery-simulator enrol fleets at chancery serve, whose CA:SK
// is in SoftHSM, and looks what the coordinator's process spends on a node
// beside the cryptography in it. The two programs share the machine.
func enrolHTTPS() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./simulator/cmd/chancery-simulator", "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, simulator, program := w.dir, w.programs[0], w.programs[1]
	c, maker, err := newPaperCoordinator(program, dir)
	if err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	stop := c.stop
	defer func() { stop() }()
	token, err := c.token("load-*", 1_000_000)
	if err != nil {
		return nil, err
	}
	list, err := newFixedList(c)
	if err != nil {
		return nil, err
	}
	var rates, own, signer, crypto, handshakes, p99 []float64
	fleets := 0
	enrol := func() (*loadgen.Result, error) {
		fleets++
		return c.enrolFleet(simulator, maker, *token, "--nodes", fmt.Sprint(sized(2000, 400)), "--connections", "16", "--ek", "rsa", "--name", fmt.Sprintf("load-%d-%%06d", fleets))
	}
	for range sized(5, 2) {
		before, err := c.cpu()
		if err != nil {
			return nil, err
		}
		r, err := enrol()
		if err != nil {
			return nil, err
		}
		after, err := c.cpu()
		if err != nil {
			return nil, err
		}
		each := func(d time.Duration) float64 {
			return float64(d.Nanoseconds()) / 1000 / float64(r.Enrolments.Succeeded)
		}
		rates, p99 = append(rates, r.Enrolments.PerSecond), append(p99, r.Enrolments.Whole.P99)
		own, signer = append(own, each(after.own-before.own)), append(signer, each(after.children-before.children))
		h, l, err := list.measure()
		if err != nil {
			return nil, err
		}
		crypto, handshakes = append(crypto, h+l), append(handshakes, h)
		fmt.Fprintf(os.Stderr, "enrol-https: %.0f/s, %.0f µs of the coordinator, %.0f µs of its signer process, %.0f µs here; handshake %.0f µs, the rest of the list %.0f µs\n",
			r.Enrolments.PerSecond, own[len(own)-1], signer[len(signer)-1], 1000*r.Enrolments.ClientCPUEach, h, l)
	}
	c.stop()
	stop = func() {}
	parts, err := profiled(c, dir, filepath.Join(dir, "cpu"), func() error { _, err := enrol(); return err }, &stop)
	if err != nil {
		return nil, err
	}

	const command = command + " enrol-https"
	const limit = 1 / 1.6
	total, fixed := median(own)+median(signer), median(crypto)
	results = []Result{
		Result{ID: "enrol-https-cpu", What: "microseconds of the coordinator's CPU for a whole enrolment over HTTPS, RSA-2048 EK, signer process included", Ours: total, Beside: fixed,
			Peer: "TLS handshake and the cryptography in it", Ratio: fixed / total, Target: ">= 1/1.6", Met: fixed/total >= limit, Command: command}.of(sums(own, signer), crypto),
		{ID: "enrol-https-rate", What: "whole enrolments a second, the nodes on the same machine", Ours: median(rates), Beside: float64(runtime.NumCPU()) * 1e6 / total,
			Peer: "if the coordinator had the machine", Ratio: median(rates) * total / 1e6 / float64(runtime.NumCPU()), Met: true, Command: command},
		{ID: "enrol-https-p99", What: "milliseconds of one, 99th percentile, 16 connections", Ours: median(p99), Beside: 16 * 1000 / median(rates), Peer: "mean", Ratio: 16 * 1000 / median(rates) / median(p99), Met: true, Command: command},
		{ID: "enrol-https-handshake", What: "microseconds of the server's side of a TLS handshake, in memory", Ours: median(handshakes), Beside: total, Peer: "all of the enrolment", Ratio: total / median(handshakes), Met: true, Command: command},
		{ID: "enrol-https-signer", What: "microseconds of the enrolment's CPU that are the signer process'", Ours: median(signer), Beside: total, Peer: "all of it", Ratio: total / median(signer), Met: true, Command: command},
	}
	for _, room := range slices.SortedFunc(maps.Keys(parts), func(a, b string) int { return int(1e6 * (parts[b] - parts[a])) }) {
		us := parts[room] * median(own)
		results = append(results, Result{ID: "enrol-https-in-" + dashed(room), What: "microseconds of the enrolment's CPU that go to " + room + ", by a profile", Ours: us, Beside: total,
			Peer: "all of it", Ratio: total / us, Met: true, Command: command})
	}
	return results, nil
}

// sums adds what belongs to a round.
func sums(a, b []float64) []float64 {
	out := slices.Clone(a)
	for i := range b {
		out[i] += b[i]
	}
	return out
}

// dashed is a name as part of an id.
func dashed(name string) string {
	b := []byte(name)
	for i := range b {
		if b[i] == ' ' {
			b[i] = '-'
		}
		b[i] |= 0x20 // lower case; a dash stays
	}
	return string(b)
}

// profiled starts the coordinator once more, as a program that can be profiled,
// and writes its profile to the file.
func profiled(c *coordinator, dir, file string, run func() error, stop *func()) (parts map[string]float64, err error) {
	bin := filepath.Join(dir, "profiled")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return nil, err
	}
	if c.program, err = buildProfiled(bin); err != nil {
		return nil, err
	}
	if err := c.start(profileVariable + "=" + file); err != nil {
		return nil, err
	}
	*stop = c.stop
	return c.profile(file, run)
}

// A usage is the CPU time that a coordinator has used, and its signer processes.
type usage struct{ own, children time.Duration }

func (c *coordinator) cpu() (u usage, err error) {
	if u.own, err = cpuOf(c.process.PID()); err != nil {
		return u, err
	}
	pids, err := children(c.process.PID())
	for _, pid := range pids {
		used, err := cpuOf(pid)
		if err != nil {
			return u, err
		}
		u.children += used
	}
	return u, err
}

// A fixedList is what no coordinator can do without: the server's side of a
// TLS handshake, and the cryptography of the evidence.
type fixedList struct {
	evidence       *shown
	server, client *tls.Config
}

func newFixedList(c *coordinator) (*fixedList, error) {
	s, err := newShown(papertpm.RSA2048, known, false)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.dir, "tls.pem")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return nil, err
	}
	return &fixedList{s, (&api.Node{}).TLSConfig(pair), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}, nil // the other side does not count
}

// measure returns the CPU time in microseconds of one handshake, and of the
// rest of the list. As many run at a time as there are processors, as they do
// when nodes enrol.
func (l *fixedList) measure() (handshake, rest float64, err error) {
	const n = 400
	var mu sync.Mutex
	var all time.Duration
	err = everywhere(func() error {
		for range n {
			d, err := l.handshake()
			if err != nil {
				return err
			}
			mu.Lock()
			all += d
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	start := cpu()
	err = everywhere(func() error {
		for range n {
			if err := l.evidence.list(); err != nil {
				return err
			}
		}
		return nil
	})
	runs := float64(n * runtime.NumCPU())
	return float64(all.Nanoseconds()) / 1000 / runs, float64((cpu() - start).Nanoseconds()) / 1000 / runs, err
}

// everywhere runs it on each processor.
func everywhere(run func() error) error {
	failed := make([]error, runtime.NumCPU())
	var group sync.WaitGroup
	for i := range failed {
		group.Go(func() { failed[i] = run() })
	}
	group.Wait()
	return errors.Join(failed...)
}

// handshake returns the CPU time of the thread that the server's side has for
// itself.
func (l *fixedList) handshake() (took time.Duration, err error) {
	near, far := net.Pipe()
	defer near.Close()
	failed := make(chan error, 1)
	go func() {
		defer far.Close()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		start, err := threadCPU()
		if err == nil {
			server := tls.Server(far, l.server)
			if err = server.Handshake(); err == nil {
				state := server.ConnectionState()
				_, err = state.ExportKeyingMaterial(chancery.ExporterLabel, nil, 32)
			}
		}
		end, clockErr := threadCPU()
		took = end - start
		failed <- errors.Join(err, clockErr)
	}()
	client := tls.Client(near, l.client)
	err = client.HandshakeContext(context.Background())
	return took, errors.Join(err, <-failed)
}

// threadCPU is the CPU time that this thread has used.
func threadCPU() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

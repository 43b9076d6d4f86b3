package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// A contender signs in workers.
type contender struct {
	name   string
	args   []string
	job    job
	guest  bool  // may be absent
	absent error // why it is

	worker *worker
	costs  []float64 // CPU
	busy   []float64 // CPU by wall time
}

const (
	// Each worker is started anew lives times: where its memory happens to
	// lie is worth a few per cent.
	lives      = 9
	livesRound = 11
	// signatures of one round, short so that disturbances fall on all; the same
	// number warms a worker up.
	signatures = 480
	catchUp    = 64 // before each round, not counted
)

// signing compares the CPU time of a signature by SoftHSM.
func signing() (results []Result, err error) {
	dir, err := os.MkdirTemp("", "benchmarks-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	token, err := newToken(filepath.Join(dir, "token"), false)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	thales, noThales := buildPeer(dir, "thales")
	j := job{URI: token.URI.String(), Module: token.URI.ModulePath, Token: token.URI.Token, PINFile: filepath.Join(dir, "token", "pin"), Key: keyLabel,
		Message: chancery.Message(chancery.FleetID{}, chancery.P256, statement), Latch: dir}
	ours := func(role string, sessions, callers int) *contender {
		j := j
		j.Sessions, j.Callers = sessions, callers
		return &contender{name: role, args: []string{self, workerName, role}, job: j}
	}
	visitor := func(sessions int) *contender {
		c := ours("thales", sessions, sessions)
		c.args, c.guest, c.absent = []string{thales}, true, noThales
		return c
	}
	if err := parallel(dir, token, ours("inside", 4, 4), ours("pool", 4, 16), ours("pkcs11", 4, 4), ours("crypto11", 4, 4), visitor(4)); err != nil {
		return nil, err
	}
	for _, n := range []int{1, 4} {
		us, raw, unverified, crypto11, group := ours("inside", n, n), ours("pkcs11", n, n), ours("unverified", n, n), ours("crypto11", n, n), visitor(n)
		if err := compete(us, raw, unverified, crypto11, group); err != nil {
			return nil, err
		}
		what := fmt.Sprintf("microseconds of CPU to sign and verify with SoftHSM, P-256, %s", count(n, "session"))
		results = append(results,
			us.beside(raw, fmt.Sprintf("hsm-sign-pkcs11-%d", n), what, "miekg/pkcs11 v1.1.2", 1/1.05),
			us.beside(unverified, fmt.Sprintf("hsm-sign-unverified-%d", n), what, "miekg/pkcs11 v1.1.2 without verification", 0),
			us.beside(crypto11, fmt.Sprintf("hsm-sign-crypto11-%d", n), what, "ThalesIgnite/crypto11 v1.2.5", 1),
			us.beside(group, fmt.Sprintf("hsm-sign-thales-%d", n), what, "ThalesGroup/crypto11 v1.6.2", 1))
	}
	for _, n := range []int{1, 16, 64} {
		us, inside := ours("pool", 4, n), ours("inside", 4, n)
		if err := compete(us, inside); err != nil {
			return nil, err
		}
		target := 1 / 1.35
		if n == 1 {
			target = 0
		}
		results = append(results, us.beside(inside, fmt.Sprintf("hsm-process-%d", n),
			fmt.Sprintf("microseconds of CPU to sign through a signer process, of both processes, 4 sessions, %s", count(n, "caller")), "ours in one process", target))
	}
	return results, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

const keyLabel = "ca"

// newToken makes a SoftHSM token with a P-256 key, and leaves it in the
// environment of this process and so of its workers.
func newToken(dir string, wrappable bool) (i softhsm.Instance, err error) {
	if i, err = softhsm.New(dir, "bench"); err != nil {
		return i, err
	}
	if err = i.Setenv(); err != nil {
		return i, err
	}
	c, err := hsm.OpenCeremony(i.URI, hsm.Options{})
	if err != nil {
		return i, err
	}
	_, err = c.Generate(hsm.URI{Object: keyLabel}, wrappable)
	return i, errors.Join(err, c.Close())
}

// parallel has them sign with a device that makes four signatures at a time,
// 10 ms each: who uses its sessions one after the other takes four times as
// long.
func parallel(dir string, token softhsm.Instance, all ...*contender) error {
	const latency, n = 10 * time.Millisecond, 80
	d, err := device.New(filepath.Join(dir, "device"), token.URI.ModulePath, device.Model{Latency: latency, Parallel: 4})
	if err != nil {
		return err
	}
	defer d.Close()
	uri := token.URI
	uri.ModulePath = d.Module()
	for _, c := range all {
		if c.absent != nil {
			continue
		}
		c.job.URI, c.job.Module = uri.String(), uri.ModulePath
		var env []string
		for name, value := range d.Env() {
			env = append(env, name+"="+value)
		}
		if err := c.start(env...); err != nil {
			return err
		}
		cost, err := c.worker.sign(n)
		if err = errors.Join(err, c.worker.stop()); err != nil {
			if c.guest {
				continue // what is wrong with it is seen later
			}
			return err
		}
		if wall := time.Duration(cost.Wall) * time.Microsecond; wall > latency/2 {
			return fmt.Errorf("%s: a signature of %s every %s: it does not use 4 sessions at a time", c.name, latency, wall)
		}
	}
	return nil
}

func (c *contender) start(env ...string) (err error) {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	c.worker, err = startWorker(cmd, c.job)
	return err
}

// warmUp starts the worker and has it sign for nothing.
func (c *contender) warmUp() error {
	if err := c.start(); err != nil {
		return err
	}
	_, err := c.worker.sign(signatures)
	if err != nil {
		c.worker.stop()
	}
	return err
}

// compete has them sign in turn, for some rounds.
func compete(all ...*contender) error {
	for range lives {
		var present []*contender
		for _, c := range all {
			if c.absent != nil {
				continue
			}
			if err := c.warmUp(); err != nil {
				if !c.guest {
					return err
				}
				c.absent = err
				continue
			}
			defer c.worker.stop() // if it is not stopped below
			present = append(present, c)
		}
		for range livesRound {
			// In an order of chance: who comes after another program finds less of
			// its own in the caches.
			for _, i := range rand.Perm(len(present)) {
				c := present[i]
				if _, err := c.worker.sign(catchUp); err != nil {
					return err
				}
				cost, err := c.worker.sign(signatures)
				if err != nil {
					return err
				}
				c.costs = append(c.costs, cost.CPU)
				c.busy = append(c.busy, cost.CPU/cost.Wall)
			}
		}
		for _, c := range present {
			if err := c.worker.stop(); err != nil {
				return err
			}
		}
	}
	var line []string
	for _, c := range all {
		if c.absent == nil {
			line = append(line, fmt.Sprintf("%s %.1f µs, %.2f busy", c.name, median(c.costs), median(c.busy)))
		}
	}
	fmt.Fprintf(os.Stderr, "%s with %s: %s\n", count(all[0].job.Callers, "caller"), count(all[0].job.Sessions, "session"), strings.Join(line, "; "))
	return nil
}

// beside is the line that compares us with a peer; target is the least ratio,
// 0 if the line informs.
func (us *contender) beside(peer *contender, id, what, name string, target float64) Result {
	r := Result{ID: id, What: what, Ours: median(us.costs), Peer: name, Command: command + " hsm"}
	if target > 0 {
		r.Target = ">= 1"
		if target < 1 {
			r.Target = fmt.Sprintf(">= 1/%.2f", 1/target)
		}
	}
	if peer.absent != nil {
		r.Peer = fmt.Sprintf("%s: absent: %v", name, peer.absent)
		return r
	}
	r.Beside = median(peer.costs)
	r.Ratio = r.Beside / r.Ours
	r.Met = r.Ratio >= target
	return r.of(us.costs, peer.costs)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
)

// A worker is a process that signs in one of the ways that are compared, for
// C_Initialize is once per process. It reads a job and then counts, each a
// JSON value, and answers each count with what so many signatures cost.
type worker struct {
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *json.Decoder
	pipe io.Closer
}

// A job says with what to sign. Peers that are programs of their own read it
// too.
type job struct {
	URI                         string // of the token, as ours names it
	Module, Token, PINFile, Key string // likewise, as others do
	Sessions, Callers           int
	Message                     []byte // of the statement that ours signs
	Latch                       string // directory
}

// A cost is what one signature of many took, in microseconds.
type cost struct {
	CPU  float64 // of the worker and of the processes that it started
	Wall float64
}

// workerName is the first argument of a worker that is this program.
const workerName = "worker"

// startWorker starts a worker and gives it its first order.
func startWorker(cmd *exec.Cmd, order any) (*worker, error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w := &worker{cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out), pipe: in}
	return w, w.in.Encode(order)
}

func (w *worker) sign(n int) (c cost, err error) {
	if err = w.in.Encode(n); err == nil {
		err = w.out.Decode(&c)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(w.cmd.Args, " "), err)
	}
	return c, err
}

// stop ends the worker: it has no more to read.
func (w *worker) stop() error {
	w.pipe.Close()
	return w.cmd.Wait()
}

// work is the worker's main. The rest of the file is in its process.
func work(role string) error {
	switch role {
	case clerkName:
		return clerkWork()
	case bareName:
		return bareWork()
	}
	if role == listenersName {
		return listen()
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var j job
	if err := in.Decode(&j); err != nil {
		return err
	}
	open, ok := map[string]func(job) (*side, error){"inside": openToken, "pool": openPool, "pkcs11": openRaw, "unverified": openUnverified, "crypto11": openCrypto11}[role]
	if !ok {
		return fmt.Errorf("there is no worker %q", role)
	}
	s, err := open(j)
	if err != nil {
		return fmt.Errorf("worker %s: %w", role, err)
	}
	for {
		var n int
		if in.Decode(&n) != nil {
			return s.close() // nobody asks any more
		}
		c, err := s.cost(n, j.Callers)
		if err != nil {
			return errors.Join(fmt.Errorf("worker %s: %w", role, err), s.close())
		}
		if err := out.Encode(c); err != nil {
			return err
		}
	}
}

// A side is one way to sign.
type side struct {
	// sign makes a signature for a caller, which counts from 0.
	sign     func(caller int) error
	close    func() error
	children []int // processes that do a part of the work
}

// cost has the callers make n signatures between them. A round begins after a
// collection, so that nobody pays for the garbage of the round before; the
// garbage of this one is on its account.
func (s *side) cost(n, callers int) (cost, error) {
	runtime.GC()
	each := n / callers
	failed := make([]error, callers)
	var group sync.WaitGroup
	start, began := s.cpu(), time.Now()
	for i := range callers {
		group.Go(func() {
			for range each {
				if failed[i] = s.sign(i); failed[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	used, took, all := s.cpu()-start, time.Since(began), float64(each*callers)
	return cost{float64(used.Nanoseconds()) / 1000 / all, float64(took.Nanoseconds()) / 1000 / all}, errors.Join(failed...)
}

func (s *side) cpu() time.Duration {
	sum := cpu()
	for _, pid := range s.children {
		used, err := cpuOf(pid)
		if err != nil {
			panic(err)
		}
		sum += used
	}
	return sum
}

// cpuOf is the CPU time that another process has used (clock_getcpuclockid(3)):
// /proc/PID/stat has the same figure in hundredths of a second.
func cpuOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|2), &t)
	return time.Duration(t.Nano()), err
}

// statement is what all sign, in the fleet of zeros.
var statement = chancery.Challenge{}

func openToken(j job) (*side, error) {
	uri, err := hsm.ParseURI(j.URI)
	if err != nil {
		return nil, err
	}
	token, err := hsm.Open(uri, hsm.Options{Sessions: j.Sessions})
	if err != nil {
		return nil, err
	}
	key, err := token.Key(j.Key)
	if err != nil {
		return nil, err
	}
	return &side{sign: signer(key), close: token.Close}, nil
}

func openPool(j job) (*side, error) {
	uri, err := hsm.ParseURI(j.URI)
	if err != nil {
		return nil, err
	}
	pool, err := hsm.OpenPool(context.Background(), hsm.PoolConfig{
		Tokens: []hsm.TokenConfig{{URI: uri, Sessions: j.Sessions}},
		Keys:   []hsm.PinnedKey{{Name: j.Key, Key: hsm.URI{Object: j.Key}}},
		Latch:  hsm.Latch(j.Latch), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	key, err := pool.Key(j.Key)
	if err != nil {
		return nil, err
	}
	pids, err := children(os.Getpid())
	if err != nil {
		return nil, err
	}
	if len(pids) != 1 {
		return nil, fmt.Errorf("children %v, want one signer process", pids)
	}
	return &side{sign: signer(key), close: pool.Close, children: pids}, nil
}

func signer(key chancery.Signer) func(int) error {
	return func(int) error {
		_, err := key.Sign(context.Background(), chancery.FleetID{}, statement)
		return err
	}
}

// children returns the processes that another one started (proc(5)).
func children(of int) (pids []int, err error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	if err != nil {
		return nil, err
	}
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread is gone
		}
		for field := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

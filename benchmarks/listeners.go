package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	client "github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// listenersName is the role of a worker whose nodes poll for lists: each over
// a connection of its own, under an N:C of its own, as agents do and by their
// code, and without looking at what comes but for its number.
const listenersName = "listeners"

// A listenJob says where the nodes of a worker enrol, and how many they are.
type listenJob struct {
	URL, Token, Maker, Prefix string
	Count                     int
}

// A listenOrder has the nodes of a worker enrol, or connect; or, with a number,
// tell when they had a list that is not older than that.
type listenOrder struct {
	Do     string
	Number uint64
}

// A listenReport says that it is done. Times are those of CLOCK_MONOTONIC,
// which the processes of a machine share.
type listenReport struct {
	Error string
	At    []int64
}

// A listening is a worker of listeners, from outside.
type listening struct{ *worker }

func startListeners(j listenJob) (*listening, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w, err := startWorker(exec.Command(self, workerName, listenersName), j)
	if err != nil {
		return nil, err
	}
	return &listening{w}, nil
}

func (l *listening) order(o listenOrder) (r listenReport, err error) {
	if err = l.in.Encode(o); err == nil {
		err = l.out.Decode(&r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r, err
}

// together has all workers do the same, and returns all of their times.
func together(all []*listening, o listenOrder) (at []int64, err error) {
	reports := make([]listenReport, len(all))
	var g errgroup.Group
	for i, l := range all {
		g.Go(func() (err error) {
			reports[i], err = l.order(o)
			return err
		})
	}
	err = g.Wait()
	for _, r := range reports {
		at = append(at, r.At...)
	}
	return at, err
}

// monotonic is CLOCK_MONOTONIC in nanoseconds.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

// listen is the worker's main. The rest of the file is in its process.
func listen() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var j listenJob
	if err := in.Decode(&j); err != nil {
		return err
	}
	all, err := newListeners(j)
	if err != nil {
		return err
	}
	for {
		var o listenOrder
		if in.Decode(&o) != nil {
			return nil // nobody asks any more
		}
		var r listenReport
		switch o.Do {
		case "enrol":
			err = all.enrol()
		case "connect":
			err = all.connect()
		default:
			r.At, err = all.had(o.Number)
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

type listeners struct {
	listenJob
	maker   *papertpm.Maker
	token   chancery.Token
	pointer *chancery.Pointer
	all     []*listener
	failed  atomic.Pointer[error]
}

// A listener is a node.
type listener struct {
	name     string
	identity *chancery.Identity
	conn     *client.Conn

	mu   sync.Mutex // guards what is below
	have uint64
	came []arrival
}

// An arrival is a list that came.
type arrival struct {
	number uint64
	at     int64
}

func newListeners(j listenJob) (*listeners, error) {
	l := &listeners{listenJob: j}
	var err error
	if l.maker, err = papertpm.LoadMaker(j.Maker); err != nil {
		return nil, err
	}
	if l.token, err = chancery.ParseToken(j.Token); err != nil {
		return nil, err
	}
	if l.pointer, err = client.FetchPointer(context.Background(), j.URL); err != nil {
		return nil, err
	}
	if err := l.pointer.Verify(l.token.Fleet); err != nil {
		return nil, err
	}
	for i := range j.Count {
		l.all = append(l.all, &listener{name: fmt.Sprintf("%s-%d", j.Prefix, i)})
	}
	return l, nil
}

// each does something with all nodes, some at a time.
func (l *listeners) each(atOnce int, do func(*listener) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, n := range l.all {
		g.Go(func() error {
			if err := do(n); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (l *listeners) enrol() error {
	return l.each(16, func(n *listener) (err error) {
		n.identity, err = l.enrolOne(n.name)
		return err
	})
}

// enrolOne enrols a node with a chip on paper, and has N:SK certify a session
// key.
func (l *listeners) enrolOne(name string) (*chancery.Identity, error) {
	ctx := context.Background()
	chip, err := l.maker.New(papertpm.Options{})
	if err != nil {
		return nil, err
	}
	file, err := chip.CreateKey(nil)
	if err != nil {
		return nil, err
	}
	key, err := chip.LoadKey(file)
	if err != nil {
		return nil, err
	}
	conn, err := client.Dial(ctx, l.pointer, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	a := &join.Applicant{Chip: chip, File: file, Key: key, Pointer: l.pointer, Name: name, Device: "paper", Token: &l.token, Now: time.Now, Step: func(string, string) {}}
	_, verdict, err := a.Apply(ctx, conn, conn.Enroll, func(*state.Intake) error { return nil })
	if err != nil {
		return nil, err
	}
	nc, err := chancery.ParseCertificate(verdict.NC)
	if err != nil {
		return nil, fmt.Errorf("verdict %s %s: %w", verdict.Status, verdict.Reason, err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	var serial [16]byte
	rand.Read(serial[:])
	tbs, err := chancery.NewSession(nc, public, serial, nc.NotBefore, nc.NotBefore.Add(chancery.MaxSessionLife))
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return nil, err
	}
	return &chancery.Identity{Session: tbs.Certificate(key.PublicKey().Suite(), sig), NC: nc, Key: private}, nil
}

// connect returns when all nodes have the current list and wait for the next
// one.
func (l *listeners) connect() error {
	return l.each(64, func(n *listener) (err error) {
		if n.conn, err = client.Dial(context.Background(), l.pointer, func() (*chancery.Identity, error) { return n.identity, nil }); err != nil {
			return err
		}
		if err := n.poll(0); err != nil {
			return err
		}
		go func() {
			for {
				// As an agent's poll, see package run.
				if err := n.poll(pollTime); err != nil {
					l.failed.CompareAndSwap(nil, &err)
					return
				}
			}
		}()
		return nil
	})
}

// pollTime is how long the nodes wait for a list in one poll.
const pollTime = 25 * time.Second

func (n *listener) poll(wait time.Duration) error {
	list, _, err := n.conn.CRL(context.Background(), n.have, wait)
	if err != nil || list == nil {
		return err
	}
	at := monotonic()
	number, err := chancery.CRLNumber(list)
	if err != nil {
		return err
	}
	if number <= n.have {
		return fmt.Errorf("list %d after list %d", number, n.have)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.have, n.came = number, append(n.came, arrival{number, at})
	return nil
}

// had waits until all nodes have a list of the number or a later one, and
// returns when it came.
func (l *listeners) had(number uint64) (at []int64, err error) {
	for deadline := time.Now().Add(giveUp); ; time.Sleep(10 * time.Millisecond) {
		at = at[:0]
		for _, n := range l.all {
			n.mu.Lock()
			for _, c := range n.came {
				if c.number >= number {
					at = append(at, c.at)
					break
				}
			}
			n.mu.Unlock()
		}
		if failed := l.failed.Load(); failed != nil {
			return nil, *failed
		}
		if len(at) == len(l.all) {
			return at, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d nodes have list %d", len(at), len(l.all), number)
		}
	}
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

const (
	// offered is how many nodes a second ask the ledger for CA:N:S, and as many
	// for N:C, whether it is busy or not.
	offered = 1500
	// A list and a checkpoint of both logs share the token: four times as often as
	// chancery serve has its heartbeat unless it is told otherwise, and as often
	// as a list comes that names somebody new when every second has its
	// revocation.
	slowHeartbeat  = 30 * time.Second
	slowRevocation = time.Second
	// inEnrolment is how many nodes enrol over HTTPS at a time.
	inEnrolment = 16
)

// slowHSM has the ledger answer and issue with a token that makes 15 signatures
// a second, and takes the time of a clock for what one artefact waits, and a
// whole enrolment over HTTPS beside them. Lists and checkpoints are made
// meanwhile. The same token then signs as fast as it can, for one certificate
// at a time.
func slowHSM() (results []Result, err error) {
	model, err := device.Named("slow15")
	if err != nil {
		return nil, err
	}
	w, err := newWorkshop(diskDir, "./appliance", "./simulator/cmd/chancery-simulator")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program, simulator := w.dir, w.programs[0], w.programs[1]
	c, maker, err := newPaperCoordinator(program, dir)
	if err != nil {
		return nil, err
	}
	o, err := newOffice(c.dir, &model)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if err := o.open(o.ca, ""); err != nil {
		return nil, err
	}
	token, closeServer, err := o.serve(c, maker)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeServer()) }()

	for n, of := range []struct {
		id, what string
		lists    time.Duration
	}{
		{"ledger-slow-hsm", "a list and checkpoints every 30 s", slowHeartbeat},
		{"ledger-slow-hsm-lists", "a list every second, checkpoints every 30", slowRevocation},
	} {
		s := startStream(o, of.lists)
		nodes := sized(2000, 300)
		enrolled, err := c.enrolFleet(simulator, maker, token, "--name", fmt.Sprintf("load-%d-%%06d", n), "--nodes", fmt.Sprint(nodes), "--connections", fmt.Sprint(inEnrolment), "--no-crl")
		if err := errors.Join(err, s.end()); err != nil {
			return nil, err
		}
		alone := aloneFor(o, time.Duration(sized(20, 4))*time.Second)
		results = append(results, s.results(of.id, of.what, model.Latency, enrolled.Enrolments.Whole.P99, enrolled.Enrolments.PerSecond, alone)...)
	}
	return results, nil
}

// serve serves nodes over HTTPS as chancery serve does, and makes a token for
// them.
func (o *office) serve(c *coordinator, maker string) (token chancery.Token, stop func() error, err error) {
	m, err := papertpm.LoadMaker(maker)
	if err != nil {
		return token, nil, err
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "policy.toml"))
	if err != nil {
		return token, nil, err
	}
	rules, err := policy.Parse(text)
	if err != nil {
		return token, nil, err
	}
	logger := slog.New(slog.DiscardHandler)
	auth, err := authority.New(authority.Config{Store: o.store, Ledger: o.ledger, Pointer: o.pointer, Approval: o.approval, Now: time.Now,
		Roots: evidence.Roots{Simulators: m.Roots()}, Policy: rules, Logger: logger, Life: judgedLife})
	if err != nil {
		return token, nil, err
	}
	if token, _, err = auth.CreateToken(context.Background(), "benchmarks", authority.TokenRequest{Names: "load-*", Uses: 1_000_000, Life: time.Hour}); err != nil {
		return token, nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.dir, "tls.pem"), filepath.Join(c.dir, "tls.pem"))
	if err != nil {
		return token, nil, err
	}
	node := &api.Node{Authority: auth, Ledger: o.ledger, Pointer: o.pointer, Verifier: chancery.NewVerifier(chancery.Trust{Pointer: o.pointer, CRL: o.ledger.CRL()}), Now: time.Now, Logger: logger}
	listener, err := net.Listen("tcp", strings.TrimPrefix(c.url, "https://"))
	if err != nil {
		return token, nil, err
	}
	server := &http.Server{Handler: api.NewNode(node), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(node.Listen(listener, pair)) }()
	return token, func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

// A stream is nodes that come one after the other, at a rate of their own, and
// whoever keeps lists and checkpoints fresh.
type stream struct {
	*office
	stop  context.CancelFunc
	ctx   context.Context // ends when no more are to come
	all   sync.WaitGroup
	began time.Time
	took  time.Duration

	mu                   sync.Mutex // guards what is below
	answers, issues, crl []time.Duration
	failed               []error
}

func startStream(o *office, lists time.Duration) *stream {
	s := &stream{office: o, began: time.Now()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	j := &judge{fleet: o.pointer.FleetID(), trustDomain: o.pointer.TrustDomain, roles: []string{"web"}, hasty: true}
	first, err := j.next(1) // who has the N:S of all
	if err != nil {
		s.failed = append(s.failed, err)
		return s
	}
	s.all.Go(func() { s.one(first[0]) })
	// Arrivals are independent of each other and of the ledger, so the times
	// between them are distributed exponentially.
	s.all.Go(func() {
		number := 1
		for next := time.Now(); s.ctx.Err() == nil; next = next.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / offered)) {
			time.Sleep(time.Until(next))
			number++
			s.all.Go(func() {
				node, err := j.make(number)
				if err != nil {
					s.note(&s.issues, time.Now(), err)
					return
				}
				s.one(node)
			})
		}
	})
	s.all.Go(func() { s.every(lists, &s.crl, o.ledger.PublishCRL) })
	s.all.Go(func() { s.every(slowHeartbeat, nil, o.ledger.Checkpoint) })
	return s
}

// one takes a node through both of its waits.
func (s *stream) one(node *judged) {
	key := node.subject.NodeKey
	cans := &chancery.CANS{NodeKey: key, NodeID: chancery.NewNodeID(s.pointer.FleetID(), key), Issued: time.Now(), Expires: time.Now().Add(chancery.MaxCANSLife)}
	began := time.Now()
	err := s.ledger.Answer(context.Background(), cans)
	s.note(&s.answers, began, err)
	if err != nil {
		return
	}
	began = time.Now()
	_, err = s.ledger.Issue(context.Background(), node)
	s.note(&s.issues, began, err)
}

func (s *stream) every(period time.Duration, into *[]time.Duration, do func(context.Context) error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			began := time.Now()
			s.note(into, began, do(context.Background()))
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *stream) note(into *[]time.Duration, began time.Time, err error) {
	took := time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed = append(s.failed, err)
	} else if into != nil {
		*into = append(*into, took)
	}
}

// end lets all who came have what they came for.
func (s *stream) end() error {
	s.stop()
	s.all.Wait()
	s.took = time.Since(s.began)
	if len(s.failed) > 0 {
		return fmt.Errorf("%d failed: %w", len(s.failed), s.failed[0])
	}
	return nil
}

// aloneFor returns how many signatures a second the token makes of whatever a
// certificate is signed with, each of one certificate, when it is never idle.
func aloneFor(o *office, d time.Duration) float64 {
	l := startLoad(o.ca, 4)
	began := time.Now()
	time.Sleep(d)
	l.end()
	return float64(len(l.served)) / time.Since(began).Seconds()
}

func (s *stream) results(id, what string, op time.Duration, whole, enrolments, alone float64) []Result {
	const command = command + " ledger-slow-hsm"
	of := fmt.Sprintf("with a token that takes %.1f ms for a signature, %s", milliseconds(op), what)
	line := func(of, what string, ours, limit float64, target bool) Result {
		r := within(id+"-"+of, what, ours, limit)
		if r.Command = command; !target {
			r.Target, r.Met = "", true
		}
		return r
	}
	one, two := 3*milliseconds(op)+50, 6*milliseconds(op)+100
	rate := float64(len(s.issues)) / s.took.Seconds()
	both := slices.Concat(s.answers, s.issues)
	const target = 1000
	results := []Result{
		{ID: id + "-rate", What: "N:C a second by the ledger, as many CA:N:S beside them, " + of, Ours: rate, Beside: target, Peer: "target", Ratio: rate / target,
			Target: ">= 1", Met: rate >= target, Command: command},
		{ID: id + "-alone", What: "N:C a second, the same", Ours: rate, Beside: alone, Peer: "one signature each, the token never idle", Ratio: rate / alone,
			Target: ">= 60", Met: rate >= 60*alone, Command: command},
		line("p99", "milliseconds that one artefact waits, 99th percentile, "+of, percentile(both, 99), one, true),
		line("p50", "milliseconds that one artefact waits, median", percentile(both, 50), one, false),
		line("cans-p99", "milliseconds that CA:N:S waits, 99th percentile", percentile(s.answers, 99), one, false),
		line("nc-p99", "milliseconds that N:C waits, 99th percentile", percentile(s.issues, 99), one, false),
		line("nc-max", "milliseconds that N:C waits, at most", percentile(s.issues, 100), one, false),
		line("enrol-p99", fmt.Sprintf("milliseconds of a whole enrolment over HTTPS, 99th percentile, %.0f a second beside the others", enrolments), whole, two, true),
	}
	if len(s.crl) > 100 {
		results = append(results, line("crl-p99", "milliseconds that a CRL waits, 99th percentile", percentile(s.crl, 99), one, false))
	}
	return results
}

// percentile is the smallest value, in milliseconds, that is not below that
// share of them.
func percentile(v []time.Duration, percent int) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return milliseconds(v[(len(v)*percent+99)/100-1])
}

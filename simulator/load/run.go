package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/merkle"
)

// A run is one Run.
type run struct {
	Options
	pointer  *chancery.Pointer
	verifier *chancery.Verifier // of all nodes
	nodes    []*node            // nil where there is none yet, or none any more
	last     atomic.Value       // code of the last failure

	// mu guards what is below.
	mu       sync.Mutex
	issued   map[merkle.Serial]issued
	failures map[string]*Failure

	// crl guards what is below, and that the verifier's list is the newest
	// that came. It is held while a list is verified.
	crl  sync.Mutex
	list []byte    // the last one that was verified
	at   time.Time // when it came
}

// An issued is what is remembered of a certificate.
type issued struct {
	ca        merkle.TrustAnchorID
	notBefore time.Time
}

// Run enrols the nodes, has them renew, and checks what came of it. If ctx ends
// first, the result is of what was done until then.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &run{Options: o, nodes: make([]*node, o.Nodes), issued: map[merkle.Serial]issued{}, failures: map[string]*Failure{}}
	result := &Result{
		URL: o.URL, Fleet: o.Token.Fleet.Pin(), Started: time.Now().UTC().Truncate(time.Second),
		Nodes: o.Nodes, Connections: o.Connections, PerConnection: o.PerConnection,
		EK: o.EK.String(), Sealed: o.Sealed, Quote: o.Quote, Lazy: o.Lazy,
	}
	if err := r.meet(ctx); err != nil {
		return nil, err
	}
	if !o.Lazy {
		var err error
		if result.ChipSeconds, err = r.prepare(ctx); err != nil {
			return nil, err
		}
	}
	result.Enrolments = *r.enrolments(ctx)
	if o.Renewals > 0 {
		result.Renewals = r.renewals(ctx)
	}
	if err := r.audit(ctx, result); err != nil {
		r.count(err)
	}
	for _, f := range r.failures {
		result.Failures = append(result.Failures, *f)
	}
	slices.SortFunc(result.Failures, func(a, b Failure) int { return b.Count - a.Count })
	return result, context.Cause(ctx)
}

// meet takes the pointer record under the pin, and the first CRL.
func (r *run) meet(ctx context.Context) (err error) {
	if r.pointer, err = coordinator.FetchPointer(ctx, r.URL); err != nil {
		return err
	}
	if err := chancery.AcceptPointer(r.Token.Fleet, nil, r.pointer, time.Now()); err != nil {
		return &join.PointerError{URL: r.URL, Err: err}
	}
	r.verifier = chancery.NewVerifier(chancery.Trust{Pointer: r.pointer})
	conn, err := coordinator.Dial(ctx, r.pointer, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	return r.takeCRL(ctx, conn)
}

// prepare makes the chips and keys and returns how long it took.
func (r *run) prepare(ctx context.Context) (seconds float64, err error) {
	p := r.begin("chips", r.Nodes)
	defer r.watch(p)()
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= r.Nodes {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				n, err := r.make(i)
				if err != nil {
					return err
				}
				r.nodes[i] = n
				p.done.Add(1)
			}
		})
	}
	err = g.Wait()
	return time.Since(p.start).Seconds(), err
}

// work has as many workers as there are connections do all that there is to
// do. Who has begun goes on to the end; when ctx ends that is soon.
func (r *run) work(ctx context.Context, p *phase, do func(ctx context.Context, index int, l *line) error) *Phase {
	stop := r.watch(p)
	var workers sync.WaitGroup
	var next atomic.Int64
	for range min(r.Connections, p.all) {
		workers.Go(func() {
			l := &line{}
			defer l.close()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= p.all {
					return
				}
				if err := do(ctx, i, l); err != nil {
					p.failed.Add(1)
					r.count(err)
				} else {
					p.done.Add(1)
				}
			}
		})
	}
	workers.Wait()
	s := r.end(p)
	stop()
	return s
}

// enrolments enrols all nodes.
func (r *run) enrolments(ctx context.Context) *Phase {
	p := r.begin("enrolments", r.Nodes)
	return r.work(ctx, p, func(ctx context.Context, i int, l *line) (err error) {
		n := r.nodes[i]
		if n == nil {
			if n, err = r.make(i); err != nil {
				return err
			}
		}
		if err = r.certify(ctx, n, l, nil, p); err != nil || r.Renewals == 0 {
			r.nodes[i] = nil
		}
		if l.served++; l.served >= r.PerConnection {
			l.close()
		}
		return err
	})
}

// renewals has each enrolled node renew as often as it is to. The rounds follow
// each other, so that no node renews twice at a time.
func (r *run) renewals(ctx context.Context) *Phase {
	enrolled := slices.DeleteFunc(slices.Clone(r.nodes), func(n *node) bool { return n == nil })
	p := r.begin("renewals", len(enrolled)*r.Renewals)
	var failed sync.Map // nodes, which do not go on
	busy := make(map[*node]*sync.Mutex, len(enrolled))
	for _, n := range enrolled {
		busy[n] = &sync.Mutex{}
	}
	return r.work(ctx, p, func(ctx context.Context, i int, l *line) error {
		n := enrolled[i%len(enrolled)]
		busy[n].Lock() // with few nodes a round may begin before the last one ends
		defer busy[n].Unlock()
		if err, ok := failed.Load(n); ok {
			return err.(error)
		}
		defer l.close()
		err := r.certify(ctx, n, l, func() (*chancery.Identity, error) { return n.identity(ctx) }, p)
		if err != nil {
			failed.Store(n, err)
		}
		return err
	})
}

// listAge is how old the CRL may become in a run whose nodes do not fetch it.
const listAge = time.Minute

func (r *run) listIsOld() bool {
	r.crl.Lock()
	defer r.crl.Unlock()
	return time.Since(r.at) > listAge
}

// takeCRL fetches the whole list, as a node that joins does. Several nodes do
// so at a time, so an older list may come after a newer one; but none may be
// older than what was there when it was asked for.
func (r *run) takeCRL(ctx context.Context, conn *coordinator.Conn) error {
	var floor uint64
	if held := r.verifier.Trust().CRL; held != nil {
		floor = held.Head().Number
	}
	b, _, err := conn.CRL(ctx, 0, 0)
	if err != nil {
		return away(err)
	}
	number, err := chancery.CRLNumber(b)
	if err != nil {
		return unlike("crl", "CRL: %w", err)
	}
	if number < floor {
		return unlike("crl", "CRL number %d came after number %d: %w", number, floor, chancery.ErrCRLRollback)
	}
	r.crl.Lock()
	defer r.crl.Unlock()
	if held := r.verifier.Trust().CRL; bytes.Equal(b, r.list) || held != nil && number < held.Head().Number {
		r.at = time.Now()
		return nil
	}
	crl, err := r.verifier.UpdateCRL(b, time.Now())
	if err == nil {
		err = crl.Fresh(time.Now())
	}
	if err != nil {
		return unlike("crl", "CRL number %d: %w", number, err)
	}
	r.list, r.at = b, time.Now()
	return nil
}

// judge checks a certificate that came for an N:S.
func (r *run) judge(ns *chancery.NS, der []byte) (*chancery.Certificate, error) {
	nc, err := join.CheckCertificate(r.verifier, ns, der, time.Now())
	if err != nil {
		return nil, unlike("certificate", "%w", err)
	}
	if !nc.Assurance.Simulator {
		return nil, unlike("certificate", "the certificate of %s does not say that its chip is a simulator", nc.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.issued[nc.Serial]; ok {
		return nil, unlike("serial", "serial number %s came for %s and for another certificate", nc.Serial, nc.Name)
	}
	r.issued[nc.Serial] = issued{nc.CA, nc.NotBefore}
	return nc, nil
}

// audit counts the serial numbers, and looks each one up in the CRL of the end.
func (r *run) audit(ctx context.Context, result *Result) error {
	succeeded := result.Enrolments.Succeeded
	if result.Renewals != nil {
		succeeded += result.Renewals.Succeeded
	}
	result.Serials = len(r.issued)
	if result.Serials != succeeded {
		r.count(unlike("serial", "%d distinct serial numbers of %d certificates", result.Serials, succeeded))
	}
	if ctx.Err() != nil {
		return nil
	}
	err := r.insist(ctx, &phase{}, func() error {
		conn, err := coordinator.Dial(ctx, r.pointer, nil)
		if err != nil {
			return away(err)
		}
		defer conn.Close()
		return r.takeCRL(ctx, conn)
	})
	if err != nil {
		return fmt.Errorf("the CRL at the end: %w", err)
	}
	crl, now := r.verifier.Trust().CRL, time.Now()
	result.CRL = crl.Head().Number
	for serial, c := range r.issued {
		switch err := crl.Check(c.ca, serial, c.notBefore, now); {
		case errors.Is(err, chancery.ErrRevoked):
			result.Revoked++
			r.count(unlike("crl", "%w", err))
		case err != nil:
			r.count(unlike("crl", "serial number %s: %w", serial, err))
		}
	}
	return nil
}

// count notes a failure.
func (r *run) count(err error) {
	f := failure(err)
	r.last.Store(f.Code)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failures[f.Code] == nil {
		r.failures[f.Code] = &f
	}
	r.failures[f.Code].Count++
}

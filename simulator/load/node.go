package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// A node is a machine with a paper chip and N:SK in it. One goroutine at a
// time has it.
type node struct {
	name string
	chip *papertpm.Chip
	file *tpm.KeyFile
	key  *papertpm.Key
	nc   *chancery.Certificate // the last one
	// pending is the intake whose N:S was sent and that was not decided yet, as
	// far as the node knows.
	pending *state.Intake
}

// make makes the node of an index.
func (r *run) make(index int) (*node, error) {
	n := &node{name: r.name(index)}
	var err error
	if n.chip, err = r.Maker.New(papertpm.Options{EK: r.EK}); err != nil {
		return nil, err
	}
	var sealing *tpm.Sealing
	if r.Sealed {
		sealing = &tpm.Sealing{Approval: r.pointer.Approval, PCRs: tpm.DefaultPCRs}
		rand.Read(sealing.Nonce[:])
	}
	if n.file, err = n.chip.CreateKey(sealing); err != nil {
		return nil, err
	}
	n.key, err = n.chip.LoadKey(n.file)
	return n, err
}

// A line is the connection of a worker, which is made when it is needed.
type line struct {
	conn   *coordinator.Conn
	served int
}

func (l *line) close() {
	if l.conn != nil {
		l.conn.Close()
	}
	*l = line{}
}

// dial connects the line, unless it is.
func (r *run) dial(ctx context.Context, l *line, identity func() (*chancery.Identity, error), p *phase) error {
	if l.conn != nil {
		return nil
	}
	start := time.Now()
	conn, err := coordinator.Dial(ctx, r.pointer, identity)
	if err != nil {
		return away(err)
	}
	p.took(connect, start)
	l.conn = conn
	return nil
}

// certify brings a node from where it is to its next certificate, in as many
// attempts as it takes and may take.
func (r *run) certify(ctx context.Context, n *node, l *line, identity func() (*chancery.Identity, error), p *phase) error {
	start := time.Now()
	err := r.insist(ctx, p, func() error {
		err := r.attempt(ctx, n, l, identity, p)
		if err != nil && !isProblem(err) {
			l.close() // a lost connection ends what was bound to it
		}
		return err
	})
	if err == nil {
		p.took(whole, start)
	}
	return err
}

// Pauses between attempts grow from one to the other.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// insist tries again and again while the coordinator is away, for as long as
// the options say.
func (r *run) insist(ctx context.Context, p *phase, attempt func() error) error {
	pause, until := firstPause, time.Time{}
	for {
		err := attempt()
		if err == nil || !transient(err) || r.Retry == 0 || ctx.Err() != nil {
			return err
		}
		if until.IsZero() {
			until = time.Now().Add(r.Retry)
		} else if time.Now().After(until) {
			return fmt.Errorf("tried for %s: %w", r.Retry, err)
		}
		p.retried.Add(1)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}

// attempt is one attempt, on one connection.
func (r *run) attempt(ctx context.Context, n *node, l *line, identity func() (*chancery.Identity, error), p *phase) error {
	if err := r.dial(ctx, l, identity, p); err != nil {
		return err
	}
	var verdict *chancery.Verdict
	if n.pending != nil {
		var err error
		verdict, err = l.conn.Verdict(ctx, n.pending.ID)
		if join.Gone(err) {
			n.pending = nil // N:S never arrived
		} else if err != nil {
			return away(err)
		}
	}
	if n.pending == nil {
		var err error
		if verdict, err = r.apply(ctx, n, l.conn, identity != nil, p); err != nil {
			return err
		}
	}
	switch verdict.Status {
	case chancery.VerdictIssued:
	case chancery.VerdictPending:
		return unlike("pending", "an operator has to approve %s, which no load generator waits for", n.name)
	default:
		n.pending = nil
		return join.Refused(verdict)
	}
	if !r.NoCRL || r.listIsOld() {
		start := time.Now()
		if err := r.takeCRL(ctx, l.conn); err != nil {
			return err
		}
		p.took(list, start)
	}
	ns, err := n.pending.Statement()
	if err != nil {
		return err
	}
	n.pending = nil
	n.nc, err = r.judge(ns, verdict.NC)
	return err
}

// apply goes from the initial connection to the verdict.
func (r *run) apply(ctx context.Context, n *node, conn *coordinator.Conn, renewal bool, p *phase) (*chancery.Verdict, error) {
	a := &join.Applicant{
		Chip: n.chip, File: n.file, Key: n.key, Pointer: r.pointer, Name: n.name, Device: "paper",
		PCRs: r.Quote, Now: time.Now, Step: func(string, string) {},
	}
	open := conn.Renew
	if !renewal {
		open, a.Token = conn.Enroll, &r.Token
	}
	calling := false // an error is the network's, not the chip's
	timed := func(ctx context.Context, m *chancery.InitialConnection) (*chancery.Answer, error) {
		calling = true
		start := time.Now()
		answer, err := open(ctx, m)
		if err == nil {
			p.took(answered, start)
			calling = false
		}
		return answer, err
	}
	var submitted time.Time
	keep := func(i *state.Intake) error {
		n.pending, submitted, calling = i, time.Now(), true
		return nil
	}
	_, verdict, err := a.Apply(ctx, conn, timed, keep)
	if err != nil {
		if calling {
			err = away(err)
		}
		return nil, err
	}
	p.took(decided, submitted)
	return verdict, nil
}

// identity is a session certificate under the node's N:C (docs/protocol.md
// section 7), which it presents when it renews.
func (n *node) identity(ctx context.Context) (*chancery.Identity, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	from := time.Now().UTC().Truncate(time.Second)
	if from.Before(n.nc.NotBefore) {
		from = n.nc.NotBefore
	}
	until := from.Add(chancery.DefaultSessionLife)
	if until.After(n.nc.NotAfter) {
		until = n.nc.NotAfter
	}
	var serial [16]byte
	rand.Read(serial[:])
	tbs, err := chancery.NewSession(n.nc, public, serial, from, until)
	if err != nil {
		return nil, err
	}
	// An X.509 signature carries no fleet; N:C above it does.
	sig, err := n.key.Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return nil, err
	}
	return &chancery.Identity{Session: tbs.Certificate(n.key.PublicKey().Suite(), sig), NC: n.nc, Key: private}, nil
}

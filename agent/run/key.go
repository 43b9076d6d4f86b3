package run

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// A session is what the node presents in handshakes, and until when.
type session struct {
	chancery.Identity
	notBefore, notAfter time.Time
}

// errNoSession: N:SK has not certified a session key, see Status.
var errNoSession = errors.New("there is no session certificate yet")

// present returns what the node shows in a handshake, out of memory.
func (a *agent) present() (*chancery.Identity, error) {
	s := a.identity.Load()
	switch {
	case s == nil:
		return nil, errNoSession
	case a.clock().After(s.notAfter):
		return nil, fmt.Errorf("the session certificate ended at %s", s.notAfter)
	}
	return &s.Identity, nil
}

// signTime is how long a handshake waits for the chip, if each takes it.
const signTime = 8 * time.Second

// idle is the longest time that the key loop sleeps: clocks are set, and
// machines are suspended.
const idle = time.Minute

// keepKey does everything that takes the chip, one after the other: session
// certificates at half of their life, anchors, an attestation with each session certificate, the next N:C at
// half of its life, and whatever it takes to get a closed seal opened or a lost chip back.
func (a *agent) keepKey(ctx context.Context) {
	r := &renewal{agent: a, pause: pause{longest: 10 * time.Minute}}
	r.schedule()
	t := &attesting{agent: a, pause: pause{longest: 10 * time.Minute}}
	n := &anchoring{agent: a}
	failed := pause{longest: time.Minute}
	for ctx.Err() == nil {
		var wait time.Duration
		err := a.keepSession(ctx)
		if err == nil {
			a.succeed(topicKey)
			var attest, move time.Duration
			if move, err = n.step(ctx); err == nil {
				attest, err = t.step(ctx)
			}
			if err == nil {
				wait, err = r.step(ctx)
				wait = min(wait, attest, move, idle, a.sessionDue())
			}
		}
		var sealed *tpm.SealedError
		switch {
		case err == nil:
			failed.reset()
		case errors.As(err, &sealed):
			a.reseal(ctx, sealed)
			continue
		case errors.Is(err, tpm.ErrClosed) || errors.Is(err, tpm.ErrTimeout):
			a.fail(topicChip, err)
			again := failed.failures > 0 // lost once more, and no round was whole in between
			wait = failed.next()
			if err = a.openChip(); err != nil {
				a.fail(topicChip, err)
				break
			}
			if a.succeed(topicChip); !again {
				continue
			}
		default:
			a.fail(topicKey, err)
			wait = failed.next()
		}
		asked := a.asked
		if failed.failures > 0 {
			asked = nil // nobody shortens the pause after a failure
		}
		select {
		case <-time.After(wait):
		case <-asked: // put back, for the step to see
			select {
			case a.asked <- struct{}{}:
			default:
			}
		case <-ctx.Done():
		}
	}
}

// sessionDue returns how long the present session certificate is good enough:
// for half of its life. One that ends with N:C cannot be bettered.
func (a *agent) sessionDue() time.Duration {
	s, nc := a.identity.Load(), a.nc.Load()
	switch {
	case a.clock().After(nc.NotAfter):
		return idle // the renewal's business
	case s == nil || s.NC != nc:
		return 0
	case !s.notAfter.Before(nc.NotAfter):
		return idle
	}
	return max(s.notBefore.Add(s.notAfter.Sub(s.notBefore)/2).Sub(a.clock()), 0)
}

// keepSession certifies a new session key with N:SK if it is time
// (docs/protocol.md section 7).
func (a *agent) keepSession(ctx context.Context) error {
	nc := a.nc.Load()
	if a.sessionDue() > 0 {
		return nil
	}
	if a.config.Session == state.SessionTPM {
		from := a.clock()
		a.show(&session{chancery.Identity{NC: nc, Key: chancery.TLSKey(nodeKey{a}, signTime)}, from, minTime(from.Add(chancery.DefaultSessionLife), nc.NotAfter)})
		return nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return err
	}
	der, from, until, err := a.newSession(ctx, nc, public)
	if err != nil {
		return err
	}
	s := &session{chancery.Identity{Session: der, NC: nc, Key: private}, from, until}
	a.show(s)
	return nil
}

// show presents s from now on.
func (a *agent) show(s *session) {
	switch before := a.identity.Swap(s); {
	case before == nil:
		close(a.ready)
		a.changes.tell()
	case before.NC != s.NC:
		a.changes.tell()
	}
	a.Logger.Debug("session certificate", "until", s.notAfter)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func newSerial() (serial [16]byte) {
	rand.Read(serial[:])
	return serial
}

// A renewal leads from one N:C to the next.
type renewal struct {
	*agent
	due    time.Time
	pause  pause
	intake *state.Intake // submitted and not decided
}

// schedule sets the time of the next renewal: half of N:C's life, give or take
// a tenth, so that nodes that enrolled together do not renew together.
func (r *renewal) schedule() {
	nc := r.nc.Load()
	life := nc.NotAfter.Sub(nc.NotBefore)
	r.due = nc.NotBefore.Add(life/2 - life/20 + mathrand.N(life/10+1))
}

// step renews N:C if it is time and returns how long there is nothing to do.
// Its error is the chip's; what the coordinator does is a problem that is
// tried again.
func (r *renewal) step(ctx context.Context) (time.Duration, error) {
	if wait := r.due.Sub(r.clock()); wait > 0 {
		return wait, nil
	}
	nc, err := r.attempt(ctx)
	switch {
	case err == nil && nc == nil: // an operator has to approve
		r.fail(topicRenewal, fmt.Errorf("the next certificate waits for approval; an operator runs: chancery node approve %s", r.config.Name))
	case err == nil:
		err = r.dir.SaveCertificate(nc)
	}
	if err == nil && nc != nil {
		r.nc.Store(nc)
		r.intake = nil
		r.succeed(topicRenewal)
		r.pause.reset()
		r.schedule()
		r.Logger.Info("renewed", "serial", nc.Serial.String(), "until", nc.NotAfter)
		return 0, nil // a session certificate under it is next
	}
	wait := r.pause.next()
	r.due = r.clock().Add(wait)
	if err != nil {
		if chipError(err) {
			return 0, err
		}
		r.fail(topicRenewal, err)
	}
	return wait, nil
}

func chipError(err error) bool {
	_, sealed := errors.AsType[*tpm.SealedError](err)
	return sealed || errors.Is(err, tpm.ErrClosed) || errors.Is(err, tpm.ErrTimeout)
}

// attempt goes from the initial connection to the certificate, or asks what
// became of an earlier attempt. It returns nil if that is not decided.
func (r *renewal) attempt(ctx context.Context) (*chancery.Certificate, error) {
	// An expired record verifies peers, and leads to no certificate (section
	// 3).
	if expires := r.pointer().Expires; r.clock().After(expires) {
		err := fmt.Errorf("%w: at %s", chancery.ErrPointerExpired, expires)
		r.seekPointer(err)
		return nil, err
	}
	// A certificate that has ended authenticates nothing. Then this is an
	// enrolment of a known key without a token, which the coordinator's policy
	// allows for a while (section 4, Renewal).
	identity := r.present
	if _, err := r.present(); err != nil {
		identity = nil
	}
	conn, err := coordinator.Dial(ctx, r.pointer(), identity)
	if err != nil {
		r.seekPointer(err)
		return nil, err
	}
	defer conn.Close()

	var verdict *chancery.Verdict
	if r.intake != nil {
		verdict, err = conn.Verdict(ctx, r.intake.ID)
		if join.Gone(err) {
			r.intake = nil
		} else if err != nil {
			return nil, err
		}
	}
	if r.intake == nil {
		a := &join.Applicant{
			Chip: r.chip, File: r.file, Key: r.key.Load(), Pointer: r.pointer(), Name: r.config.Name, Device: r.config.TPM,
			PCRs: r.config.PCRs, EventLog: r.config.EventLog, Now: r.clock,
			Step: func(symbol, what string) { r.Logger.Debug("renewal", "symbol", symbol, "what", what) },
		}
		open := conn.Renew
		if identity == nil {
			open = conn.Enroll
		}
		keep := func(i *state.Intake) error { r.intake = i; return nil }
		if _, verdict, err = a.Apply(ctx, conn, open, keep); err != nil {
			return nil, err
		}
	}
	switch verdict.Status {
	case chancery.VerdictPending:
		return nil, nil
	case chancery.VerdictIssued:
		return r.accept(ctx, verdict.NC)
	}
	r.intake = nil
	return nil, join.Refused(verdict)
}

// accept verifies the next N:C, by a CRL that is newer than it.
func (r *renewal) accept(ctx context.Context, der []byte) (*chancery.Certificate, error) {
	if err := r.fetchCRL(ctx); err != nil {
		return nil, err
	}
	ns, err := r.intake.Statement()
	if err != nil {
		return nil, err
	}
	// By a verifier of its own: one that is suspended for a fork of the CRL
	// refuses peers, and this is the node itself.
	nc, err := join.CheckCertificate(chancery.NewVerifier(r.verifier.Trust()), ns, der, r.clock())
	if err != nil {
		r.intake = nil
	}
	return nc, err
}

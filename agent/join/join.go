// Package join enrols a node.
//
// Start with [Join], which goes through docs/protocol.md section 4 from the
// pin to the CRL. An [Applicant] is the part of it that a renewal repeats.
//
// # Interruption
//
// Join may be killed anywhere. What it does is durable in this order: pointer
// record, key file, anchor, intake, configuration, CRL, N:C. The node is enrolled when
// N:C is there; before that the next Join goes on with the same key, and if N:S
// was sent, with the same intake.
package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// Options say who wants to join what.
type Options struct {
	URL      string // any coordinator of the fleet
	Fleet    chancery.FleetID
	Token    *chancery.Token // nil: the coordinator knows the node by other means
	Name     string
	Device   string // of the TPM
	Unsealed bool
	PINFile  string // of an unsealed key that asks for a PIN; empty: it asks for none
	PCRs     []int  // to seal to and to quote
	EventLog string
	Rejoin   bool // take the place of the node of this name
	Wait     bool // for an operator's approval
	Now      func() time.Time

	Step   func(Step)        // is told of each step that is done
	Notice func(text string) // is told what is waited for
}

// A Step is one step of an enrolment.
type Step struct {
	Symbol string  `json:"symbol"` // as in docs/protocol.md section 1
	What   string  `json:"what"`
	MS     float64 `json:"ms"` // since the step before
}

// ErrChip marks errors of opening the TPM: there is none, or it does not
// answer.
var ErrChip = errors.New("TPM")

// joining is one run of Join.
type joining struct {
	*Options
	dir     *state.Dir
	last    time.Time
	steps   []Step
	pointer *chancery.Pointer
}

// Join enrols the node of the state directory. One that is enrolled already it
// leaves as it is, see [Present]. An enrolment that waits for an operator is
// returned as [Pending] unless the options say to wait.
func Join(ctx context.Context, dir *state.Dir, o Options) (*Result, error) {
	if !o.Rejoin {
		if r, err := Present(dir, o.Fleet); r != nil || err != nil {
			return r, err
		}
	}
	j := &joining{Options: &o, dir: dir, last: time.Now()}
	if err := j.fetchPointer(ctx); err != nil {
		return nil, err
	}
	intake, err := j.earlier()
	if err != nil {
		return nil, err
	}
	var verdict *chancery.Verdict
	if intake != nil {
		o.Notice("going on with intake " + intake.ID)
		if verdict, err = j.ask(ctx, intake); err != nil {
			return nil, err
		}
	}
	if verdict == nil {
		if intake, verdict, err = j.apply(ctx); err != nil {
			return nil, err
		}
	}
	ns, err := intake.Statement()
	if err != nil {
		return nil, err
	}
	for pause := firstPause; verdict.Status == chancery.VerdictPending; pause = min(2*pause, lastPause) {
		if !o.Wait {
			return j.result(Pending, ns), nil
		}
		o.Notice("waiting for approval; an operator runs: chancery node approve " + ns.Name)
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("%w; the next join goes on with intake %s", err, intake.ID)
		}
		next, err := j.ask(ctx, intake)
		switch {
		case err != nil && !isProblem(err): // or ctx has ended, and sleep says so
			o.Notice("the coordinator is away: " + err.Error())
		case err != nil:
			return nil, err
		case next == nil:
			return nil, fmt.Errorf("the coordinator has forgotten intake %s; join again", intake.ID)
		default:
			verdict = next
		}
	}
	if verdict.Status != chancery.VerdictIssued {
		return nil, errors.Join(Refused(verdict), dir.RemoveIntake())
	}
	return j.finish(ctx, intake, ns, verdict.NC)
}

// How often the coordinator is asked for a verdict: growing from one to the
// other.
const (
	firstPause = 2 * time.Second
	lastPause  = 30 * time.Second
)

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// step records a step and tells of it.
func (j *joining) step(symbol, what string) {
	now := time.Now()
	s := Step{Symbol: symbol, What: what, MS: float64(now.Sub(j.last).Microseconds()) / 1000}
	j.last = now
	j.steps = append(j.steps, s)
	j.Step(s)
}

// earlier returns the intake that an earlier Join left, if it is of this fleet
// and name.
func (j *joining) earlier() (*state.Intake, error) {
	intake, err := j.dir.Intake()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if ns, err := intake.Statement(); err != nil || ns.Fleet != j.Fleet || ns.Name != j.Name {
		return nil, err
	}
	return intake, nil
}

// ask asks for the verdict on an intake. It returns nil if the coordinator
// does not have it, and then forgets it.
func (j *joining) ask(ctx context.Context, intake *state.Intake) (*chancery.Verdict, error) {
	conn, err := coordinator.Dial(ctx, j.pointer, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	verdict, err := conn.Verdict(ctx, intake.ID)
	if Gone(err) {
		return nil, j.dir.RemoveIntake()
	}
	return verdict, err
}

// Gone reports whether the coordinator says that there is nothing to ask about
// an intake: it does not know it, it let it expire, or N:S never arrived.
func Gone(err error) bool {
	p, ok := errors.AsType[*chancery.Problem](err)
	return ok && (p.Status == http.StatusNotFound || p.Status == http.StatusGone || p.Status == http.StatusConflict)
}

func isProblem(err error) bool {
	_, ok := errors.AsType[*chancery.Problem](err)
	return ok
}

// apply goes from the chip to the verdict.
func (j *joining) apply(ctx context.Context) (*state.Intake, *chancery.Verdict, error) {
	chip, err := tpm.Open(j.Device)
	if err != nil {
		return nil, nil, fmt.Errorf("%w %s: %w", ErrChip, j.Device, err)
	}
	defer chip.Close()
	ek, err := chip.EK()
	if err != nil {
		return nil, nil, err
	}
	j.step("EK", fmt.Sprintf("%s, %s", chip.Info(), certified(ek)))
	ak, err := chip.AK()
	if err != nil {
		return nil, nil, err
	}
	j.step("AK", "name "+ak.Name.String()[:20])
	file, k, err := key(ctx, j.dir, chip, j.pointer.Approval, j.Options)
	if err != nil {
		return nil, nil, err
	}
	j.step("N:PK", fmt.Sprintf("%s, %s", short(k.PublicKey()), sealed(file)))
	node := anchor.Node{Fleet: j.Fleet, Key: k.PublicKey(), Dir: j.dir, Chip: chip}
	if _, err := node.Make(ctx, k, j.pointer.Seq, j.hadCRL(), j.Now()); err != nil {
		return nil, nil, err
	}
	conn, err := coordinator.Dial(ctx, j.pointer, nil)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	a := &Applicant{
		Chip: chip, File: file, Key: k, Pointer: j.pointer, Name: j.Name, Device: j.Device,
		PCRs: j.PCRs, EventLog: j.EventLog, Rejoin: j.Rejoin, Token: j.Token, Now: j.Now, Step: j.step,
	}
	return a.Apply(ctx, conn, conn.Enroll, func(intake *state.Intake) error {
		intake.PINFile = j.PINFile
		return j.dir.SaveIntake(intake)
	})
}

// finish takes N:C and the CRL. Everything is on disk before it returns.
func (j *joining) finish(ctx context.Context, intake *state.Intake, ns *chancery.NS, der []byte) (*Result, error) {
	conn, err := coordinator.Dial(ctx, j.pointer, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, _, err := conn.CRL(ctx, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("CRL: %w", err)
	}
	v := chancery.NewVerifier(chancery.Trust{Pointer: j.pointer})
	crl, err := v.UpdateCRL(list, j.Now())
	if err != nil {
		return nil, err
	}
	if err := crl.Fresh(j.Now()); err != nil {
		return nil, err
	}
	nc, err := CheckCertificate(v, ns, der, j.Now())
	if err != nil {
		// It will not get better; the next join begins anew.
		return nil, errors.Join(err, j.dir.RemoveIntake())
	}
	j.step("N:C", fmt.Sprintf("serial %s, assurance %s, until %s", nc.Serial, nc.Assurance.Level, nc.NotAfter.Format(time.DateTime)))
	j.step("CRL", fmt.Sprintf("number %d, %d revoked, good until %s", crl.Head().Number, crl.Revoked(), crl.Head().NextUpdate.Format(time.DateTime)))

	if err := j.notOlder(crl); err != nil {
		return nil, err
	}
	config := &state.Config{Name: ns.Name, Fleet: j.Fleet.Pin(), TPM: intake.TPM, PCRs: intake.PCRs, PINFile: intake.PINFile, EventLog: j.EventLog, Listen: state.DefaultListen}
	if had, err := j.dir.Config(); err == nil { // of a node that rejoins
		config.Listen, config.Advertise, config.Witnesses, config.Quorum = had.Listen, had.Advertise, had.Witnesses, had.Quorum
	}
	if err := j.dir.SaveConfig(config); err != nil {
		return nil, err
	}
	if err := j.dir.SaveCRL(crl); err != nil {
		return nil, err
	}
	if err := j.dir.SaveCertificate(nc); err != nil {
		return nil, err
	}
	r := j.result(Enrolled, ns)
	r.certify(nc)
	r.CRL = crl.Head().Number
	return r, j.dir.RemoveIntake()
}

// notOlder refuses a list that is older than the one that the node had.
func (j *joining) notOlder(crl *chancery.CRL) error {
	if had := j.hadCRL(); had > crl.Head().Number {
		return fmt.Errorf("%w: number %d, this node had %d", chancery.ErrCRLRollback, crl.Head().Number, had)
	}
	return nil
}

// hadCRL returns the number of the list that the node had; 0 if it had none
// that can be read.
func (j *joining) hadCRL() uint64 {
	had, err := j.dir.CRL()
	if err != nil {
		return 0
	}
	number, _ := chancery.CRLNumber(had)
	return number
}

func certified(ek tpm.EK) string {
	if ek.Certificate == nil {
		return "no EK certificate"
	}
	return "EK certificate"
}

func sealed(f *tpm.KeyFile) string {
	switch {
	case f.PIN:
		return "not sealed, with a PIN"
	case f.Seal == nil:
		return "not sealed"
	}
	return fmt.Sprintf("sealed to PCR %v", f.Seal.PCRs)
}

func short(key chancery.PublicKey) string { return key.String()[:len("sha256:")+16] }

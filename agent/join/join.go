// Package join enrols a node.
//
// Start with [Join], which goes through docs/protocol.md section 4 from the
// pin to the CRL. An [Applicant] is the part of it that a renewal repeats.
//
// # Interruption
//
// Join may be killed anywhere. What it does is durable in this order: pointer
// record, key file, intake, configuration, CRL, N:C. The node is enrolled when
// N:C is there; before that the next Join goes on with the same key, and if N:S
// was sent, with the same intake.
package join

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/chancery-pki/chancery"
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
	PCRs     []int // to seal to and to quote
	Wait     bool  // for an operator's approval
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

// A Result is what came of it.
type Result struct {
	Status    string    `json:"status"` // "enrolled", "pending" or "already enrolled"
	Node      string    `json:"node"`
	NodeID    string    `json:"node_id"`
	Fleet     string    `json:"fleet"` // pin
	Serial    string    `json:"serial,omitempty"`
	Assurance string    `json:"assurance,omitempty"`
	Simulator bool      `json:"simulator"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	CRL       uint64    `json:"crl,omitempty"`
	Steps     []Step    `json:"steps,omitempty"`
}

// Values of [Result.Status].
const (
	Enrolled = "enrolled"
	Pending  = "pending"
	Already  = "already enrolled"
)

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

// Join enrols the node of the state directory, which must not be enrolled; see
// [Present]. An enrolment that waits for an operator is returned as [Pending]
// unless the options say to wait.
func Join(ctx context.Context, dir *state.Dir, o Options) (*Result, error) {
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

// fetchPointer takes the fleet's pointer record under the pin.
func (j *joining) fetchPointer(ctx context.Context) error {
	p, err := coordinator.FetchPointer(ctx, j.URL)
	if err != nil {
		return err
	}
	stored, err := j.dir.Pointer()
	if errors.Is(err, fs.ErrNotExist) || err == nil && stored.FleetID() != j.Fleet {
		stored = nil // nothing, or the rest of an attempt at another fleet
	} else if err != nil {
		return err
	}
	if err := chancery.AcceptPointer(j.Fleet, stored, p, j.Now()); err != nil {
		if errors.Is(err, chancery.ErrPointerFork) {
			err = errors.Join(err, j.dir.RaiseAlarm(state.PointerFork, p.Marshal()))
		}
		return &PointerError{URL: j.URL, Err: err}
	}
	if err := j.dir.SavePointer(p); err != nil {
		return err
	}
	j.pointer = p
	j.step("pointer", fmt.Sprintf("record %d of fleet %s, CA:PK %s", p.Seq, p.TrustDomain, short(p.Current().Key)))
	return nil
}

// A PointerError says that the pointer record that a coordinator published was
// not taken.
type PointerError struct {
	URL string
	Err error
}

func (e *PointerError) Error() string { return e.URL + ": " + e.Err.Error() }
func (e *PointerError) Unwrap() error { return e.Err }

// Hint tells what it may mean.
func (e *PointerError) Hint() string {
	switch {
	case errors.Is(e.Err, chancery.ErrPin):
		return "this is not the coordinator that the pin was made by; compare the pin with chancery pointer show, and do not take a new pin from this address"
	case errors.Is(e.Err, chancery.ErrPointerExpired), errors.Is(e.Err, chancery.ErrPointerFuture):
		return "compare this machine's clock with the coordinator's, then have the record published anew: chancery pointer publish"
	}
	return "somebody may be showing this node an old or a forged record; ask the operator of the coordinator before going on"
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
	file, k, err := key(j.dir, chip, j.pointer.Approval, j.Options)
	if err != nil {
		return nil, nil, err
	}
	j.step("N:PK", fmt.Sprintf("%s, %s", short(k.PublicKey()), sealed(file)))
	conn, err := coordinator.Dial(ctx, j.pointer, nil)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	a := &Applicant{
		Chip: chip, File: file, Key: k, Pointer: j.pointer, Name: j.Name, Device: j.Device,
		PCRs: j.PCRs, Token: j.Token, Now: j.Now, Step: j.step,
	}
	return a.Apply(ctx, conn, conn.Enroll, j.dir.SaveIntake)
}

// finish takes N:C and the CRL. Everything is on disk before it returns.
func (j *joining) finish(ctx context.Context, intake *state.Intake, ns *chancery.NS, der []byte) (*Result, error) {
	conn, err := coordinator.Dial(ctx, j.pointer, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := conn.CRL(ctx, 0, 0)
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
		return nil, err
	}
	j.step("N:C", fmt.Sprintf("serial %s, assurance %s, until %s", nc.Serial, nc.Assurance.Level, nc.NotAfter.Format(time.DateTime)))
	j.step("CRL", fmt.Sprintf("number %d, %d revoked, good until %s", crl.Head().Number, crl.Revoked(), crl.Head().NextUpdate.Format(time.DateTime)))

	config := &state.Config{Name: ns.Name, Fleet: j.Fleet.Pin(), TPM: intake.TPM, PCRs: intake.PCRs, Listen: state.DefaultListen}
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

func certified(ek tpm.EK) string {
	if ek.Certificate == nil {
		return "no EK certificate"
	}
	return "EK certificate"
}

func sealed(f *tpm.KeyFile) string {
	if f.Seal == nil {
		return "not sealed"
	}
	return fmt.Sprintf("sealed to PCR %v", f.Seal.PCRs)
}

func short(key chancery.PublicKey) string { return key.String()[:len("sha256:")+16] }

func (j *joining) result(status string, ns *chancery.NS) *Result {
	return &Result{
		Status: status, Node: ns.Name, Fleet: j.Fleet.Pin(),
		NodeID: chancery.NewNodeID(j.Fleet, ns.NodeKey).String(), Steps: j.steps,
	}
}

func (r *Result) certify(nc *chancery.Certificate) {
	r.Serial, r.Assurance, r.Simulator, r.NotAfter = nc.Serial.String(), nc.Assurance.Level.String(), nc.Assurance.Simulator, nc.NotAfter
}

// ErrOtherFleet: the node is enrolled, elsewhere.
var ErrOtherFleet = errors.New("this node is enrolled in another fleet")

// Present tells of a node that is enrolled already; it returns nil for one
// that is not. A node of another fleet is [ErrOtherFleet].
func Present(dir *state.Dir, fleet chancery.FleetID) (*Result, error) {
	if !dir.Enrolled() {
		return nil, nil
	}
	nc, err := dir.Certificate()
	if err != nil {
		return nil, err
	}
	p, err := dir.Pointer()
	if err != nil {
		return nil, err
	}
	if have := p.FleetID(); have != fleet {
		return nil, fmt.Errorf("%w, %s", ErrOtherFleet, have.Pin())
	}
	r := &Result{Status: Already, Node: nc.Name, NodeID: nc.NodeID(fleet).String(), Fleet: fleet.Pin()}
	r.certify(nc)
	if list, err := dir.CRL(); err == nil {
		r.CRL, _ = chancery.CRLNumber(list)
	}
	return r, nil
}

// Text prints the result for people.
func (r *Result) Text(w io.Writer) {
	switch r.Status {
	case Pending:
		fmt.Fprintf(w, "pending: %s waits for an operator's approval\n", r.Node)
		return
	case Already:
		fmt.Fprintf(w, "%s is enrolled already; nothing was changed\n", r.Node)
	default:
		fmt.Fprintf(w, "enrolled as %s\n", r.Node)
	}
	fmt.Fprintf(w, "  fleet      %s\n  node id    %s\n  serial     %s\n  assurance  %s\n  until      %s\n  CRL        number %d\n",
		r.Fleet, r.NodeID, r.Serial, Assurance(r.Assurance, r.Simulator), r.NotAfter.Format(time.RFC3339), r.CRL)
}

// Assurance marks the assurance of a simulated chip.
func Assurance(level string, simulator bool) string {
	if simulator {
		return level + " (SIMULATOR: this chip protects nothing)"
	}
	return level
}

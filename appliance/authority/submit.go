package authority

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// ParseIntakeID reads an intake's identifier from a URL.
func ParseIntakeID(s string) (chancery.IntakeID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(chancery.IntakeID{}) {
		return chancery.IntakeID{}, refuse(404, "not-found", "", "no such intake")
	}
	return chancery.IntakeID(b), nil
}

// Submit verifies N:S and the evidence of an intake, in the order of
// docs/protocol.md section 4, step 6, and issues N:C or holds it for an
// operator. It may be repeated: the same N:S gets the same verdict, another
// one is refused.
func (a *Authority) Submit(ctx context.Context, id chancery.IntakeID, sub *chancery.Submission) (*chancery.Verdict, error) {
	in, err := a.intake(ctx, id)
	if err != nil {
		return nil, err
	}
	if in.State != store.IntakeOpen {
		if in.NS != nil && !bytes.Equal(in.NS, sub.NS) {
			return nil, refuse(409, "other-n-s", "", "this intake has another N:S already")
		}
		return a.verdict(ctx, in)
	}
	if a.Now().After(in.Expires) {
		return nil, refuse(410, "intake-expired", "join again", "CA:N:S expired %s", in.Expires.Format(time.RFC3339))
	}
	if err := a.prove(in, sub); err != nil {
		return nil, err
	}
	in.NS, in.Submission, in.Submitted = sub.NS, sub, a.Now()
	var v *chancery.Verdict
	if in.Facts.Approvals > 0 {
		v = &chancery.Verdict{Status: chancery.VerdictPending}
		err = a.Store.Update(ctx, func(tx *store.Tx) error { return submit(tx, in, store.IntakePending) })
	} else {
		// What is submitted and what is issued for it are one change.
		v, err = a.issue(ctx, in)
	}
	if errors.Is(err, errSettled) { // a repetition was faster
		return a.Submit(ctx, id, sub)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// submit notes the submission of an open intake. First of all it looks whether
// it is open: a repetition must not be told that it has used up the token
// itself.
func submit(tx *store.Tx, in *store.Intake, state string) error {
	now, err := tx.IntakeState(in.ID)
	if err != nil {
		return err
	}
	if now != store.IntakeOpen {
		return errSettled
	}
	if in.Token != nil {
		if err := notUsable(tx.UseToken(chancery.TokenID(in.Token))); err != nil {
			return err
		}
	}
	return tx.SubmitIntake(in, state)
}

func notUsable(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return refuse(403, "token-used", "make another token", "join token is used up")
	}
	return err
}

// prove verifies what the chip has shown, and asks the policy again, now that
// the boot state is known.
func (a *Authority) prove(in *store.Intake, sub *chancery.Submission) error {
	claim, err := evidence.Parse(a.fleet, in.Request, [32]byte(in.Exporter))
	if err != nil {
		return err
	}
	proof, err := claim.Prove(&evidence.Question{CANSHash: in.CANSHash, Activation: in.Activation, Approval: a.Pointer.Approval, Renewal: in.Renewal, Asked: a.Now()}, sub)
	if err != nil {
		return broken(err)
	}
	if err := a.echoed(in, sub); err != nil {
		return err
	}
	f := &in.Facts
	s := subject(in.Request, f, certified(f.Issuer))
	s.Enrolled = in.Renewal || in.Replaces != nil && in.Token == nil
	s.Revoked = f.Reenrol
	p := a.Policy()
	d, err := a.judge(p, s, in.Request.AKPublic, in.CANSHash, sub, proof)
	if err != nil {
		return err
	}
	if d.Action == policy.Refuse {
		return refused(d)
	}
	decided(f, d, p)
	return nil
}

// certified is the assurance of a chip whose EK certificate is of this issuer,
// or counts for nothing.
func certified(issuer string) chancery.AssuranceLevel {
	if issuer == "" {
		return chancery.AssuranceTPM
	}
	return chancery.AssuranceEK
}

// judge asks the policy about a node whose chip has proven its state.
func (a *Authority) judge(p *policy.Policy, s *policy.Subject, ak []byte, qualifying [32]byte, sub *chancery.Submission, proof *evidence.Proof) (*policy.Decision, error) {
	// The chip signed its firmware's version; what it said before was its word.
	s.Firmware = proof.Creation.Firmware
	weigh(s)
	s.Booted = booted(proof.Quote, proof.EventLog)
	d := p.Decide(s)
	if d.Action != policy.Refuse && d.SecondOpinion {
		if err := a.secondOpinion(ak, qualifying, sub.Quote, sub.EventLog); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// seen reads again what an intake's node has shown of its boot state.
func seen(claim *evidence.Claim, in *store.Intake) (q *evidence.Quote, l *eventlog.Log, err error) {
	if in.Submission.Quote == nil {
		return nil, nil, nil
	}
	if q, err = evidence.VerifyQuote(claim.AK, in.Submission.Quote, in.CANSHash); err == nil && len(in.Submission.EventLog) > 0 {
		l, err = evidence.VerifyEventLog(in.Submission.EventLog, q)
	}
	return q, l, err
}

// booted is a boot state as the policy looks at it.
func booted(q *evidence.Quote, l *eventlog.Log) *policy.Boot {
	b := &policy.Boot{Values: map[int][32]byte{}}
	if q != nil {
		b.Values = q.Values
	}
	if l != nil {
		b.EventLog = true
		on, known := l.SecureBoot()
		_, quoted := b.Values[7] // or the log says of it what it likes
		b.SecureBoot = on && known && quoted
	}
	return b
}

// secondOpinion has another implementation judge the quote too.
func (a *Authority) secondOpinion(ak []byte, qualifying [32]byte, q *chancery.Quote, log []byte) error {
	if q == nil {
		return refuse(403, policy.CodeState, "update the agent", "a second opinion is asked for, and there is no quote")
	}
	if err := secondopinion.Judge(ak, qualifying, q, log); err != nil {
		return refuse(403, "second-opinion", "one of the two implementations is wrong; report it with: chancery node evidence", "the second opinion differs: %v", err)
	}
	return nil
}

// echoed checks that the submission has the CA:N:S that was sent: it is kept
// with the evidence, so that others can see that CA:SK asked.
func (a *Authority) echoed(in *store.Intake, sub *chancery.Submission) error {
	cans, err := chancery.ParseCANS(sub.CANS)
	if err != nil {
		return refuse(400, "malformed", "", "%v", err)
	}
	if cans.Hash() != in.CANSHash {
		return refuse(403, "bad-n-s", "", "the CA:N:S that came back is another one")
	}
	tree, err := cans.Tree()
	if err != nil {
		return refuse(400, "malformed", "", "%v", err)
	}
	if a.signed.has(tree, cans.Signature) {
		return nil
	}
	// Of before a restart.
	if err := a.Pointer.Current().Key.Verify(a.fleet, tree, cans.Signature); err != nil {
		return refuse(403, "bad-n-s", "", "the CA:N:S that came back: %v", err)
	}
	return nil
}

func (a *Authority) intake(ctx context.Context, id chancery.IntakeID) (in *store.Intake, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		in, err = tx.Intake(id)
		return err
	})
	return in, notFound(err, "no such intake")
}

// Verdict returns the state of an intake, and the certificate once there is
// one.
func (a *Authority) Verdict(ctx context.Context, id chancery.IntakeID) (*chancery.Verdict, error) {
	in, err := a.intake(ctx, id)
	if err != nil {
		return nil, err
	}
	return a.verdict(ctx, in)
}

func (a *Authority) verdict(ctx context.Context, in *store.Intake) (*chancery.Verdict, error) {
	switch in.State {
	case store.IntakeOpen:
		return nil, refuse(409, "no-n-s", "", "N:S has not been submitted")
	case store.IntakePending:
		return &chancery.Verdict{Status: chancery.VerdictPending}, nil
	case store.IntakeRefused:
		return &chancery.Verdict{Status: chancery.VerdictRefused, Reason: in.Reason}, nil
	case store.IntakeIssued:
		serial, err := in.Serial()
		if err != nil {
			return nil, err
		}
		nc, err := a.Ledger.Certificate(ctx, serial)
		if err != nil {
			return nil, err
		}
		return &chancery.Verdict{Status: chancery.VerdictIssued, NC: nc}, nil
	}
	return a.issue(ctx, in)
}

// issue takes an intake through the ledger: one that is approved, or an open one
// together with its submission. Whoever is second finds an approved intake issued
// and reads the certificate; of an open one he is told errSettled.
func (a *Authority) issue(ctx context.Context, in *store.Intake) (*chancery.Verdict, error) {
	nc, err := a.Ledger.Issue(ctx, &request{ctx: ctx, a: a, in: in})
	if err == nil {
		return &chancery.Verdict{Status: chancery.VerdictIssued, NC: nc}, nil
	}
	if e, ok := errors.AsType[*notSubmittedError](err); ok {
		return nil, e.error
	}
	if errors.Is(err, errSettled) {
		return a.Verdict(ctx, in.ID)
	}
	reason := ""
	if r, ok := errors.AsType[*Refusal](err); ok {
		reason = r.Detail
	}
	if e, ok := errors.AsType[*lint.Error](err); ok {
		// The gates let it through and should not have, and it will not get
		// better by asking again.
		a.Logger.Error("certificate refused before signing", "node", in.Name, "rule", e.Rule, "error", e, "hint", e.Hint())
		reason = e.Error()
	}
	if reason != "" {
		err := a.Store.Update(ctx, func(tx *store.Tx) error {
			return tx.MoveIntake(in.ID, store.IntakeApproved, store.IntakeRefused, reason)
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		return a.Verdict(ctx, in.ID)
	}
	return nil, err
}

// errSettled means that an intake is not waiting to be issued any more.
var errSettled = errors.New("intake is settled")

// A notSubmittedError is why an open intake was not submitted: it is open still,
// or was somebody else's before.
type notSubmittedError struct{ error }

// A request is an intake on its way into the log.
type request struct {
	ctx       context.Context // of who waits
	a         *Authority
	in        *store.Intake // as it was submitted, or is to be; nothing but its state has changed since
	notBefore time.Time     // of the last Prepare
}

// Prepare checks again, inside the transaction that appends, what may have
// changed since the gates.
func (r *request) Prepare(tx *store.Tx, notBefore time.Time) (*chancery.Subject, error) {
	in, f := r.in, &r.in.Facts
	if in.State == store.IntakeOpen {
		// Who has given up asks whether the intake is open still, and applies
		// anew if it is.
		err := r.ctx.Err()
		if err == nil {
			err = submit(tx, in, store.IntakeApproved)
		}
		if err != nil {
			return nil, &notSubmittedError{err}
		}
	} else if state, err := tx.IntakeState(in.ID); err != nil {
		return nil, err
	} else if state != store.IntakeApproved {
		return nil, errSettled
	}
	list, err := tx.Rivals(in.NodeID, in.Name, f.EKDigest)
	if err != nil {
		return nil, err
	}
	have := rivals(list)
	if err := have.alive(in.NodeID); err != nil {
		return nil, err
	}
	if have.revokedOn(f.EKDigest) && !f.Reenrol && !in.Renewal {
		return nil, refuse(403, "revoked", "a revoked chip stays revoked", "a node on this chip was revoked")
	}
	if err := have.free(in.Name, in.NodeID, f.EKDigest, max(f.Live, 1), in.Replaces); err != nil {
		return nil, err
	}
	ns, err := chancery.ParseNS(in.NS)
	if err != nil {
		return nil, err
	}
	r.notBefore = notBefore
	life := r.a.Life
	if f.Life > 0 {
		life = min(life, f.Life)
	}
	s := &chancery.Subject{
		Name:        in.Name,
		TrustDomain: r.a.Pointer.TrustDomain,
		NodeKey:     ns.NodeKey,
		NotBefore:   notBefore,
		NotAfter:    notBefore.Add(life),
		NS:          chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Roles:       f.Roles,
		Assurance:   chancery.Assurance{Level: f.Assurance, Simulator: f.Simulator, EKDigest: chancery.EKDigest(r.a.fleet, f.EK)},
	}
	if suffix := r.a.Ledger.DNSSuffix; suffix != "" {
		s.DNSNames = []string{in.Name + "." + suffix}
	}
	return s, nil
}

// Appended notes in the same transaction who the node is and where its
// certificate is.
func (r *request) Appended(tx *store.Tx, ca string, serial merkle.Serial) error {
	in, f, req := r.in, &r.in.Facts, r.in.Request
	if in.Replaces != nil {
		_, err := tx.ReplaceNode(*in.Replaces, "another key has its place: "+in.NodeID.String(), r.notBefore)
		if err != nil && !errors.Is(err, store.ErrNotFound) { // revoked meanwhile
			return err
		}
	}
	chip := req.Chip
	chip.Manufacturer, chip.Model = cmp.Or(f.Vendor, chip.Manufacturer), cmp.Or(f.Model, chip.Model)
	err := tx.PutNode(&store.Node{
		ID: in.NodeID, Name: in.Name, NodeKey: req.NodeKey, AKPublic: req.AKPublic, EKDigest: f.EKDigest, Assurance: f.Assurance,
		Simulator: f.Simulator, Roles: f.Roles, Chip: chip, Seal: req.Sealing, Enrolled: r.notBefore,
		Issuer: f.Issuer, Rule: f.Rule, Token: f.TokenNames, TokenRoles: f.TokenRoles,
	})
	if err != nil {
		return err
	}
	return tx.IssueIntake(r.in.ID, ca, serial)
}

package authority

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
)

// maxClockSkew is how far a node's clock may be off when it signs N:S.
const maxClockSkew = 24 * time.Hour

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
	if err := a.checkNS(in, sub); err != nil {
		return nil, err
	}
	if err := a.checkEvidence(in, sub); err != nil {
		return nil, err
	}
	state := store.IntakeApproved
	if in.Facts.Approve {
		state = store.IntakePending
	}
	kept, err := json.Marshal(sub)
	if err != nil {
		return nil, err
	}
	err = a.Store.Update(ctx, func(tx *store.Tx) error {
		// First: a repetition must not be told that it has used up the token
		// itself.
		if err := tx.SubmitIntake(id, state, sub.NS, string(kept)); err != nil || in.Token == nil {
			return err
		}
		return notUsable(tx.UseToken(chancery.TokenID(in.Token)))
	})
	if errors.Is(err, store.ErrNotFound) { // a repetition was faster
		return a.Submit(ctx, id, sub)
	}
	if err != nil {
		return nil, err
	}
	return a.Verdict(ctx, id)
}

func notUsable(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return refuse(403, "token-used", "make another token", "join token is used up")
	}
	return err
}

// checkNS verifies N:S.
func (a *Authority) checkNS(in *store.Intake, sub *chancery.Submission) error {
	ns, err := chancery.ParseNS(sub.NS)
	if err != nil {
		return refuse(400, "malformed", "", "%v", err)
	}
	if err := ns.Verify(a.fleet); err != nil {
		return refuse(403, "bad-n-s", "", "%v", err)
	}
	now := a.Now()
	switch {
	case !bytes.Equal(ns.NodeKey.SPKI(), in.Facts.NodeKey):
		return refuse(403, "bad-n-s", "", "N:S is of another key than the initial connection")
	case ns.CANSHash != in.CANSHash:
		return refuse(403, "bad-n-s", "", "N:S answers another CA:N:S")
	case ns.Name != in.Name:
		return refuse(403, "bad-n-s", "", "N:S asks for the name %s, the initial connection for %s", ns.Name, in.Name)
	case ns.Created.After(now.Add(maxClockSkew)) || ns.Created.Before(now.Add(-maxClockSkew)):
		return refuse(403, "clock", "set the node's clock", "N:S was made %s by the node's clock, here it is %s", ns.Created.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return nil
}

// checkEvidence follows the chain from the endorsement key to N:SK: the chip
// activated the credential, so the attestation key is in it; the attestation
// key says that N:SK was made in it, and, of a sealed key, under which policy.
func (a *Authority) checkEvidence(in *store.Intake, sub *chancery.Submission) error {
	if !hmac.Equal(sub.Activation, in.Activation) {
		return refuse(403, "evidence-activation", "", "evidence: activation: the chip did not activate the credential")
	}
	key, err := chancery.ParsePublicKey(in.Facts.NodeKey)
	if err != nil {
		return err
	}
	ak, err := tpm.ParseAttestationKey(in.Facts.AKPublic)
	if err != nil {
		return err
	}
	node, err := tpm.ParseNodeKey(in.Facts.NodePublic, key)
	if err != nil {
		return err
	}
	creation, err := ak.VerifyCreation(attestation(sub.Creation), node, sub.CreationData, in.CANSHash)
	if err != nil {
		return evidence(err)
	}
	if in.Facts.Seal != nil {
		if sub.Epoch == nil {
			return refuse(400, "malformed", "", "a sealed key comes with an attestation of its epoch counter")
		}
		epoch, _, err := ak.VerifyEpoch(attestation(*sub.Epoch), a.Pointer.Approval, in.CANSHash)
		if err != nil {
			return evidence(err)
		}
		proven := *in.Facts.Seal
		if in.Renewal && epoch >= proven.Epoch {
			// The key was sealed at its enrolment's epoch, which was proven
			// then; approvals have moved the counter since.
			epoch = proven.Epoch
		}
		proven.Epoch, proven.PCRs, proven.PCRDigest = epoch, creation.PCRs, creation.PCRDigest[:]
		if !slices.Equal(proven.PCRs, in.Facts.Seal.PCRs) {
			return refuse(403, "evidence-sealing", "", "evidence: sealing: the key was created under PCRs %v, the request says %v", proven.PCRs, in.Facts.Seal.PCRs)
		}
		if err := node.CheckSeal(a.seal(&proven, ak.Name())); err != nil {
			return evidence(err)
		}
	}
	if sub.Quote != nil {
		values, err := pcrValues(sub.Quote.Values)
		if err != nil {
			return err
		}
		if _, err := ak.VerifyQuote(attestation(sub.Quote.Attestation), values, in.CANSHash); err != nil {
			return evidence(err)
		}
	}
	return nil
}

func attestation(a chancery.Attestation) tpm.Attestation {
	return tpm.Attestation{Attest: a.Attest, Signature: a.Signature}
}

func pcrValues(m map[int][]byte) (tpm.PCRValues, error) {
	v := make(tpm.PCRValues, len(m))
	for pcr, b := range m {
		if len(b) != 32 || pcr < 0 || pcr > 23 {
			return nil, refuse(400, "malformed", "", "PCR %d has a value of %d bytes", pcr, len(b))
		}
		v[pcr] = [32]byte(b)
	}
	return v, nil
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
		c, err := a.Ledger.Certificate(ctx, serial)
		if err != nil {
			return nil, err
		}
		return &chancery.Verdict{Status: chancery.VerdictIssued, NC: c.Raw()}, nil
	}
	return a.issue(ctx, in)
}

// issue takes an approved intake through the ledger. Whoever is second finds
// the intake issued and reads the certificate.
func (a *Authority) issue(ctx context.Context, in *store.Intake) (*chancery.Verdict, error) {
	c, err := a.Ledger.Issue(ctx, &request{a: a, id: in.ID})
	if err == nil {
		return &chancery.Verdict{Status: chancery.VerdictIssued, NC: c.Raw()}, nil
	}
	if errors.Is(err, errSettled) {
		return a.Verdict(ctx, in.ID)
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		err := a.Store.Update(ctx, func(tx *store.Tx) error {
			return tx.MoveIntake(in.ID, store.IntakeApproved, store.IntakeRefused, r.Detail)
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

// A request is an approved intake on its way into the log.
type request struct {
	a  *Authority
	id chancery.IntakeID
	// Of the last Prepare:
	in        *store.Intake
	notBefore time.Time
}

// Prepare checks again, inside the transaction that appends, what may have
// changed since the gates.
func (r *request) Prepare(tx *store.Tx, notBefore time.Time) (*chancery.Subject, error) {
	in, err := tx.Intake(r.id)
	if err != nil {
		return nil, err
	}
	if in.State != store.IntakeApproved {
		return nil, errSettled
	}
	f := &in.Facts
	if err := checkStanding(tx, in.NodeID, f.EKDigest); err != nil {
		return nil, err
	}
	if err := checkFree(tx, in.Name, in.NodeID, f.EKDigest); err != nil {
		return nil, err
	}
	ns, err := chancery.ParseNS(in.NS)
	if err != nil {
		return nil, err
	}
	r.in, r.notBefore = in, notBefore
	s := &chancery.Subject{
		Name:        in.Name,
		TrustDomain: r.a.Pointer.TrustDomain,
		NodeKey:     ns.NodeKey,
		NotBefore:   notBefore,
		NotAfter:    notBefore.Add(r.a.Life),
		NS:          chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Roles:       f.Roles,
		Assurance:   chancery.Assurance{Level: f.Assurance, Simulator: f.Simulator, EKDigest: chancery.EKDigest(r.a.fleet, f.EK)},
	}
	if r.a.DNSSuffix != "" {
		s.DNSNames = []string{in.Name + "." + r.a.DNSSuffix}
	}
	return s, nil
}

// Appended notes in the same transaction who the node is and where its
// certificate is.
func (r *request) Appended(tx *store.Tx, ca string, serial merkle.Serial) error {
	in, f := r.in, &r.in.Facts
	err := tx.PutNode(&store.Node{
		ID: in.NodeID, Name: in.Name, NodeKey: f.NodeKey, AKPublic: f.AKPublic, EKDigest: f.EKDigest, Assurance: f.Assurance,
		Simulator: f.Simulator, Roles: f.Roles, Chip: f.Chip, Seal: f.Seal, Enrolled: r.notBefore,
	})
	if err != nil {
		return err
	}
	return tx.IssueIntake(r.in.ID, ca, serial)
}

package evidence

import (
	"bytes"
	"crypto/hmac"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// MaxClockSkew is how far a node's clock may be off when it signs N:S.
const MaxClockSkew = 24 * time.Hour

// A Question is what the coordinator knows of its own answer to the initial
// connection: what the submission has to match.
type Question struct {
	CANSHash   [32]byte           // the hash of the CA:N:S body, which every proof is over
	Activation []byte             // the answer that proves activation
	Approval   chancery.PublicKey // the fleet's approval key
	Renewal    bool               // the node is enrolled under this key
	Asked      time.Time          // now, or when the submission came
}

// A Proof is what a submission has shown.
type Proof struct {
	NS       *chancery.NS
	Creation tpm.Creation
	Epoch    uint64 // the counter, of a sealed key
	Sealed   bool
	Quote    *Quote        // nil if none was sent
	EventLog *eventlog.Log // nil if none was sent; it replays to the quoted values
}

// A Quote is a state of the machine that the chip vouches for.
type Quote struct {
	Facts  tpm.Facts
	Values tpm.PCRValues
}

// Prove verifies a submission in the order of docs/protocol.md section 4.6:
// N:S; the chip activated the credential, so the attestation key is in it; the
// attestation key says that N:SK was made in it and, of a sealed key, under
// which policy; the quote and the event log, if there are any.
func (c *Claim) Prove(q *Question, sub *chancery.Submission) (*Proof, error) {
	p := &Proof{}
	for _, link := range []func(*Question, *chancery.Submission, *Proof) error{c.ns, c.activation, c.creation, c.quote, c.eventLog} {
		if err := link(q, sub, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (c *Claim) ns(q *Question, sub *chancery.Submission, p *Proof) error {
	ns, err := chancery.ParseNS(sub.NS)
	if err != nil {
		return broken(LinkForm, "%w", err)
	}
	if err := ns.Verify(c.fleet); err != nil {
		return broken(LinkNS, "%w", err)
	}
	switch {
	case !bytes.Equal(ns.NodeKey.SPKI(), c.Request.NodeKey):
		return broken(LinkNS, "N:S is of another key than the initial connection")
	case ns.CANSHash != q.CANSHash:
		return broken(LinkNS, "N:S answers another CA:N:S")
	case ns.Name != c.Request.Name:
		return broken(LinkNS, "N:S asks for the name %s, the initial connection for %s", ns.Name, c.Request.Name)
	case ns.Created.After(q.Asked.Add(MaxClockSkew)) || ns.Created.Before(q.Asked.Add(-MaxClockSkew)):
		return broken(LinkClock, "N:S was made %s by the node's clock, here it is %s", ns.Created.Format(time.RFC3339), q.Asked.Format(time.RFC3339))
	}
	p.NS = ns
	return nil
}

func (c *Claim) activation(q *Question, sub *chancery.Submission, _ *Proof) error {
	if !hmac.Equal(sub.Activation, q.Activation) {
		return broken(LinkActivation, "the chip did not activate the credential")
	}
	return nil
}

func (c *Claim) creation(q *Question, sub *chancery.Submission, p *Proof) error {
	node, err := tpm.ParseNodeKey(c.Request.NodePublic, c.NodeKey)
	if err != nil {
		return err
	}
	if p.Creation, err = c.AK.VerifyCreation(Attestation(sub.Creation), node, sub.CreationData, q.CANSHash); err != nil {
		return err
	}
	claimed := c.Request.Sealing
	if claimed == nil {
		return nil
	}
	if sub.Epoch == nil {
		return broken(LinkForm, "a sealed key comes with an attestation of its epoch counter")
	}
	epoch, _, err := c.AK.VerifyEpoch(Attestation(*sub.Epoch), q.Approval, q.CANSHash)
	if err != nil {
		return err
	}
	p.Sealed, p.Epoch = true, epoch
	proven := *claimed
	if !q.Renewal || epoch < proven.Epoch {
		// A renewed key was sealed at its enrolment's epoch, which was proven
		// then; approvals have moved the counter since.
		proven.Epoch = epoch
	}
	proven.PCRs, proven.PCRDigest = p.Creation.PCRs, p.Creation.PCRDigest[:]
	if !slices.Equal(proven.PCRs, claimed.PCRs) {
		return broken(tpm.LinkSealing, "the key was created under PCRs %v, the request says %v", proven.PCRs, claimed.PCRs)
	}
	return node.CheckSeal(Seal(&proven, c.AK.Name(), q.Approval))
}

func (c *Claim) quote(q *Question, sub *chancery.Submission, p *Proof) (err error) {
	if sub.Quote != nil {
		p.Quote, err = VerifyQuote(c.AK, sub.Quote, q.CANSHash)
	}
	return err
}

func (c *Claim) eventLog(_ *Question, sub *chancery.Submission, p *Proof) (err error) {
	if len(sub.EventLog) > 0 {
		p.EventLog, err = VerifyEventLog(sub.EventLog, p.Quote)
	}
	return err
}

// VerifyQuote verifies a quote over the qualifying data.
func VerifyQuote(ak tpm.AttestationKey, q *chancery.Quote, qualifying [32]byte) (*Quote, error) {
	values, err := Values(q.Values)
	if err != nil {
		return nil, err
	}
	facts, err := ak.VerifyQuote(Attestation(q.Attestation), values, qualifying)
	if err != nil {
		return nil, err
	}
	return &Quote{Facts: facts, Values: values}, nil
}

// lastLogged is the last PCR that the firmware's log explains: those above are
// of the running system.
const lastLogged = 9

// VerifyEventLog replays a log and compares what comes out with what the chip
// has quoted of PCR 0 to 9. With none of them quoted, it proves nothing and is
// refused.
func VerifyEventLog(b []byte, q *Quote) (*eventlog.Log, error) {
	quoted := map[int][32]byte{}
	if q != nil {
		for pcr, v := range q.Values {
			if pcr <= lastLogged {
				quoted[pcr] = v
			}
		}
	}
	if len(quoted) == 0 {
		return nil, broken(LinkEventLog, "a log without a quote of the PCRs that it leads to")
	}
	l, err := eventlog.Parse(b)
	if err == nil {
		err = l.Verify(quoted)
	}
	if err != nil {
		return nil, &tpm.EvidenceError{Link: LinkEventLog, Reason: err}
	}
	return l, nil
}

// Attestation is the message's part as package tpm wants it.
func Attestation(a chancery.Attestation) tpm.Attestation {
	return tpm.Attestation{Attest: a.Attest, Signature: a.Signature}
}

// Values reads PCR values from a message.
func Values(m map[int][]byte) (tpm.PCRValues, error) {
	v := make(tpm.PCRValues, len(m))
	for pcr, b := range m {
		if len(b) != 32 || pcr < 0 || pcr > 23 {
			return nil, broken(LinkForm, "PCR %d has a value of %d bytes", pcr, len(b))
		}
		v[pcr] = [32]byte(b)
	}
	return v, nil
}

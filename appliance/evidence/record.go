package evidence

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
)

// A Record is all that was said in an enrolment or a renewal, and what came of
// it. No part of it is secret.
type Record struct {
	Connection *chancery.InitialConnection `json:"initial_connection"`
	Exporter   []byte                      `json:"exporter" doc:"of the TLS connection, which the proof of possession is over"`
	Activation []byte                      `json:"activation" doc:"what the coordinator expected the chip to answer"`
	Submission *chancery.Submission        `json:"submission"`
	Submitted  time.Time                   `json:"submitted"`
	Renewal    bool                        `json:"renewal"`
	Lists      []string                    `json:"ek_lists,omitempty" doc:"the operator's lists by which he vouches for this EK; (policy) is the policy's rule itself"`
	Rule       string                      `json:"rule" doc:"of the policy, under which it was decided"`
	Policy     string                      `json:"policy" doc:"SHA-256 over the policy's text, hexadecimal"`
	NC         []byte                      `json:"n_c" doc:"DER"`
}

// Trust is what a record is judged by.
type Trust struct {
	Pointer *chancery.Pointer
	Roots   Roots
}

// A Link is one link of the chain and whether it holds.
type Link struct {
	Name  string `json:"link"`
	Holds bool   `json:"holds"`
	What  string `json:"what" doc:"what it proves, or what is wrong"`
}

// A Report says link by link on what a certificate rests.
type Report struct {
	Links []Link `json:"links"`
	// Holds says that every link does, and that N:C claims no more than they
	// prove.
	Holds bool `json:"holds"`
}

// A judgement is a record on its way through the links.
type judgement struct {
	*Record
	Trust
	fleet    chancery.FleetID
	cans     *chancery.CANS
	claim    *Claim
	standing Standing
	proof    *Proof
}

// Verify judges the record as of the time of its submission, from the initial
// connection to N:C. It ends with the first link that does not hold, for what
// comes after is said by nobody in particular.
//
// One link is the coordinator's word alone: whoever made the credential knows
// the answer to it, so that the record shows that the right answer came and
// cannot show that it came out of the chip.
func (r *Record) Verify(t Trust) *Report {
	report := &Report{}
	j := &judgement{Record: r, Trust: t, fleet: t.Pointer.FleetID()}
	for _, link := range []struct {
		name string
		hold func() (string, error)
	}{
		{LinkForm, j.form},
		{LinkPoP, j.possession},
		{tpm.LinkNodeKey, j.area},
		{tpm.LinkEKCertificate, j.certificate},
		{LinkCANS, j.answer},
		{LinkNS, j.prove},
		{LinkActivation, j.activated},
		{tpm.LinkCreation, j.created},
		{tpm.LinkSealing, j.sealed},
		{tpm.LinkQuote, j.quoted},
		{LinkEventLog, j.logged},
		{LinkNC, j.certified},
	} {
		what, err := link.hold()
		if err != nil {
			if e, ok := err.(*tpm.EvidenceError); ok { // prove is several links
				link.name = e.Link
				err = e.Reason
			}
			report.Links = append(report.Links, Link{link.name, false, err.Error()})
			return report
		}
		if what != "" {
			report.Links = append(report.Links, Link{link.name, true, what})
		}
	}
	report.Holds = true
	return report
}

func (j *judgement) form() (string, error) {
	if j.Connection == nil || j.Submission == nil || len(j.Exporter) != 32 {
		return "", fmt.Errorf("the record is not whole")
	}
	var err error
	if j.claim, err = Parse(j.fleet, j.Connection, [32]byte(j.Exporter)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s asks for N:PK %s, AK %s, EK sha256:%x", j.Connection.Name, j.claim.NodeKey, j.claim.AK.Name(), j.claim.EKDigest), nil
}

func (j *judgement) possession() (string, error) {
	return "N:SK signed on this connection", j.claim.Possession()
}

func (j *judgement) area() (string, error) {
	what := "N:SK cannot leave its chip"
	if j.Connection.Sealing != nil {
		what += ", and is under the policy that the request tells of"
	}
	return what, j.claim.KeyArea(j.Pointer.Approval)
}

func (j *judgement) certificate() (what string, err error) {
	if j.standing, err = j.claim.Standing(j.Roots, j.Submitted); err != nil {
		return "", err
	}
	c := j.standing.Certificate
	switch {
	case len(j.Lists) > 0 && j.standing.Assurance < chancery.AssuranceEK:
		return fmt.Sprintf("the operator's word: the EK is on the list %s", strings.Join(j.Lists, ", ")), nil
	case c == nil:
		return "none: no manufacturer vouches for this EK", nil
	case j.standing.Unknown != nil:
		return "counts for nothing: " + j.standing.Unknown.Error(), nil
	case j.standing.ByMaker:
		return fmt.Sprintf("a maker of SIMULATORS, %s, vouches for this EK", c.Cert.Issuer), nil
	}
	return fmt.Sprintf("%s vouches for this EK: %s", c.Cert.Issuer, strings.Join(strings.Fields(c.Manufacturer+" "+c.Model+" "+c.Version), " ")), nil
}

func (j *judgement) answer() (what string, err error) {
	if j.cans, err = chancery.ParseCANS(j.Submission.CANS); err != nil {
		return "", err
	}
	akName := j.claim.AK.Name()
	for _, k := range j.Pointer.Keys {
		if err = j.cans.Verify(j.fleet, k.Key, j.claim.NodeKey, akName[:], [32]byte(j.Connection.Nonce), j.Submitted); err == nil {
			break
		}
	}
	if err == nil && j.cans.EKDigest != j.claim.EKDigest {
		err = fmt.Errorf("CA:N:S is for another endorsement key")
	}
	return fmt.Sprintf("CA:SK answered to these keys and this nonce, intake %s", j.cans.IntakeID), err
}

func (j *judgement) prove() (what string, err error) {
	q := &Question{CANSHash: j.cans.Hash(), Activation: j.Activation, Approval: j.Pointer.Approval, Renewal: j.Renewal, Asked: j.Submitted}
	if j.proof, err = j.claim.Prove(q, j.Submission); err != nil {
		return "", err
	}
	return fmt.Sprintf("N:SK signed N:PK as %s, %s", j.proof.NS.Name, j.proof.NS.Created.Format(time.RFC3339)), nil
}

func (j *judgement) activated() (string, error) {
	return "the coordinator's word: the chip of this EK answered for this AK", nil
}

func (j *judgement) created() (string, error) {
	f := j.proof.Creation.Facts
	return fmt.Sprintf("the AK's chip made N:SK itself; resets %d, firmware %016x", f.ResetCount, f.Firmware), nil
}

func (j *judgement) sealed() (string, error) {
	if !j.proof.Sealed {
		return "not sealed: N:SK signs in any state of the machine", nil
	}
	return fmt.Sprintf("to PCR %v as they were, epoch %d, or what the approval key approves", j.proof.Creation.PCRs, j.proof.Epoch), nil
}

func (j *judgement) quoted() (string, error) {
	if j.proof.Quote == nil {
		return "", nil
	}
	return fmt.Sprintf("the chip vouches for PCR %v", j.proof.Quote.Values.Numbers()), nil
}

func (j *judgement) logged() (string, error) {
	if j.proof.EventLog == nil {
		return "", nil
	}
	return fmt.Sprintf("%d events lead to the quoted values", len(j.proof.EventLog.Events)), nil
}

// certified compares N:C with what was proven.
func (j *judgement) certified() (string, error) {
	c, err := chancery.ParseCertificate(j.NC)
	if err == nil {
		err = c.VerifyNS(j.fleet)
	}
	if err == nil {
		err = j.issued()
	}
	if err != nil {
		return "", err
	}
	a := c.Assurance
	switch {
	case !c.NodeKey.Equal(j.claim.NodeKey) || c.Name != j.proof.NS.Name:
		return "", fmt.Errorf("N:C is of %s with key %s", c.Name, c.NodeKey)
	case c.NS.CANSHash != j.cans.Hash(), !c.NS.Created.Equal(j.proof.NS.Created), !bytes.Equal(c.NS.Signature, j.proof.NS.Signature):
		return "", fmt.Errorf("N:C is over another N:S")
	case c.TrustDomain != j.Pointer.TrustDomain:
		return "", fmt.Errorf("N:C is of the trust domain %s", c.TrustDomain)
	case c.NotAfter.Sub(c.NotBefore) > j.Pointer.MaxLife:
		return "", fmt.Errorf("N:C lives for %s, longer than the pointer record's %s", c.NotAfter.Sub(c.NotBefore), j.Pointer.MaxLife)
	case a.EKDigest != chancery.EKDigest(j.fleet, j.claim.EK.SPKI()):
		return "", fmt.Errorf("N:C names another chip")
	case j.standing.Simulator && !a.Simulator:
		return "", fmt.Errorf("N:C does not say that the chip is a simulator")
	case a.Level > j.supports():
		return "", fmt.Errorf("N:C claims assurance %s, the evidence supports %s", a.Level, j.supports())
	}
	return fmt.Sprintf("serial %s certifies this key for %s with assurance %s, from %s to %s", c.Serial, c.Name, a.Level, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339)), nil
}

// supports is the highest level that the evidence is good for.
func (j *judgement) supports() chancery.AssuranceLevel {
	level := j.standing.Assurance
	if len(j.Lists) > 0 {
		level = chancery.AssuranceEK
	}
	if level == chancery.AssuranceEK && j.proof.Quote != nil {
		return chancery.AssuranceQuote
	}
	return level
}

// issued verifies that one of the fleet's CA keys signed N:C.
func (j *judgement) issued() error {
	m, err := merkle.ParseCertificate(j.NC)
	if err != nil {
		return err
	}
	for _, k := range j.Pointer.Keys {
		ca, err := k.CA()
		if err == nil && ca.Verify(m, m.NotBefore) == nil {
			return nil
		}
	}
	return fmt.Errorf("no CA key of the fleet signed N:C")
}

package testcoordinator

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// An intake is an enrolment under way.
type intake struct {
	node
	cans       *chancery.CANS
	activation []byte
	ns         []byte
	status     string
	nc         []byte
}

// A node is what the coordinator knows of one.
type node struct {
	id        chancery.NodeID
	name      string
	key       chancery.PublicKey
	public    []byte
	ak        tpm.AttestationKey
	ek        tpm.EndorsementKey
	chip      chancery.Chip
	seal      *tpm.Seal
	serials   []uint64
	reseal    *resealWish
	challenge [32]byte // to attest
}

func (c *Coordinator) enroll(r *http.Request) (any, error) { return c.open(r, nil) }

func (c *Coordinator) renew(r *http.Request) (any, error) {
	p, err := c.peer(r)
	if err != nil {
		return nil, err
	}
	return c.open(r, p)
}

// open answers an initial connection: of a renewal if there is a peer.
func (c *Coordinator) open(r *http.Request, peer *chancery.Peer) (any, error) {
	m, err := read[chancery.InitialConnection](r)
	if err != nil {
		return nil, err
	}
	in := &intake{node: node{name: m.Name, public: m.NodePublic, chip: m.Chip}}
	if in.key, err = chancery.ParsePublicKey(m.NodeKey); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fleet := c.pointer.FleetID()
	in.id = chancery.NewNodeID(fleet, in.key)
	if in.ak, err = tpm.ParseAttestationKey(m.AKPublic); err != nil {
		return nil, err
	}
	if in.ek, err = tpm.ParseEndorsementKey(m.EKPublic); err != nil {
		return nil, err
	}
	exporter, err := r.TLS.ExportKeyingMaterial(chancery.ExporterLabel, nil, 32)
	if err != nil {
		return nil, err
	}
	ak := in.ak.Name()
	pop := chancery.PoP{NodeKey: in.key, AKName: ak[:], EKDigest: sha256.Sum256(in.ek.SPKI()), NodeNonce: [32]byte(m.Nonce), Exporter: [32]byte(exporter)}
	if err := in.key.Verify(fleet, pop, m.PoP); err != nil {
		return nil, refuse(403, "bad-pop", "%v", err)
	}
	known := c.nodes[in.id]
	switch token, ok := c.tokens[m.TokenID]; {
	case peer != nil:
		if peer.NodeID != in.id || peer.Name != m.Name {
			return nil, refuse(403, "other-node", "a renewal of another node")
		}
	case m.TokenID == "" && known != nil: // it was away for long
	case !ok || !token.Check(fleet, pop, m.Name, m.TokenProof):
		return nil, refuse(403, "bad-token", "join token is not good")
	}
	if err := in.judgeChip(c.t, m, c.approval.PublicKey()); err != nil {
		return nil, err
	}
	return c.sendCANS(in, pop)
}

// judgeChip follows the EK to the laboratory's manufacturer and recomputes the
// seal.
func (in *intake) judgeChip(t testing.TB, m *chancery.InitialConnection, approval chancery.PublicKey) error {
	cert, err := tpm.ParseEKCertificate(m.EKCertificate)
	if err != nil {
		return err
	}
	if err := cert.Matches(in.ek); err != nil {
		return err
	}
	if err := cert.Verify(m.EKChain, tpmtest.Roots(t), time.Now()); err != nil {
		return err
	}
	nodeKey, err := tpm.ParseNodeKey(m.NodePublic, in.key)
	if err != nil {
		return err
	}
	if (m.Sealing != nil) != nodeKey.Sealed {
		return refuse(400, "malformed", "is it sealed?")
	}
	if s := m.Sealing; s != nil {
		in.seal = &tpm.Seal{
			Sealing: tpm.Sealing{Approval: approval, Nonce: [32]byte(s.Nonce), PCRs: s.PCRs},
			AK:      in.ak.Name(), Epoch: s.Epoch, PCRDigest: [32]byte(s.PCRDigest),
		}
		return nodeKey.CheckSeal(*in.seal)
	}
	return nil
}

func (c *Coordinator) sendCANS(in *intake, pop chancery.PoP) (any, error) {
	in.cans = &chancery.CANS{
		NodeKey: in.key, NodeID: in.id, AKName: pop.AKName, EKDigest: pop.EKDigest, NodeNonce: pop.NodeNonce,
		Issued: now(), Expires: now().Add(chancery.MaxCANSLife),
	}
	rand.Read(in.cans.CoordinatorNonce[:])
	rand.Read(in.cans.IntakeID[:])
	if f := c.faults.CANS; f != nil {
		f(in.cans)
	}
	tree, err := chancery.BatchCANS([]*chancery.CANS{in.cans})
	if err != nil {
		return nil, err
	}
	signer := c.faults.Signer
	if signer == nil {
		signer = c.ca
	}
	in.cans.Signature = c.sign(signer, tree)
	secret := make([]byte, 32)
	rand.Read(secret)
	a := &chancery.Answer{Intake: in.cans.IntakeID.String(), CANS: in.cans.Marshal(), CoordinatorClock: time.Now().Unix()}
	if a.CredentialBlob, a.EncryptedSecret, err = in.ek.MakeCredential(in.ak.Name(), secret); err != nil {
		return nil, err
	}
	in.activation = chancery.ActivationProof(secret, in.cans.Hash())
	c.intakes[a.Intake] = in
	if f := c.faults.Answer; f != nil {
		f(a)
	}
	return a, nil
}

func (c *Coordinator) submit(r *http.Request) (any, error) {
	s, err := read[chancery.Submission](r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.intakes[r.PathValue("intake")]
	switch {
	case in == nil:
		return nil, refuse(404, "not-found", "no such intake")
	case in.status != "":
		if !bytes.Equal(in.ns, s.NS) {
			return nil, refuse(409, "other-n-s", "this intake has another N:S already")
		}
		return c.judge(in)
	}
	if err := c.checkEvidence(in, s); err != nil {
		return nil, err
	}
	in.ns, in.status = s.NS, chancery.VerdictIssued
	if c.faults.Hold {
		in.status = chancery.VerdictPending
	}
	if c.faults.Refuse != "" {
		in.status = chancery.VerdictRefused
	}
	return c.judge(in)
}

// checkEvidence is step 6 of docs/protocol.md section 4.
func (c *Coordinator) checkEvidence(in *intake, s *chancery.Submission) error {
	hash := in.cans.Hash()
	ns, err := chancery.ParseNS(s.NS)
	if err != nil {
		return err
	}
	if err := ns.Verify(c.pointer.FleetID()); err != nil {
		return err
	}
	if ns.CANSHash != hash || ns.Name != in.name || !ns.NodeKey.Equal(in.key) {
		return refuse(403, "bad-n-s", "N:S is not of this intake")
	}
	if !hmac.Equal(s.Activation, in.activation) {
		return refuse(403, "evidence-activation", "the credential was not activated")
	}
	nodeKey, err := tpm.ParseNodeKey(in.public, in.key)
	if err != nil {
		return err
	}
	creation, err := in.ak.VerifyCreation(tpm.Attestation(s.Creation), nodeKey, s.CreationData, hash)
	if err != nil {
		return err
	}
	if in.seal != nil {
		epoch, _, err := in.ak.VerifyEpoch(tpm.Attestation(*s.Epoch), c.approval.PublicKey(), hash)
		if err != nil {
			return err
		}
		proven := *in.seal
		proven.Epoch, proven.PCRs, proven.PCRDigest = epoch, creation.PCRs, creation.PCRDigest
		if err := nodeKey.CheckSeal(proven); err != nil {
			return err
		}
	}
	values, err := pcrValues(s.Quote)
	if err != nil {
		return err
	}
	_, err = in.ak.VerifyQuote(tpm.Attestation(s.Quote.Attestation), values, hash)
	return err
}

func pcrValues(q *chancery.Quote) (tpm.PCRValues, error) {
	if q == nil {
		return nil, refuse(400, "malformed", "the quote is missing")
	}
	values := tpm.PCRValues{}
	for pcr, v := range q.Values {
		if len(v) != 32 {
			return nil, refuse(400, "malformed", "PCR %d", pcr)
		}
		values[pcr] = [32]byte(v)
	}
	return values, nil
}

func (c *Coordinator) verdict(r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.intakes[r.PathValue("intake")]
	switch {
	case in == nil:
		return nil, refuse(404, "not-found", "no such intake")
	case in.status == "":
		return nil, refuse(409, "no-n-s", "N:S has not been submitted")
	}
	return c.judge(in)
}

func (c *Coordinator) judge(in *intake) (any, error) {
	v := &chancery.Verdict{Status: in.status}
	if v.Status == chancery.VerdictRefused {
		v.Reason = c.faults.Refuse
	}
	if v.Status == chancery.VerdictIssued {
		if in.nc == nil {
			if err := c.issue(in); err != nil {
				return nil, err
			}
		}
		v.NC = in.nc
	}
	if f := c.faults.Verdict; f != nil {
		f(v)
	}
	return v, nil
}

// issue appends N:C to the log and signs it as a batch of one.
func (c *Coordinator) issue(in *intake) error {
	ns, err := chancery.ParseNS(in.ns)
	if err != nil {
		return err
	}
	s := &chancery.Subject{
		Name: ns.Name, TrustDomain: c.pointer.TrustDomain, NodeKey: ns.NodeKey, NotBefore: now(), NotAfter: now().Add(c.options.Life),
		NS: chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Assurance: chancery.Assurance{
			Level: chancery.AssuranceEK, Simulator: in.chip.Simulator, EKDigest: chancery.EKDigest(c.pointer.FleetID(), in.ek.SPKI()),
		},
	}
	if f := c.faults.Subject; f != nil {
		f(s)
	}
	fields, err := s.Fields(c.caID)
	if err != nil {
		return err
	}
	entry, err := merkle.MarshalEntry(fields)
	if err != nil {
		return err
	}
	serial, err := merkle.NewSerial(log1, c.tree.Size())
	if err != nil {
		return err
	}
	c.tree.Append(merkle.HashLeaf(entry))
	batch := merkle.Smallest(serial.Index(), c.tree.Size())
	root, err := c.tree.Subtree(batch)
	if err != nil {
		return err
	}
	inclusion, err := c.tree.Inclusion(serial.Index(), batch)
	if err != nil {
		return err
	}
	sig := c.sign(c.ca, chancery.NewSubtree(c.caID, log1, batch, root))
	nc, err := chancery.NewCertificate(s, c.caID, serial, merkle.Proof{
		Subtree: batch, Inclusion: inclusion, Signatures: []merkle.SubtreeSignature{{Cosigner: c.caID, Signature: sig.ASN1()}},
	})
	if err != nil {
		return err
	}
	in.nc = nc.Raw()
	n := c.nodes[in.id]
	if n == nil {
		n = new(in.node)
		c.nodes[in.id] = n
	}
	n.serials = append(n.serials, serial.Index())
	return nil
}

// Approve lets every held submission of the node through.
func (c *Coordinator) Approve(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for _, in := range c.intakes {
		if in.name == name && in.status == chancery.VerdictPending {
			in.status, found = chancery.VerdictIssued, true
		}
	}
	if !found {
		return fmt.Errorf("nothing of %s waits for approval", name)
	}
	return nil
}

// Waiting returns how many submissions of the node are held.
func (c *Coordinator) Waiting(name string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, in := range c.intakes {
		if in.name == name && in.status == chancery.VerdictPending {
			n++
		}
	}
	return n
}

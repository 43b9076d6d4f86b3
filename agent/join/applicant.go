package join

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// An Applicant is a node that wants a certificate: its first one or the next.
// All fields but Token and Step are required.
type Applicant struct {
	Chip    Chip
	File    *tpm.KeyFile    // of N:SK
	Key     chancery.Signer // N:SK
	Pointer *chancery.Pointer
	Name    string
	Device  string // of the chip
	PCRs    []int  // to quote, beside those that the coordinator asks for
	// EventLog is the file with the boot's event log; empty: where Linux has it.
	EventLog string
	Rejoin   bool // it takes the place of the node of its name
	Token    *chancery.Token
	Now      func() time.Time
	Step     func(symbol, what string) // is told of each step that is done
}

// A Chip is what an applicant asks of its TPM: a *tpm.TPM, or a simulator's.
type Chip interface {
	EK() (tpm.EK, error)
	AK() (tpm.AK, error)
	Info() tpm.Info
	Activate(credential, encryptedSecret []byte) ([]byte, error)
	CertifyCreation(file *tpm.KeyFile, qualifying [32]byte) (tpm.Attestation, error)
	CertifyEpoch(qualifying [32]byte) (tpm.Attestation, error)
	Quote(pcrs []int, qualifying [32]byte) (tpm.Attestation, tpm.PCRValues, error)
}

var _ Chip = (*tpm.TPM)(nil)

// An Opening is what begins the exchange on a connection: Conn.Enroll or
// Conn.Renew.
type Opening func(context.Context, *chancery.InitialConnection) (*chancery.Answer, error)

// A question is the initial connection as the node remembers it, to hold the
// answer against it.
type question struct {
	ek    tpm.EK
	ak    tpm.AK
	nonce [32]byte
}

// Apply goes from the initial connection to the coordinator's verdict
// (docs/protocol.md section 4, steps 1 to 7) on one connection. Before N:S is
// sent, save is called with what a later process needs to go on.
//
// If the other end does not prove that it is the fleet's coordinator the error
// is chancery.ErrNotOurCoordinator and the chip has activated and attested
// nothing.
func (a *Applicant) Apply(ctx context.Context, conn *coordinator.Conn, open Opening, save func(*state.Intake) error) (*state.Intake, *chancery.Verdict, error) {
	q, m, err := a.ask(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	answer, err := open(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	cans, err := a.goodCoordinator(q, answer)
	if err != nil {
		return nil, nil, err
	}
	a.Step("CA:N:S", fmt.Sprintf("good coordinator, CA:PK %s", short(a.Pointer.Current().Key)))

	submission, err := a.evidence(ctx, cans, answer)
	if err != nil {
		return nil, nil, err
	}
	intake := &state.Intake{
		Fleet: a.Pointer.FleetID().Pin(), ID: cans.IntakeID.String(), NS: submission.NS,
		PCRs: a.PCRs, TPM: a.Device, Opened: a.Now().UTC().Truncate(time.Second),
	}
	if err := save(intake); err != nil {
		return nil, nil, err
	}
	verdict, err := conn.Submit(ctx, intake.ID, submission)
	if err != nil {
		return intake, nil, err
	}
	return intake, verdict, nil
}

// ask composes the initial connection. The chip does three things: it shows
// EK and AK, and N:SK signs that it is at the end of this connection.
func (a *Applicant) ask(ctx context.Context, conn *coordinator.Conn) (*question, *chancery.InitialConnection, error) {
	q, fleet := &question{}, a.Pointer.FleetID()
	rand.Read(q.nonce[:])
	var err error
	if q.ek, err = a.Chip.EK(); err != nil {
		return nil, nil, err
	}
	if q.ak, err = a.Chip.AK(); err != nil {
		return nil, nil, err
	}

	key := a.Key.PublicKey()
	pop := chancery.PoP{NodeKey: key, AKName: q.ak.Name[:], EKDigest: sha256.Sum256(q.ek.SPKI), NodeNonce: q.nonce}
	if pop.Exporter, err = conn.Exporter(); err != nil {
		return nil, nil, err
	}
	proof, err := a.Key.Sign(ctx, fleet, pop)
	if err != nil {
		return nil, nil, err
	}
	a.Step("PoP", "N:SK signs for this connection")

	info := a.Chip.Info()
	m := &chancery.InitialConnection{
		NodeKey: key.SPKI(), NodePublic: a.File.Public, PoP: proof, AKPublic: q.ak.Public,
		EKPublic: q.ek.Public, EKCertificate: q.ek.Certificate, EKChain: q.ek.Chain,
		Chip: chancery.Chip{Manufacturer: info.Manufacturer, Model: info.Vendor, Firmware: fmt.Sprintf("%016x", info.Firmware), Simulator: info.Simulator},
		Name: a.Name, Nonce: q.nonce[:], Rejoin: a.Rejoin,
	}
	if s := a.File.Seal; s != nil {
		m.Sealing = &chancery.Sealing{Nonce: s.Nonce[:], PCRs: s.PCRs, PCRDigest: s.PCRDigest[:], Epoch: s.Epoch}
	}
	if a.Token != nil {
		m.TokenID = a.Token.ID.String()
		m.TokenProof = a.Token.Key().Proof(fleet, pop, a.Name)
	}
	return q, m, nil
}

// goodCoordinator is step 4. Nothing of the answer is used before it.
func (a *Applicant) goodCoordinator(q *question, answer *chancery.Answer) (*chancery.CANS, error) {
	cans, err := chancery.ParseCANS(answer.CANS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", chancery.ErrNotOurCoordinator, err)
	}
	err = cans.Verify(a.Pointer.FleetID(), a.Pointer.Current().Key, a.Key.PublicKey(), q.ak.Name[:], q.nonce, a.Now())
	switch {
	case err != nil:
		return nil, err
	case cans.EKDigest != sha256.Sum256(q.ek.SPKI):
		return nil, fmt.Errorf("%w: CA:N:S is for another endorsement key", chancery.ErrNotOurCoordinator)
	case answer.Intake != cans.IntakeID.String():
		return nil, fmt.Errorf("%w: CA:N:S is of another intake", chancery.ErrNotOurCoordinator)
	}
	return cans, nil
}

// evidence is step 5: N:S, the activated credential, and the chip's
// attestations over the hash of the CA:N:S body.
func (a *Applicant) evidence(ctx context.Context, cans *chancery.CANS, answer *chancery.Answer) (*chancery.Submission, error) {
	hash := cans.Hash()
	secret, err := a.Chip.Activate(answer.CredentialBlob, answer.EncryptedSecret)
	if err != nil {
		return nil, err
	}
	s := &chancery.Submission{CANS: answer.CANS, Activation: chancery.ActivationProof(secret, hash), CreationData: a.File.CreationData}
	creation, err := a.Chip.CertifyCreation(a.File, hash)
	if err != nil {
		return nil, err
	}
	s.Creation = chancery.Attestation(creation)
	if a.File.Seal != nil {
		epoch, err := a.Chip.CertifyEpoch(hash)
		if err != nil {
			return nil, err
		}
		s.Epoch = new(chancery.Attestation(epoch))
	}
	if s.Quote, err = Quote(a.Chip, Union(a.PCRs, answer.QuotePCRs), hash); err != nil {
		return nil, err
	}
	if answer.EventLog {
		if s.EventLog, err = ReadEventLog(a.EventLog); err != nil {
			return nil, err
		}
	}
	a.Step("proof", "credential activated, creation certified, PCRs quoted")

	fleet := a.Pointer.FleetID()
	ns := &chancery.NS{Fleet: fleet, NodeKey: a.Key.PublicKey(), CANSHash: hash, Created: a.Now().UTC().Truncate(time.Second), Name: a.Name}
	if ns.Signature, err = a.Key.Sign(ctx, fleet, ns); err != nil {
		return nil, err
	}
	s.NS = ns.Marshal()
	a.Step("N:S", fmt.Sprintf("N:SK signs N:PK as %s", a.Name))
	return s, nil
}

// Quote quotes PCRs in the form in which messages carry them.
func Quote(chip Chip, pcrs []int, qualifying [32]byte) (*chancery.Quote, error) {
	attestation, values, err := chip.Quote(pcrs, qualifying)
	if err != nil {
		return nil, err
	}
	q := &chancery.Quote{Attestation: chancery.Attestation(attestation), Values: map[int][]byte{}}
	for pcr, v := range values {
		q.Values[pcr] = v[:]
	}
	return q, nil
}

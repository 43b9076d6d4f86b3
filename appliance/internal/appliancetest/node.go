package appliancetest

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// A Node is the other end of an enrolment: an honest node with a real chip.
// Its fields may be changed to make it another kind of node.
type Node struct {
	Chip  *tpm.TPM
	EK    tpm.EK
	AK    tpm.AK
	File  *tpm.KeyFile    // of N:SK
	Key   chancery.Signer // N:SK
	Name  string
	Token *chancery.Token // nil for a renewal
	Nonce [32]byte        // of the initial connection

	t     testing.TB
	c     *Coordinator
	fleet chancery.FleetID
}

// NewNode makes a node key in the chip, sealed to PCR 7 or not at all.
func NewNode(t testing.TB, c *Coordinator, chip *tpm.TPM, name string, sealed bool) *Node {
	t.Helper()
	n := &Node{t: t, c: c, fleet: c.Pointer.FleetID(), Chip: chip, Name: name, Token: c.Token(name)}
	var sealing *tpm.Sealing
	if sealed {
		sealing = &tpm.Sealing{Approval: c.Pointer.Approval, PCRs: tpm.DefaultPCRs}
		rand.Read(sealing.Nonce[:])
	}
	rand.Read(n.Nonce[:])
	n.EK, n.AK = get(t, chip.EK), get(t, chip.AK)
	file, err := chip.CreateKey(sealing)
	if err != nil {
		t.Fatal(err)
	}
	n.Use(file)
	return n
}

// Use takes the key of a file for N:SK.
func (n *Node) Use(file *tpm.KeyFile) {
	n.t.Helper()
	key, err := n.Chip.LoadKey(file)
	if err != nil {
		n.t.Fatal(err)
	}
	n.File, n.Key = file, key
}

func get[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// ID returns the node's identifier.
func (n *Node) ID() chancery.NodeID { return chancery.NewNodeID(n.fleet, n.Key.PublicKey()) }

// PoP returns what the node signs over a connection with the exporter.
func (n *Node) PoP(exporter [32]byte) chancery.PoP {
	return chancery.PoP{NodeKey: n.Key.PublicKey(), AKName: n.AK.Name[:], EKDigest: sha256.Sum256(n.EK.SPKI), NodeNonce: n.Nonce, Exporter: exporter}
}

// Connection returns the initial connection (docs/protocol.md section 4.1)
// over a TLS connection with the exporter.
func (n *Node) Connection(exporter [32]byte) *chancery.InitialConnection {
	n.t.Helper()
	pop, info := n.PoP(exporter), n.Chip.Info()
	req := &chancery.InitialConnection{
		NodeKey: n.Key.PublicKey().SPKI(), NodePublic: n.File.Public, PoP: n.Sign(pop), AKPublic: n.AK.Public,
		EKPublic: n.EK.Public, EKCertificate: n.EK.Certificate, EKChain: n.EK.Chain,
		Chip: chancery.Chip{Manufacturer: info.Manufacturer, Model: info.Vendor, Firmware: fmt.Sprintf("%016x", info.Firmware), Simulator: info.Simulator},
		Name: n.Name, Nonce: n.Nonce[:],
	}
	if s := n.File.Seal; s != nil {
		req.Sealing = &chancery.Sealing{Nonce: s.Nonce[:], PCRs: s.PCRs, PCRDigest: s.PCRDigest[:], Epoch: s.Epoch}
	}
	if n.Token != nil {
		req.TokenID, req.TokenProof = n.Token.ID.String(), n.Token.Key().Proof(n.fleet, pop, n.Name)
	}
	return req
}

// Sign signs with N:SK.
func (n *Node) Sign(s chancery.Statement) chancery.Signature {
	n.t.Helper()
	sig, err := n.Key.Sign(n.t.Context(), n.fleet, s)
	if err != nil {
		n.t.Fatal(err)
	}
	return sig
}

// CANS checks an answer as a node does (section 4.4) and returns CA:N:S.
func (n *Node) CANS(answer *chancery.Answer) *chancery.CANS {
	n.t.Helper()
	cans, err := chancery.ParseCANS(answer.CANS)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cans.Verify(n.fleet, n.c.Pointer.Current().Key, n.Key.PublicKey(), n.AK.Name[:], n.Nonce, n.c.Clock.Now()); err != nil {
		n.t.Fatal(err)
	}
	if cans.EKDigest != sha256.Sum256(n.EK.SPKI) || cans.IntakeID.String() != answer.Intake {
		n.t.Fatal("CA:N:S is for another chip or intake")
	}
	return cans
}

// NS returns N:S that answers the CA:N:S with the hash; edit changes it before
// it is signed.
func (n *Node) NS(cans [32]byte, edit ...func(*chancery.NS)) *chancery.NS {
	n.t.Helper()
	ns := &chancery.NS{Fleet: n.fleet, NodeKey: n.Key.PublicKey(), CANSHash: cans, Created: n.c.Clock.Now(), Name: n.Name}
	for _, e := range edit {
		e(ns)
	}
	ns.Signature = n.Sign(ns)
	return ns
}

// Submission returns what follows on a good answer (section 4.5).
func (n *Node) Submission(answer *chancery.Answer) *chancery.Submission {
	n.t.Helper()
	hash := n.CANS(answer).Hash()
	secret, err := n.Chip.Activate(answer.CredentialBlob, answer.EncryptedSecret)
	if err != nil {
		n.t.Fatal(err)
	}
	s := &chancery.Submission{
		NS: n.NS(hash).Marshal(), CANS: answer.CANS, Activation: chancery.ActivationProof(secret, hash), CreationData: n.File.CreationData,
		Creation: n.Creation(n.File, hash), Quote: n.Quote(tpm.DefaultPCRs, hash),
	}
	if n.File.Seal != nil {
		s.Epoch = new(n.Epoch(hash))
	}
	return s
}

// Creation attests the creation of a key.
func (n *Node) Creation(file *tpm.KeyFile, qualifying [32]byte) chancery.Attestation {
	n.t.Helper()
	return chancery.Attestation(get(n.t, func() (tpm.Attestation, error) { return n.Chip.CertifyCreation(file, qualifying) }))
}

// Epoch attests the epoch counter.
func (n *Node) Epoch(qualifying [32]byte) chancery.Attestation {
	n.t.Helper()
	return chancery.Attestation(get(n.t, func() (tpm.Attestation, error) { return n.Chip.CertifyEpoch(qualifying) }))
}

// Quote quotes PCRs.
func (n *Node) Quote(pcrs []int, qualifying [32]byte) *chancery.Quote {
	n.t.Helper()
	a, values, err := n.Chip.Quote(pcrs, qualifying)
	if err != nil {
		n.t.Fatal(err)
	}
	q := &chancery.Quote{Attestation: chancery.Attestation(a), Values: map[int][]byte{}}
	for pcr, v := range values {
		q.Values[pcr] = v[:]
	}
	return q
}

// RaiseEpoch has the approval key approve the next epoch, for N:SK in the
// present state of the chip, and raises the chip's counter to it.
func (n *Node) RaiseEpoch() {
	n.t.Helper()
	sign := func(s chancery.Statement) chancery.Signature {
		return get(n.t, func() (chancery.Signature, error) { return n.c.Approval.Sign(n.t.Context(), n.fleet, s) })
	}
	key, epoch := n.c.Approval.PublicKey(), n.File.Seal.Epoch
	values := get(n.t, func() (tpm.PCRValues, error) { return n.Chip.PCRValues(n.File.Seal.PCRs) })
	approval := get(n.t, func() (chancery.PolicyApproval, error) { return n.File.Seal.Approve(epoch+1, values) })
	if err := n.File.AddApproval(epoch+1, values, sign(approval)); err != nil {
		n.t.Fatal(err)
	}
	n.Use(n.File)
	if _, err := n.Chip.ApplyEpoch(key, epoch, sign(tpm.Increment(key, n.AK.Name, epoch))); err != nil {
		n.t.Fatal(err)
	}
}

// Identity returns what the node presents under N:C: a new session key,
// certified for an hour.
func (n *Node) Identity(nc *chancery.Certificate) *chancery.Identity {
	n.t.Helper()
	private, public := newKey(n.t)
	var serial [16]byte
	rand.Read(serial[:])
	now := n.c.Clock.Now()
	tbs, err := chancery.NewSession(nc, public, serial, now, now.Add(time.Hour))
	if err != nil {
		n.t.Fatal(err)
	}
	return &chancery.Identity{Session: tbs.Certificate(chancery.P256, n.Sign(tbs)), NC: nc, Key: private}
}

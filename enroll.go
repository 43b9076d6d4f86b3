package chancery

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A PoP is the node's proof, within the initial connection, that it holds
// N:SK and that it holds it at the end of this very TLS connection
// (docs/protocol.md section 4, step 1). Only the signature travels; the
// coordinator rebuilds the statement from what it received and from its own
// side of the channel.
type PoP struct {
	NodeKey   PublicKey
	AKName    []byte
	EKDigest  [32]byte // SHA-256 over the EK's SubjectPublicKeyInfo
	NodeNonce [32]byte
	Exporter  [32]byte // TLS exporter under [ExporterLabel]
}

// ExporterLabel is the label of the TLS exporter (RFC 8446 section 7.5) whose
// 32 bytes bind a [PoP] and a join token's proof to a connection.
const ExporterLabel = "EXPERIMENTAL-chancery-v1-enroll"

func (p PoP) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	e.key(p.NodeKey)
	e.vec8(p.AKName)
	e.AddBytes(p.EKDigest[:])
	e.AddBytes(p.NodeNonce[:])
	e.AddBytes(p.Exporter[:])
	return labelled(labelPoP, fleet, suite, e.BytesOrPanic())
}

// A CANS is CA:N:S, the coordinator's answer to the initial connection: its
// signature over N:PK, with all that makes the answer this node's and this
// attempt's. Answers that waited together share one signature over the root
// of a small Merkle tree (RFC 9162 section 2.1); an answer that waited alone
// is a tree of one.
type CANS struct {
	NodeKey          PublicKey
	NodeID           NodeID
	AKName           []byte
	EKDigest         [32]byte // SHA-256 over the EK's SubjectPublicKeyInfo
	NodeNonce        [32]byte
	CoordinatorNonce [32]byte
	IntakeID         IntakeID
	Issued           time.Time
	Expires          time.Time // at most MaxCANSLife after Issued

	Index, Size uint32 // the answer's place in the tree
	Proof       []merkle.Hash
	Signature   Signature // over [CANSTree]
}

// An IntakeID names one attempt at enrolment.
type IntakeID [16]byte

// String returns the identifier in hexadecimal.
func (i IntakeID) String() string { return fmt.Sprintf("%x", i[:]) }

// MaxCANSLife is the longest time between a CA:N:S and its expiry.
const MaxCANSLife = 10 * time.Minute

// A CANSTree is the statement that is signed for a batch of CA:N:S.
type CANSTree struct {
	Size uint32
	Root merkle.Hash
}

func (t CANSTree) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	e.AddUint32(t.Size)
	e.AddBytes(t.Root[:])
	return labelled(labelCANS, fleet, suite, e.BytesOrPanic())
}

// maxCANSBatch bounds the tree, and with it the proofs, of one batch.
const maxCANSBatch = 1 << 16

// BatchCANS puts answers that waited together into one tree. It fills their
// Index, Size and Proof; the caller signs the statement that it returns and
// gives every answer that signature.
func BatchCANS(answers []*CANS) (CANSTree, error) {
	if len(answers) == 0 || len(answers) > maxCANSBatch {
		return CANSTree{}, fmt.Errorf("CA:N:S: a batch of %d answers, want 1 to %d", len(answers), maxCANSBatch)
	}
	var tree merkle.Tree
	for _, a := range answers {
		tree.Append(merkle.HashLeaf(a.body()))
	}
	whole := merkle.Subtree{End: tree.Size()}
	for i, a := range answers {
		proof, err := tree.Inclusion(uint64(i), whole)
		if err != nil {
			return CANSTree{}, err
		}
		a.Index, a.Size, a.Proof = uint32(i), uint32(len(answers)), proof
	}
	return CANSTree{Size: uint32(len(answers)), Root: tree.Root()}, nil
}

func (c *CANS) body() []byte {
	var e encoder
	e.key(c.NodeKey)
	e.AddBytes(c.NodeID[:])
	e.vec8(c.AKName)
	e.AddBytes(c.EKDigest[:])
	e.AddBytes(c.NodeNonce[:])
	e.AddBytes(c.CoordinatorNonce[:])
	e.AddBytes(c.IntakeID[:])
	e.time(c.Issued)
	e.time(c.Expires)
	return e.BytesOrPanic()
}

// Tree returns the statement under the answer's signature: the tree that its
// proof leads to.
func (c *CANS) Tree() (CANSTree, error) {
	root, err := merkle.Evaluate(uint64(c.Index), merkle.Subtree{End: uint64(c.Size)}, merkle.HashLeaf(c.body()), c.Proof)
	return CANSTree{c.Size, root}, err
}

// Hash is SHA-256 over the body, without proof and signature: what N:S, the
// TPM's attestations and the activation answer refer to.
func (c *CANS) Hash() [32]byte { return sha256.Sum256(c.body()) }

// Marshal returns the answer in the form that [ParseCANS] reads.
func (c *CANS) Marshal() []byte {
	e := artefact(kindCANS)
	e.vec16(c.body())
	e.AddUint32(c.Index)
	e.AddUint32(c.Size)
	e.list(len(c.Proof), func(e *encoder, i int) { e.AddBytes(c.Proof[i][:]) })
	e.vec8(c.Signature)
	return e.BytesOrPanic()
}

// ParseCANS parses a CA:N:S. It does not verify it.
func ParseCANS(b []byte) (*CANS, error) {
	const what = "CA:N:S"
	d := open(b, kindCANS, maxCANS)
	body := d.vec16()
	c := &CANS{Index: d.u32(), Size: d.u32()}
	d.list(32, func(d *decoder) { c.Proof = append(c.Proof, d.hash()) })
	c.Signature = d.signature()
	d.read(c.Size > 0 && c.Size <= maxCANSBatch && c.Index < c.Size)
	if err := d.done(what); err != nil {
		return nil, err
	}
	d = &decoder{s: body}
	c.NodeKey = d.key()
	c.NodeID = NodeID(d.hash())
	c.AKName = bytes.Clone(d.vec8())
	c.EKDigest = d.hash()
	c.NodeNonce = d.hash()
	c.CoordinatorNonce = d.hash()
	copy(c.IntakeID[:], d.bytes(len(c.IntakeID)))
	c.Issued = d.time()
	c.Expires = d.time()
	if err := d.done(what); err != nil {
		return nil, err
	}
	if !bytes.Equal(c.Marshal(), b) {
		return nil, fmt.Errorf("%s: %w: not the canonical encoding", what, ErrMalformed)
	}
	return c, nil
}

// ErrNotOurCoordinator means that CA:N:S does not prove that the other end
// is the coordinator of the pinned fleet answering this node's question. The
// node stops before it lets its TPM do anything for the other end.
var ErrNotOurCoordinator = errors.New("not our coordinator")

// Verify is the node's "good coordinator" check (section 4, step 4): the
// signature under CA:PK of the pointer record, the node's own key, AK and
// nonce, and the expiry. Every failure is [ErrNotOurCoordinator].
func (c *CANS) Verify(fleet FleetID, ca PublicKey, nodeKey PublicKey, akName []byte, nonce [32]byte, now time.Time) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrNotOurCoordinator}, args...)...)
	}
	tree, err := c.Tree()
	if err != nil {
		return fail("CA:N:S: %w", err)
	}
	if err := ca.Verify(fleet, tree, c.Signature); err != nil {
		return fail("CA:N:S: %w", err)
	}
	switch {
	case !c.NodeKey.Equal(nodeKey) || c.NodeID != NewNodeID(fleet, nodeKey):
		return fail("CA:N:S is for another key, %s", c.NodeKey)
	case !bytes.Equal(c.AKName, akName):
		return fail("CA:N:S is for another attestation key")
	case c.NodeNonce != nonce:
		return fail("CA:N:S answers another question: its nonce is not ours")
	case c.Expires.Sub(c.Issued) > MaxCANSLife || c.Expires.Before(c.Issued):
		return fail("CA:N:S lives %s, longer than %s", c.Expires.Sub(c.Issued), MaxCANSLife)
	case now.After(c.Expires):
		return fail("CA:N:S expired at %s", c.Expires)
	case c.Issued.After(now.Add(maxSkew)):
		return fail("CA:N:S is from the future: issued %s", c.Issued)
	}
	return nil
}

// An NS is N:S: the node's signature over its own N:PK, together with the
// name that it wants and the CA:N:S that it answers.
type NS struct {
	Fleet     FleetID
	NodeKey   PublicKey
	CANSHash  [32]byte
	Created   time.Time
	Name      string
	Signature Signature
}

func (n *NS) body() []byte {
	var e encoder
	e.AddBytes(n.Fleet[:])
	e.key(n.NodeKey)
	e.AddBytes(n.CANSHash[:])
	e.time(n.Created)
	e.vec8([]byte(n.Name))
	return e.BytesOrPanic()
}

func (n *NS) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelNS, fleet, suite, n.body())
}

// Verify checks that N:S is of the fleet and that the node's key signed it.
func (n *NS) Verify(fleet FleetID) error {
	if n.Fleet != fleet {
		return fmt.Errorf("N:S: %w", ErrFleet)
	}
	if err := n.NodeKey.Verify(fleet, n, n.Signature); err != nil {
		return fmt.Errorf("N:S: %w", err)
	}
	return nil
}

// Marshal returns N:S in the form that [ParseNS] reads.
func (n *NS) Marshal() []byte {
	e := artefact(kindNS)
	e.vec16(n.body())
	e.vec8(n.Signature)
	return e.BytesOrPanic()
}

// ErrFleet means that an artefact belongs to another fleet.
var ErrFleet = errors.New("artefact of another fleet")

// ParseNS parses an N:S. It does not verify it.
func ParseNS(b []byte) (*NS, error) {
	const what = "N:S"
	d := open(b, kindNS, maxNS)
	body := d.vec16()
	n := &NS{Signature: d.signature()}
	if err := d.done(what); err != nil {
		return nil, err
	}
	d = &decoder{s: body}
	n.Fleet = FleetID(d.hash())
	n.NodeKey = d.key()
	n.CANSHash = d.hash()
	n.Created = d.time()
	n.Name = string(d.vec8())
	if err := d.done(what); err != nil {
		return nil, err
	}
	if err := ValidateName(n.Name); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if !bytes.Equal(n.Marshal(), b) {
		return nil, fmt.Errorf("%s: %w: not the canonical encoding", what, ErrMalformed)
	}
	return n, nil
}

package tpm

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
)

// Sealing is what a key is to be sealed to, as the coordinator asks for it.
type Sealing struct {
	Approval chancery.PublicKey // the fleet's approval key, P-256
	Nonce    [32]byte           // the enrolment's; voids approvals for older keys of the same chip
	PCRs     []int              // rising; PCR 16 and 23 are refused
}

func (s Sealing) check() error {
	if s.Approval.IsZero() || s.Approval.Suite() != chancery.P256 {
		return fmt.Errorf("tpm: the approval key must be a P-256 key, not %v", s.Approval)
	}
	return checkSealingPCRs(s.PCRs)
}

// A Seal determines the policy that N:SK is under. All of it is public.
type Seal struct {
	Sealing
	AK        Name     // Name of the chip's attestation key
	Epoch     uint64   // the epoch counter at creation
	PCRDigest [32]byte // of the PCRs at creation, see [PCRValues.Digest]
}

// Policy returns N:SK's authPolicy: PolicyOR of branch A, as created, and
// branch B, as approved (docs/protocol.md section 4, Sealing).
func (s Seal) Policy() [32]byte {
	a, b := s.branches()
	return policyOR(a, b)
}

func (s Seal) branches() (a, b [32]byte) {
	return s.approved(s.Epoch, s.PCRDigest), policyAuthorize(approvalName(s.Approval), s.ref())
}

// ref is the policyRef of N's approvals. It is the node's own: the Names of
// approval key and index are the same on every chip of a fleet, so without it
// one node's approval would open another node's key.
func (s Seal) ref() [32]byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 approve"))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(s.AK))))
	h.Write(s.AK[:])
	h.Write(s.Nonce[:])
	return [32]byte(h.Sum(nil))
}

// Approve returns what the approval key has to sign so that N:SK signs while
// the counter is at most epoch and the sealing PCRs have these values. Never
// approve an epoch more than one above the current: approvals for later ones
// outlive the counter's removal by the chip's owner.
func (s Seal) Approve(epoch uint64, values PCRValues) (chancery.PolicyApproval, error) {
	if err := s.check(); err != nil {
		return chancery.PolicyApproval{}, err
	}
	if got := values.Numbers(); numbers(got) != numbers(s.PCRs) {
		return chancery.PolicyApproval{}, fmt.Errorf("tpm: values of PCR %s, but the key is sealed to PCR %s", numbers(got), numbers(s.PCRs))
	}
	return s.approval(epoch, values.Digest()), nil
}

func (s Seal) approval(epoch uint64, digest [32]byte) chancery.PolicyApproval {
	return chancery.PolicyApproval{Policy: s.approved(epoch, digest), Ref: s.ref()}
}

// approved is the policy of one state: the counter has not passed the epoch
// and the PCRs have the digest.
func (s Seal) approved(epoch uint64, digest [32]byte) [32]byte {
	p := policyNV([32]byte{}, opUnsignedLE, epoch, epochIndex(s.Approval, s.AK).name())
	return policyPCR(p, s.PCRs, digest)
}

// Increment returns what the approval key has to sign so that this chip's
// epoch counter moves from the value to the next one. It works once.
func Increment(approval chancery.PublicKey, ak Name, from uint64) chancery.PolicyApproval {
	name := epochIndex(approval, ak).name()
	p := policyNV([32]byte{}, opEq, from, name)
	return chancery.PolicyApproval{Policy: policyCommandCode(p, ccNVIncrement), Ref: incrementRef(ak)}
}

// incrementRef is the policyRef of increments: per chip, as [Seal.ref].
func incrementRef(ak Name) [32]byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 increment"))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(ak))))
	h.Write(ak[:])
	return [32]byte(h.Sum(nil))
}

func approvalName(approval chancery.PublicKey) Name { return nameOf(approvalArea(approval)) }

// nvPublic is a TPMS_NV_PUBLIC (TPM 2.0 Part 2, section 13.5).
type nvPublic struct {
	handle     tpm2.TPMHandle
	attributes uint32
	policy     []byte // nil: none
	size       uint16 // of the data; 0: the 8 of a counter
}

// Attributes of NV indexes (TPM 2.0 Part 2, section 13.4). None of ours is
// orderly, so that no loss of power moves it.
const (
	nvAuthWrite   = 1 << 2
	nvPolicyWrite = 1 << 3
	nvCounter     = 1 << 4 // TPM_NT_COUNTER in bits 7:4
	nvAuthRead    = 1 << 18
	nvNoDA        = 1 << 25
	nvWritten     = 1 << 29
)

// The epoch counter is written by policy only, so that neither the owner nor
// the index's password moves it, and read with the empty password.
const (
	epochHandle     = 0x01800101
	epochAttributes = nvCounter | nvPolicyWrite | nvAuthRead | nvNoDA
)

// epochIndex is the epoch counter's public area, once it was written. Its
// policy admits the first increment to anybody and every later one to the
// approval key.
func epochIndex(approval chancery.PublicKey, ak Name) nvPublic {
	first, next := incrementBranches(approval, ak)
	policy := policyOR(first, next)
	return nvPublic{handle: epochHandle, attributes: epochAttributes | nvWritten, policy: policy[:]}
}

func incrementBranches(approval chancery.PublicKey, ak Name) (first, next [32]byte) {
	first = policyCommandCode(policyNVUnwritten([32]byte{}), ccNVIncrement)
	return first, policyAuthorize(approvalName(approval), incrementRef(ak))
}

// unwritten is the same index before its first increment.
func (p nvPublic) unwritten() nvPublic {
	p.attributes &^= nvWritten
	return p
}

func (p nvPublic) bytes() []byte {
	var b cryptobyte.Builder
	b.AddUint32(uint32(p.handle))
	b.AddUint16(algSHA256)
	b.AddUint32(p.attributes)
	add2B(&b, p.policy)
	b.AddUint16(cmp.Or(p.size, 8))
	return b.BytesOrPanic()
}

func (p nvPublic) name() Name { return nameOf(p.bytes()) }

// Command codes and comparisons (TPM 2.0 Part 2, sections 6.5.2 and 6.8).
const (
	ccNVIncrement       = 0x134
	ccPolicyNV          = 0x149
	ccPolicyAuthorize   = 0x16a
	ccPolicyCommandCode = 0x16c
	ccPolicyOR          = 0x171
	ccPolicyPCR         = 0x17f
	ccPolicyNVWritten   = 0x18f

	opEq         = 0x0000
	opUnsignedLE = 0x0009
)

// extendPolicy is policyDigest' = H(policyDigest || commandCode || args).
func extendPolicy(old [32]byte, command uint32, args ...[]byte) [32]byte {
	h := sha256.New()
	h.Write(old[:])
	h.Write(binary.BigEndian.AppendUint32(nil, command))
	for _, a := range args {
		h.Write(a)
	}
	return [32]byte(h.Sum(nil))
}

// policyNV compares a counter with a 64-bit operand (TPM 2.0 Part 3, section
// 23.9).
func policyNV(old [32]byte, operation uint16, operand uint64, index Name) [32]byte {
	args := binary.BigEndian.AppendUint64(nil, operand)
	args = binary.BigEndian.AppendUint16(args, 0) // offset
	args = binary.BigEndian.AppendUint16(args, operation)
	digest := sha256.Sum256(args)
	return extendPolicy(old, ccPolicyNV, digest[:], index[:])
}

// policyPCR is of TPM 2.0 Part 3, section 23.7.
func policyPCR(old [32]byte, pcrs []int, digest [32]byte) [32]byte {
	var selection cryptobyte.Builder
	addSelection(&selection, pcrs)
	return extendPolicy(old, ccPolicyPCR, selection.BytesOrPanic(), digest[:])
}

// policyAuthorize forgets what came before and extends twice (TPM 2.0 Part 3,
// section 23.16; the update function is section 23.2.3).
func policyAuthorize(key Name, ref [32]byte) [32]byte {
	p := extendPolicy([32]byte{}, ccPolicyAuthorize, key[:])
	return sha256.Sum256(append(p[:], ref[:]...))
}

// policyOR forgets what came before (TPM 2.0 Part 3, section 23.6).
func policyOR(first, second [32]byte) [32]byte {
	return extendPolicy([32]byte{}, ccPolicyOR, first[:], second[:])
}

// policyCommandCode is of TPM 2.0 Part 3, section 23.11.
func policyCommandCode(old [32]byte, command uint32) [32]byte {
	return extendPolicy(old, ccPolicyCommandCode, binary.BigEndian.AppendUint32(nil, command))
}

// policyNVUnwritten demands an index that was never written (TPM 2.0 Part 3,
// section 23.20).
func policyNVUnwritten(old [32]byte) [32]byte {
	return extendPolicy(old, ccPolicyNVWritten, []byte{0})
}

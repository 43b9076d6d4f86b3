package papertpm

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// policyOf is the digest of a policy session in which these assertions were
// made, by go-tpm's calculator. PolicyAuthorize must come first: the
// calculator does not forget what came before it, as a chip does.
func policyOf(alg tpm2.TPMIAlgHash, assertions ...tpm2.PolicyCommand) []byte {
	calculator, err := tpm2.NewPolicyCalculator(alg)
	if err != nil {
		panic("papertpm: internal error: " + err.Error())
	}
	for _, a := range assertions {
		if err := a.Update(calculator); err != nil {
			panic("papertpm: internal error: " + err.Error())
		}
	}
	return calculator.Hash().Digest
}

func policyOr(alg tpm2.TPMIAlgHash, branches ...[]byte) []byte {
	var list tpm2.TPMLDigest
	for _, b := range branches {
		list.Digests = append(list.Digests, tpm2.TPM2BDigest{Buffer: b})
	}
	return policyOf(alg, tpm2.PolicyOr{PHashList: list})
}

// An authority is an approval key as one chip knows it: by its Name, and by
// the Name of the epoch counter that it moves.
type authority struct {
	key       chancery.PublicKey
	ak        tpm.Name // of the chip
	name      tpm.Name
	indexName tpm.Name
}

func newAuthority(approval chancery.PublicKey, ak tpm.Name) authority {
	a := authority{key: approval, ak: ak, name: nameOf(approvalArea(approval))}
	a.indexName = nameOf(tpm2.Marshal(a.epochArea()))
	return a
}

// authorized is the policy of whatever the approval key signs for a policyRef.
func (a authority) authorized(ref [32]byte) []byte {
	return policyOf(tpm2.TPMAlgSHA256, tpm2.PolicyAuthorize{
		KeySign:   name2B(a.name),
		PolicyRef: tpm2.TPM2BDigest{Buffer: ref[:]},
	})
}

// compare is TPM2_PolicyNV of the whole epoch counter.
func (a authority) compare(operation tpm2.TPMEO, with uint64) tpm2.PolicyCommand {
	return tpm2.PolicyNV{
		NVIndex:   tpm2.NamedHandle{Handle: epochHandle, Name: name2B(a.indexName)},
		OperandB:  tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, with)},
		Operation: operation,
	}
}

// increment is what the approval key signs to move the counter.
func (a authority) increment(from uint64) chancery.PolicyApproval {
	policy := policyOf(tpm2.TPMAlgSHA256, a.compare(tpm2.TPMEOEq, from), tpm2.PolicyCommandCode{Code: tpm2.TPMCCNVIncrement})
	return chancery.PolicyApproval{Policy: [32]byte(policy), Ref: reference("chancery-v1 increment", a.ak, nil)}
}

// A seal is what a node key is sealed to, with the authority of its approval
// key. The policies are those of docs/protocol.md section 4.9.
type seal struct {
	tpm.Seal
	authority authority
}

// policy is the node key's authPolicy: as created, or as approved.
func (s seal) policy() []byte {
	return policyOr(tpm2.TPMAlgSHA256, s.state(s.Epoch, s.PCRDigest), s.authority.authorized(s.ref()))
}

// state is the policy of one state: the counter has not passed the epoch, and
// the PCRs have the digest.
func (s seal) state(epoch uint64, digest [32]byte) []byte {
	return policyOf(tpm2.TPMAlgSHA256,
		s.authority.compare(tpm2.TPMEOUnsignedLE, epoch),
		tpm2.PolicyPCR{Pcrs: selection(s.PCRs), PcrDigest: tpm2.TPM2BDigest{Buffer: digest[:]}})
}

// approval is what the approval key signs to admit a state.
func (s seal) approval(epoch uint64, digest [32]byte) chancery.PolicyApproval {
	return chancery.PolicyApproval{Policy: [32]byte(s.state(epoch, digest)), Ref: s.ref()}
}

func (s seal) ref() [32]byte { return reference("chancery-v1 approve", s.AK, s.Nonce[:]) }

// reference is a policyRef: the node's own.
func reference(label string, ak tpm.Name, nonce []byte) [32]byte {
	b := binary.BigEndian.AppendUint16([]byte(label), uint16(len(ak)))
	return sha256.Sum256(append(append(b, ak[:]...), nonce...))
}

// policyB is the policy of EK templates in the high range with SHA-384 (EK
// Credential Profile 2.5, appendix B.6): either the endorsement hierarchy's
// password, or what a policy in the vendor's NV index I-2 admits.
var policyB = sync.OnceValue(func() []byte {
	const alg = tpm2.TPMAlgSHA384
	policyA := policyOf(alg, tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement})
	index, err := tpm2.NVName(&tpm2.TPMSNVPublic{
		NVIndex: 0x01c07f02, NameAlg: alg, AuthPolicy: tpm2.TPM2BDigest{Buffer: policyA}, DataSize: 2 + 48,
		Attributes: tpm2.TPMANV{
			PolicyWrite: true, WriteAll: true, PPRead: true, OwnerRead: true, AuthRead: true, PolicyRead: true,
			NoDA: true, Written: true,
		},
	})
	if err != nil {
		panic("papertpm: internal error: " + err.Error())
	}
	policyC := policyOf(alg, tpm2.PolicyAuthorizeNV{NVIndex: tpm2.NamedHandle{Handle: 0x01c07f02, Name: *index}})
	return policyOr(alg, policyA, policyC)
})

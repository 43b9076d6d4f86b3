package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
)

// The assertions of a policy session, in the order in which policy.go hashes
// them.

func (t *TPM) policyNV(s session, index Name, operation tpm2.TPMEO, operand uint64) error {
	_, err := tpm2.PolicyNV{
		AuthHandle:    withAuth(epochHandle, index, noAuth()),
		NVIndex:       named(epochHandle, index),
		PolicySession: s.Handle(),
		OperandB:      tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, operand)},
		Operation:     operation,
	}.Execute(t.transport)
	return policyError("PolicyNV", err)
}

func (t *TPM) policyPCR(s session, pcrs []int, digest [32]byte) error {
	_, err := tpm2.PolicyPCR{
		PolicySession: s.Handle(),
		PcrDigest:     tpm2.TPM2BDigest{Buffer: digest[:]},
		Pcrs:          selection(pcrs),
	}.Execute(t.transport)
	return policyError("PolicyPCR", err)
}

func (t *TPM) policyCommandCode(s session, code tpm2.TPMCC) error {
	_, err := tpm2.PolicyCommandCode{PolicySession: s.Handle(), Code: code}.Execute(t.transport)
	return policyError("PolicyCommandCode", err)
}

func (t *TPM) policyOR(s session, first, second [32]byte) error {
	_, err := tpm2.PolicyOr{
		PolicySession: s.Handle(),
		PHashList:     tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: first[:]}, {Buffer: second[:]}}},
	}.Execute(t.transport)
	return policyError("PolicyOR", err)
}

// policyAuthorize shows the chip the approval key's signature and replaces
// the session's policy by "whatever this key approved". The key is out of the
// chip again before it returns.
func (t *TPM) policyAuthorize(s session, approval chancery.PublicKey, what chancery.PolicyApproval, signature chancery.Signature) error {
	ticket, err := t.verifyApproval(approval, what, signature)
	if err != nil {
		return err
	}
	name := approvalName(approval)
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  s.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: what.Policy[:]},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: what.Ref[:]},
		KeySign:        tpm2.TPM2BName{Buffer: name[:]},
		CheckTicket:    *ticket,
	}.Execute(t.transport)
	return policyError("PolicyAuthorize", err)
}

func (t *TPM) verifyApproval(approval chancery.PublicKey, what chancery.PolicyApproval, signature chancery.Signature) (*tpm2.TPMTTKVerified, error) {
	key, err := tpm2.LoadExternal{
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](approvalArea(approval)),
		// The null hierarchy's tickets are empty and worth nothing.
		Hierarchy: owner,
	}.Execute(t.transport)
	if err != nil {
		return nil, fmt.Errorf("tpm: load approval key: %w", err)
	}
	defer t.flush(key.ObjectHandle)
	digest := sha256.Sum256(chancery.Message(chancery.FleetID{}, chancery.P256, what))
	half := len(signature) / 2
	rsp, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
		Digest:    tpm2.TPM2BDigest{Buffer: digest[:]},
		Signature: tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgECDSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
				Hash:       tpm2.TPMAlgSHA256,
				SignatureR: tpm2.TPM2BECCParameter{Buffer: signature[:half]},
				SignatureS: tpm2.TPM2BECCParameter{Buffer: signature[half:]},
			}),
		},
	}.Execute(t.transport)
	if err != nil {
		return nil, fmt.Errorf("tpm: verify approval: %w", err)
	}
	return &rsp.Validation, nil
}

func policyError(command string, err error) error {
	if err != nil {
		return fmt.Errorf("tpm: %s: %w", command, err)
	}
	return nil
}

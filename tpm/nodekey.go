package tpm

import (
	"crypto/subtle"
	"fmt"

	"github.com/chancery-pki/chancery"
)

// A NodeKey is N:PK as its chip describes it. The description is worth what
// [AttestationKey.VerifyCreation] makes it worth.
type NodeKey struct {
	Key    chancery.PublicKey
	Name   Name
	Sealed bool
	Policy [32]byte // authPolicy, zero if not sealed
}

// ParseNodeKey accepts the TPMT_PUBLIC of the node key want if it has exactly
// the attributes that [TPM.CreateKey] gives: fixedTPM, fixedParent,
// sensitiveDataOrigin, noDA and sign, with adminWithPolicy and a policy if it
// is sealed or userWithAuth and none if it is not. The error names what
// differs.
func ParseNodeKey(public []byte, want chancery.PublicKey) (NodeKey, error) {
	k, err := parseNodeKey(public)
	if err != nil {
		return NodeKey{}, err
	}
	if !k.Key.Equal(want) {
		return NodeKey{}, evidence(LinkNodeKey, "%w: the public area is of key %v, not %v", ErrAttribute, k.Key, want)
	}
	return k, nil
}

func parseNodeKey(public []byte) (NodeKey, error) {
	area, err := parseSigningArea(public)
	if err != nil {
		return NodeKey{}, &EvidenceError{LinkNodeKey, err}
	}
	k := NodeKey{Key: area.key, Name: area.name, Sealed: len(area.policy) > 0}
	want := uint32(attributesUnsealed)
	if k.Sealed {
		want = attributesSealed
		k.Policy = [32]byte(area.policy)
	}
	if err := checkAttributes(area.attributes, want); err != nil {
		return NodeKey{}, &EvidenceError{LinkNodeKey, err}
	}
	return k, nil
}

// CheckSeal checks that the key is under the policy of the seal. A
// coordinator takes the seal's parts from where they are proven: approval key
// and nonce are its own, the AK's Name is the activated one, PCRs and digest
// are in the [Creation], and the epoch is what [AttestationKey.VerifyEpoch]
// returned, exactly.
func (k NodeKey) CheckSeal(seal Seal) error {
	if err := seal.check(); err != nil {
		return &EvidenceError{LinkSealing, err}
	}
	if !k.Sealed {
		return evidence(LinkSealing, "%w: the key is not sealed", ErrPolicy)
	}
	want := seal.Policy()
	if subtle.ConstantTimeCompare(k.Policy[:], want[:]) != 1 {
		return &EvidenceError{LinkSealing, fmt.Errorf("%w: %x, computed %x", ErrPolicy, k.Policy, want)}
	}
	return nil
}

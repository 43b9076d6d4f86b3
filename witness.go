package chancery

import (
	"errors"
	"fmt"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

// A WitnessKey is a cosigner whose signature in a certificate says that it saw
// one history of the CA's log, and this certificate in it ("Trusted Cosigners"
// of the draft). It is not the CA, and best not in the CA's hands.
type WitnessKey struct {
	ID  merkle.TrustAnchorID // under which it signs
	Key PublicKey
}

// ErrWitness means that fewer witnesses than the policy wants signed the subtree
// of a certificate. It is wrapped in a *[WitnessError].
var ErrWitness = errors.New("too few witnesses signed the certificate's subtree")

// A WitnessError says which witnesses' signatures a certificate lacks. It
// unwraps to [ErrWitness].
type WitnessError struct {
	Signed, Quorum int
	Missing        []merkle.TrustAnchorID // those that did not sign
	Wrong          []merkle.TrustAnchorID // those whose signature does not verify
}

func (e *WitnessError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d, want %d", ErrWitness, e.Signed, e.Quorum)
	for _, id := range e.Missing {
		fmt.Fprintf(&b, "; %v did not sign", id)
	}
	for _, id := range e.Wrong {
		fmt.Fprintf(&b, "; the signature of %v does not verify", id)
	}
	return b.String()
}

func (e *WitnessError) Unwrap() error { return ErrWitness }

// checkWitnesses counts the policy's witnesses that signed the subtree. Neither
// a key nor an ID counts twice, and the CA is no witness of itself.
func (v *Verifier) checkWitnesses(policy *Policy, ca *CAKey, nc *Certificate, root merkle.Hash) error {
	if policy.Quorum <= 0 {
		return nil
	}
	ids, keys := map[merkle.TrustAnchorID]bool{nc.CA: true}, map[[32]byte]bool{ca.Key.Fingerprint(): true}
	e := &WitnessError{Quorum: policy.Quorum}
	for _, w := range policy.Witnesses {
		if w.Key.IsZero() || w.ID.IsZero() || len(w.ID.Origin()) > cosignerNameSize || ids[w.ID] || keys[w.Key.Fingerprint()] {
			continue
		}
		ids[w.ID], keys[w.Key.Fingerprint()] = true, true
		switch err := v.checkCosigner(nc, root, w.ID, w.Key); {
		case errors.Is(err, errNotSigned):
			e.Missing = append(e.Missing, w.ID)
		case err != nil:
			e.Wrong = append(e.Wrong, w.ID)
		default:
			if e.Signed++; e.Signed == policy.Quorum {
				return nil
			}
		}
	}
	return e
}

// cosignerNameSize is the longest name that a CosignedMessage has room for.
const cosignerNameSize = 255

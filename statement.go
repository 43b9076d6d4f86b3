package chancery

import (
	"context"
	"encoding/binary"
)

// A Statement is a typed body that a Chancery key signs. The interface is
// sealed: its implementations are in this package, one for each label of
// docs/protocol.md section 2, and so no path leads from bytes that came off
// the network to a signature over them.
type Statement interface {
	// message returns the exact bytes that are hashed and signed by a key of
	// the suite in the fleet.
	message(fleet FleetID, suite Suite) []byte
}

// Message returns the exact bytes that are hashed and signed when a key of
// the suite signs s in the fleet. Signers call it; so may whoever wants to
// check a signature with other tools.
func Message(fleet FleetID, suite Suite, s Statement) []byte { return s.message(fleet, suite) }

// A Signer holds one private key and signs statements with it, never digests.
// CA:SK behind PKCS#11 and N:SK behind a TPM are signers.
type Signer interface {
	// PublicKey returns the public half.
	PublicKey() PublicKey
	// Sign returns a signature over s that has been verified against
	// PublicKey and has its s in the lower half.
	Sign(ctx context.Context, fleet FleetID, s Statement) (Signature, error)
}

// The labels of section 2. What one label signed never verifies under another.
const (
	labelCASelf    = "ca-self"
	labelPointer   = "pointer"
	labelRollover  = "rollover"
	labelCANS      = "ca-n-s"
	labelPoP       = "pop"
	labelNS        = "n-s"
	labelCRL       = "crl"
	labelChallenge = "challenge"
	labelCeremony  = "ceremony"
	labelAudit     = "audit"
	labelAnchor    = "anchor"
	labelX509PoP   = "x509-pop"
)

// labelled wraps a body as section 2 says: domain, label, suite, fleet, length.
func labelled(label string, fleet FleetID, suite Suite, body []byte) []byte {
	const domain = "chancery-v1/"
	b := make([]byte, 0, len(domain)+len(label)+1+2+len(fleet)+4+len(body))
	b = append(b, domain...)
	b = append(b, label...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(suite))
	b = append(b, fleet[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

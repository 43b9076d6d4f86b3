package chancery

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/chancery-pki/chancery/merkle"
)

// A FleetID names a fleet for ever: SHA-256 over its [Genesis]. It is what a
// node pins.
type FleetID [32]byte

// String returns the identifier in hexadecimal.
func (f FleetID) String() string { return hex.EncodeToString(f[:]) }

// A NodeID names a node's key within a fleet. Everything that is said of a
// node beyond one certificate is said of its NodeID.
type NodeID [32]byte

// String returns the identifier in hexadecimal.
func (n NodeID) String() string { return hex.EncodeToString(n[:]) }

// NewNodeID derives node_id from N:PK (docs/protocol.md section 2).
func NewNodeID(fleet FleetID, nodeKey PublicKey) NodeID {
	h := sha256.New()
	h.Write([]byte("chancery-v1 node"))
	h.Write(fleet[:])
	h.Write([]byte(nodeKey.spki))
	return NodeID(h.Sum(nil))
}

// EKDigest is the form in which a certificate names an endorsement key:
// salted by the fleet, so that certificates of two fleets cannot be linked.
func EKDigest(fleet FleetID, ekSPKI []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 ek"))
	h.Write(fleet[:])
	h.Write(ekSPKI)
	return [32]byte(h.Sum(nil))
}

// caArc is the arc of the CA ids that are derived from a key, under the
// private enterprise number for documentation.
var caArc = func() merkle.TrustAnchorID {
	id, err := merkle.ParseTrustAnchorID("32473.1")
	if err != nil {
		panic("chancery: internal error: " + err.Error())
	}
	return id
}()

// DefaultCAID derives the Merkle Tree Certificate CA id of a CA key from its
// fingerprint, so that a new key has a new id without anybody choosing one.
func DefaultCAID(ca PublicKey) merkle.TrustAnchorID {
	fp := ca.Fingerprint()
	return caArc.Append(binary.BigEndian.Uint32(fp[0:4])>>1, binary.BigEndian.Uint32(fp[4:8])>>1)
}

package merkle

import "golang.org/x/crypto/cryptobyte"

// A CosignedMessage is what a cosigner signs: that the subtree of a log has
// a hash ("Signature Format"). Signatures in certificates have timestamp 0;
// those of checkpoints have the time, and a subtree that starts at 0.
type CosignedMessage struct {
	Cosigner  TrustAnchorID
	Timestamp uint64 // seconds since 1970, or 0
	Log       TrustAnchorID
	Subtree   Subtree
	Hash      Hash
}

// Marshal returns the exact bytes that are signed. It panics if a name does
// not fit its 255 bytes, which cannot happen to the names of a [CA] that
// [ParseCA] returned or [CA.Marshal] accepted, and of its logs.
func (m CosignedMessage) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddBytes([]byte(cosignedLabel))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(m.Cosigner.Origin())) })
	b.AddUint64(m.Timestamp)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(m.Log.Origin())) })
	b.AddUint64(m.Subtree.Start)
	b.AddUint64(m.Subtree.End)
	b.AddBytes(m.Hash[:])
	return b.BytesOrPanic()
}

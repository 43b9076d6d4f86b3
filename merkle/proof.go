package merkle

import (
	"golang.org/x/crypto/cryptobyte"
)

// A Proof is an MTCProof, the signatureValue of a certificate: it leads from
// the entry to a subtree and carries cosigners' signatures over that subtree
// ("Certificate Format").
type Proof struct {
	LogExtensions []byte // those of the log entry, see [Entry]
	Subtree       Subtree
	Inclusion     []Hash
	Signatures    []SubtreeSignature // in order of Cosigner, each once
}

// A SubtreeSignature is one cosigner's signature over the [CosignedMessage]
// of the proof's subtree, with timestamp 0. Signatures of unknown cosigners
// are opaque.
type SubtreeSignature struct {
	Cosigner  TrustAnchorID
	Signature []byte
}

// Signature returns the cosigner's signature, if there is one.
func (p *Proof) Signature(cosigner TrustAnchorID) ([]byte, bool) {
	for _, s := range p.Signatures {
		if s.Cosigner == cosigner {
			return s.Signature, true
		}
	}
	return nil, false
}

// ParseProof parses an MTCProof. It refuses cosigners that are out of order
// or appear twice, and trailing bytes, with [ErrMalformed]. That the subtree
// is a valid one and the inclusion proof has the right length is for
// [Evaluate] to say.
func ParseProof(b []byte) (Proof, error) {
	var p Proof
	if len(b) > MaxCertificateSize {
		return p, malformed("proof of %d bytes, at most %d", len(b), MaxCertificateSize)
	}
	s := cryptobyte.String(b)
	var extensions, inclusion, signatures cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&extensions) || !isLogExtensions(extensions) ||
		!s.ReadUint48(&p.Subtree.Start) || !s.ReadUint48(&p.Subtree.End) ||
		!s.ReadUint16LengthPrefixed(&inclusion) ||
		!s.ReadUint16LengthPrefixed(&signatures) || !s.Empty() {
		return Proof{}, malformed("proof is not an MTCProof")
	}
	p.LogExtensions = extensions

	n := len(inclusion) / len(Hash{})
	if n*len(Hash{}) != len(inclusion) || n > maxPath {
		return Proof{}, malformed("inclusion proof of %d bytes, want up to %d hashes of %d", len(inclusion), maxPath, len(Hash{}))
	}
	p.Inclusion = make([]Hash, n)
	for i := range p.Inclusion {
		inclusion.CopyBytes(p.Inclusion[i][:])
	}

	for !signatures.Empty() {
		var id, signature cryptobyte.String
		if !signatures.ReadUint8LengthPrefixed(&id) || !signatures.ReadUint16LengthPrefixed(&signature) {
			return Proof{}, malformed("subtree signature %d is cut off", len(p.Signatures))
		}
		cosigner, err := TrustAnchorIDFromBytes(id)
		if err != nil {
			return Proof{}, err
		}
		p.Signatures = append(p.Signatures, SubtreeSignature{cosigner, signature})
	}
	if err := p.checkOrder(); err != nil {
		return Proof{}, err
	}
	return p, nil
}

// Marshal returns the MTCProof. It refuses what [ParseProof] would.
func (p *Proof) Marshal() ([]byte, error) {
	if p.Subtree.Start > maxIndex || p.Subtree.End > maxIndex {
		return nil, malformed("subtree %v ends beyond 2^48-1", p.Subtree)
	}
	if len(p.Inclusion) > maxPath {
		return nil, malformed("inclusion proof of %d hashes, at most %d", len(p.Inclusion), maxPath)
	}
	if !isLogExtensions(p.LogExtensions) {
		return nil, malformed("log entry extensions")
	}
	if err := p.checkOrder(); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p.LogExtensions) })
	b.AddUint48(p.Subtree.Start)
	b.AddUint48(p.Subtree.End)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, h := range p.Inclusion {
			b.AddBytes(h[:])
		}
	})
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range p.Signatures {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Cosigner.Bytes()) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Signature) })
		}
	})
	out, err := b.Bytes()
	if err != nil || len(out) > MaxCertificateSize {
		return nil, malformed("proof is larger than %d bytes", MaxCertificateSize)
	}
	return out, nil
}

func (p *Proof) checkOrder() error {
	var last TrustAnchorID
	for _, s := range p.Signatures {
		if last.Compare(s.Cosigner) >= 0 {
			return malformed("cosigners %v and %v are not in order", last, s.Cosigner)
		}
		last = s.Cosigner
	}
	return nil
}

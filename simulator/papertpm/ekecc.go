package papertpm

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"
)

// ecKey is an endorsement key on a curve, with the hash of its nameAlg.
type ecKey struct {
	*ecdh.PrivateKey
	hash crypto.Hash
}

// newECKey makes a key on the curve that goes with the hash.
func newECKey(hash crypto.Hash) (ecKey, error) {
	curve := ecdh.P256()
	if hash == crypto.SHA384 {
		curve = ecdh.P384()
	}
	key, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return ecKey{}, fmt.Errorf("papertpm: %w", err)
	}
	return ecKey{key, hash}, nil
}

func (k ecKey) public() crypto.PublicKey { return k.PublicKey() }

func (k ecKey) unique() tpm2.TPMUPublicID { return unique(k.PublicKey().Bytes()) }

// seed is TPM 2.0 Part 1, annex C.6.4: KDFe over the x-coordinates of the
// common point, the ephemeral key and this one.
func (k ecKey) seed(encrypted []byte) ([]byte, error) {
	var x, y cryptobyte.String
	sent := cryptobyte.String(encrypted)
	// As in the reference implementation, nobody minds bytes behind the point.
	if !sent.ReadUint16LengthPrefixed(&x) || !sent.ReadUint16LengthPrefixed(&y) {
		return nil, tpm2.TPMRCInsufficient
	}
	own := k.PublicKey().Bytes()
	size := len(own) / 2
	if len(x) > size || len(y) > size {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes, at most %d", tpm2.TPMRCSize, len(x), len(y), size)
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	ephemeral, err := k.Curve().NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tpm2.TPMRCECCPoint, err)
	}
	z, err := k.ECDH(ephemeral)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tpm2.TPMRCECCPoint, err)
	}
	return kdfe(k.hash, z, identity, point[1:1+size], own[1:1+size], 8*k.hash.Size()), nil
}

package papertpm

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// rsaKey is an RSA endorsement key. It keeps the primes, which chips share,
// and computes the rest when it is used: an enrolment uses it once, and a
// prepared key takes 10 KB.
type rsaKey struct{ p, q, n *big.Int }

func newRSAKey(from *primes) (rsaKey, error) {
	p, q, err := from.pair()
	if err != nil {
		return rsaKey{}, err
	}
	return rsaKey{p, q, new(big.Int).Mul(p, q)}, nil
}

func (k rsaKey) public() crypto.PublicKey { return &rsa.PublicKey{N: k.n, E: exponent} }

func (k rsaKey) unique() tpm2.TPMUPublicID {
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.n.Bytes()})
}

// seed is TPM 2.0 Part 1, annex B.10.4: OAEP with the hash of nameAlg and a
// label that is terminated.
func (k rsaKey) seed(encrypted []byte) ([]byte, error) {
	if size := (k.n.BitLen() + 7) / 8; len(encrypted) != size {
		return nil, fmt.Errorf("%w: %d bytes, want %d", tpm2.TPMRCSize, len(encrypted), size)
	}
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(k.p, one), new(big.Int).Sub(k.q, one))
	private := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: k.n, E: exponent},
		D:         new(big.Int).ModInverse(big.NewInt(exponent), phi),
		Primes:    []*big.Int{k.p, k.q},
	}
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, private, encrypted, []byte(identity+"\x00"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tpm2.TPMRCValue, err)
	}
	return seed, nil
}

package papertpm

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"sync"
)

// primes makes distinct RSA moduli of 2048 bits. To find a prime of 1024 bits
// takes some forty milliseconds, so each is used many times: n primes make
// n(n-1)/2 pairs, and 448 of them serve 100,000 chips.
//
// This protects nothing: the greatest common divisor of two moduli gives both
// private keys away. It is fine here, since the keys lie in the memory of a
// simulator anyway, and since nobody computes with a modulus otherwise than if
// it were a good one.
type primes struct {
	// mu guards what is below. It is held while a prime is searched for:
	// everybody who waits needs that prime.
	mu    sync.Mutex
	found []*big.Int
	next  int // found[next] and the last one make the next pair
}

// exponent is the public exponent of every endorsement key.
const exponent = 65537

// pair returns two primes that were not returned together before. Callers must
// not change them.
func (p *primes) pair() (a, b *big.Int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.next >= len(p.found)-1 {
		prime, err := newPrime()
		if err != nil {
			return nil, nil, fmt.Errorf("papertpm: %w", err)
		}
		p.found, p.next = append(p.found, prime), 0
	}
	a, b = p.found[p.next], p.found[len(p.found)-1]
	p.next++
	return a, b, nil
}

// newPrime returns a prime whose two highest bits are set, so that each
// product has 2048 bits, and for which the public exponent has an inverse.
func newPrime() (*big.Int, error) {
	for {
		p, err := rand.Prime(rand.Reader, 1024)
		if err != nil {
			return nil, err
		}
		below := new(big.Int).Sub(p, big.NewInt(1))
		if below.Mod(below, big.NewInt(exponent)).Sign() != 0 {
			return p, nil
		}
	}
}

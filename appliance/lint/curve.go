package lint

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"math/big"
	"strings"
	"sync"

	"github.com/chancery-pki/chancery"
)

// A curve is what N:PK may be on (RFC 5480).
type curve struct {
	name      string
	suite     chancery.Suite
	algorithm string // DER AlgorithmIdentifier
	head      string // of a SubjectPublicKeyInfo, before the point
	size      int    // of a coordinate
	points    ecdh.Curve
	order     []byte // n
	half      []byte // (n-1)/2, the greatest s
	guessable func() map[string]bool
}

const oidECPublicKey = "\x2a\x86\x48\xce\x3d\x02\x01" // 1.2.840.10045.2.1

var curves = []*curve{
	newCurve("P-256", chancery.P256, "\x2a\x86\x48\xce\x3d\x03\x01\x07", ecdh.P256(), elliptic.P256()), // 1.2.840.10045.3.1.7
	newCurve("P-384", chancery.P384, "\x2b\x81\x04\x00\x22", ecdh.P384(), elliptic.P384()),             // 1.3.132.0.34
}

func newCurve(name string, suite chancery.Suite, oid string, points ecdh.Curve, c elliptic.Curve) *curve {
	n, size := c.Params().N, c.Params().BitSize/8
	algorithm := tlv(tagSequence, tlv(tagOID, oidECPublicKey)+tlv(tagOID, oid))
	// 04 is an uncompressed point, behind a BIT STRING's count of unused bits.
	spki := tlv(tagSequence, algorithm+tlv(0x03, "\x00\x04"+strings.Repeat("\x00", 2*size)))
	return &curve{
		name: name, suite: suite, algorithm: algorithm, head: spki[:len(spki)-2*size], size: size, points: points,
		order: n.Bytes(), half: new(big.Int).Rsh(n, 1).FillBytes(make([]byte, size)),
		guessable: sync.OnceValue(func() map[string]bool { return guessable(points, size) }),
	}
}

// guesses is how many private keys from 1 on, and from the order down, are
// taken for a mistake: a key that was never made looks like one of them.
const guesses = 16

// guessable returns the x-coordinates of small multiples of the generator,
// which G and -G have in common.
func guessable(points ecdh.Curve, size int) map[string]bool {
	list := map[string]bool{}
	for k := 1; k <= guesses; k++ {
		private, err := points.NewPrivateKey(big.NewInt(int64(k)).FillBytes(make([]byte, size)))
		if err != nil {
			panic("lint: internal error: " + err.Error())
		}
		list[string(private.PublicKey().Bytes()[1:1+size])] = true
	}
	return list
}

// curveOf returns the curve of a SubjectPublicKeyInfo in its one form, nil if
// it has another one.
func curveOf(spki []byte) *curve {
	for _, c := range curves {
		if len(spki) == len(c.head)+2*c.size && string(spki[:len(c.head)]) == c.head {
			return c
		}
	}
	return nil
}

func curveOfSuite(s chancery.Suite) *curve {
	for _, c := range curves {
		if c.suite == s {
			return c
		}
	}
	return nil
}

// has tells whether the key is a point on the curve.
func (c *curve) has(spki []byte) bool {
	_, err := c.points.NewPublicKey(spki[len(c.head)-1:])
	return err == nil
}

// knows tells whether the private half can be guessed.
func (c *curve) knows(spki []byte) bool {
	return c.guessable()[string(spki[len(c.head):len(c.head)+c.size])]
}

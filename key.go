package chancery

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
)

// A Suite is a signature algorithm together with its hash. It belongs to a
// key, never to a message (docs/protocol.md section 2).
type Suite uint16

const (
	P256 Suite = 1 // ECDSA P-256 with SHA-256, mandatory
	P384 Suite = 2 // ECDSA P-384 with SHA-384
)

// String returns the suite's name as the command line prints it.
func (s Suite) String() string {
	switch s {
	case P256:
		return "ecdsa-p256-sha256"
	case P384:
		return "ecdsa-p384-sha384"
	}
	return fmt.Sprintf("suite-%d", uint16(s))
}

// Hash returns the hash that the suite signs over.
func (s Suite) Hash() crypto.Hash {
	if s == P384 {
		return crypto.SHA384
	}
	return crypto.SHA256
}

// scalarSize is the width in bytes of r and of s.
func (s Suite) scalarSize() int {
	if s == P384 {
		return 48
	}
	return 32
}

// SignatureSize is the width in bytes of a signature: r || s.
func (s Suite) SignatureSize() int { return 2 * s.scalarSize() }

func suiteOf(c elliptic.Curve) (Suite, bool) {
	switch c {
	case elliptic.P256():
		return P256, true
	case elliptic.P384():
		return P384, true
	}
	return 0, false
}

// Errors of keys and signatures. They are wrapped with detail; compare with
// [errors.Is].
var (
	ErrPublicKey  = errors.New("not an acceptable public key")
	ErrSignature  = errors.New("signature does not verify")
	ErrHighS      = errors.New("signature has high s")
	ErrSigRange   = errors.New("signature value out of range")
	ErrSigLength  = errors.New("signature has the wrong length")
	ErrSuiteFloor = errors.New("signature suite is below the fleet's floor")
)

// A PublicKey is a point on a curve of one of the suites. It is immutable and
// remembers the one DER encoding that it has. The zero value is no key.
type PublicKey struct {
	suite Suite
	key   *ecdsa.PublicKey
	spki  string // DER SubjectPublicKeyInfo
}

// ParsePublicKey parses a DER SubjectPublicKeyInfo (RFC 5480) that holds a
// named curve of a known suite and an uncompressed point on it. Hashes,
// compressed points, points off the curve, the point at infinity, explicit
// curve parameters and trailing bytes are all [ErrPublicKey].
func ParsePublicKey(spki []byte) (PublicKey, error) {
	if len(spki) > maxSPKI {
		return PublicKey{}, fmt.Errorf("%w: %d bytes of SubjectPublicKeyInfo, at most %d", ErrPublicKey, len(spki), maxSPKI)
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %v", ErrPublicKey, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: %T, want an ECDSA key", ErrPublicKey, parsed)
	}
	k, err := NewPublicKey(key)
	if err != nil {
		return PublicKey{}, err
	}
	if k.spki != string(spki) {
		return PublicKey{}, fmt.Errorf("%w: not the canonical encoding", ErrPublicKey)
	}
	return k, nil
}

// NewPublicKey wraps an ECDSA key of a known suite.
func NewPublicKey(key *ecdsa.PublicKey) (PublicKey, error) {
	suite, ok := suiteOf(key.Curve)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: curve %s has no suite", ErrPublicKey, key.Curve.Params().Name)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %v", ErrPublicKey, err)
	}
	return PublicKey{suite: suite, key: key, spki: string(spki)}, nil
}

// maxSPKI is above the 120 bytes of a P-384 SubjectPublicKeyInfo.
const maxSPKI = 256

// IsZero reports whether k is no key at all.
func (k PublicKey) IsZero() bool { return k.key == nil }

// Suite returns the suite that signatures under k have.
func (k PublicKey) Suite() Suite { return k.suite }

// SPKI returns a copy of k's DER SubjectPublicKeyInfo.
func (k PublicKey) SPKI() []byte { return []byte(k.spki) }

// ECDSA returns k as the standard library has it.
func (k PublicKey) ECDSA() *ecdsa.PublicKey { return k.key }

// Equal reports whether k and l are the same key.
func (k PublicKey) Equal(l PublicKey) bool { return k.spki == l.spki }

// Fingerprint is SHA-256 over the SubjectPublicKeyInfo. Commitments to keys,
// TLS pins and messages to people all use this one.
func (k PublicKey) Fingerprint() [32]byte { return sha256.Sum256([]byte(k.spki)) }

// String returns "sha256:" and the fingerprint in hexadecimal.
func (k PublicKey) String() string {
	if k.IsZero() {
		return "no key"
	}
	fp := k.Fingerprint()
	return "sha256:" + hex.EncodeToString(fp[:])
}

// Verify checks that sig is k's signature over the statement in this fleet.
func (k PublicKey) Verify(fleet FleetID, s Statement, sig Signature) error {
	if k.IsZero() {
		return fmt.Errorf("%w: no key to verify with", ErrSignature)
	}
	if err := sig.check(k.suite); err != nil {
		return err
	}
	return k.verifyMessage(s.message(fleet, k.suite), sig.ASN1())
}

// verifyMessage checks an ASN.1 signature, of either s, over plain bytes.
// Structures whose form a standard fixes (certificates, the draft's
// CosignedMessage) come here directly.
func (k PublicKey) verifyMessage(message, asn1Sig []byte) error {
	verifications.Add(1)
	h := k.suite.Hash().New()
	h.Write(message)
	if !ecdsa.VerifyASN1(k.key, h.Sum(nil), asn1Sig) {
		return ErrSignature
	}
	return nil
}

// verifications counts the signatures that were looked at, good and bad, so
// that tests can tell that none was spent on a peer that the CRL names.
var verifications atomic.Uint64

// A Signature is an ECDSA signature in its one accepted form: r || s, each at
// the full width of the curve, with s in the lower half of the order. The
// twin (r, n-s) that anybody can compute is refused, so a signature cannot be
// restated in other bytes.
type Signature []byte

// NewSignature encodes r and s and puts s into the lower half, as every
// signer must: tokens and TPMs return either half.
func NewSignature(suite Suite, r, s *big.Int) (Signature, error) {
	n := suite.order()
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return nil, ErrSigRange
	}
	if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		s = new(big.Int).Sub(n, s)
	}
	size := suite.scalarSize()
	sig := make([]byte, 2*size)
	r.FillBytes(sig[:size])
	s.FillBytes(sig[size:])
	return sig, nil
}

// NewSignatureRaw is [NewSignature] for r || s, each at full width, as PKCS#11
// tokens return them.
func NewSignatureRaw(suite Suite, raw []byte) (Signature, error) {
	if len(raw) != suite.SignatureSize() {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrSigLength, len(raw), suite.SignatureSize())
	}
	half := len(raw) / 2
	if sig := Signature(bytes.Clone(raw)); sig.check(suite) == nil {
		return sig, nil
	}
	return NewSignature(suite, new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:]))
}

// NewSignatureASN1 is [NewSignature] for a DER Ecdsa-Sig-Value (RFC 3279).
func NewSignatureASN1(suite Suite, der []byte) (Signature, error) {
	var v ecdsaSigValue
	rest, err := asn1.Unmarshal(der, &v)
	if err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("%w: not a DER Ecdsa-Sig-Value", ErrSigRange)
	}
	return NewSignature(suite, v.R, v.S)
}

type ecdsaSigValue struct{ R, S *big.Int }

func (s Suite) order() *big.Int {
	if s == P384 {
		return elliptic.P384().Params().N
	}
	return elliptic.P256().Params().N
}

// ASN1 returns the signature as a DER Ecdsa-Sig-Value. Written by hand, for
// each verification needs it: encoding/asn1 takes twenty times as long.
func (s Signature) ASN1() []byte {
	half := len(s) / 2
	r, low := trimInteger(s[:half]), trimInteger(s[half:])
	// Both integers are at most 48 bytes, so the sum is below 128 and each
	// length is one byte.
	der := make([]byte, 0, 8+len(s))
	der = append(der, 0x30, byte(integerLength(r)+integerLength(low)))
	return appendInteger(appendInteger(der, r), low)
}

// trimInteger cuts leading zeros, but for the last byte.
func trimInteger(b []byte) []byte {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// integerLength is the length of a DER INTEGER with its header; a first bit
// that is set would be a sign.
func integerLength(b []byte) int {
	if len(b) > 0 && b[0] >= 0x80 {
		return 3 + len(b)
	}
	return 2 + len(b)
}

func appendInteger(der, b []byte) []byte {
	der = append(der, 0x02, byte(integerLength(b)-2))
	if len(b) > 0 && b[0] >= 0x80 {
		der = append(der, 0)
	}
	return append(der, b...)
}

// bounds of r and s, at full width.
type bounds struct {
	order []byte // n
	half  []byte // (n-1)/2, the greatest s that is accepted
}

func newBounds(s Suite) bounds {
	return bounds{s.order().Bytes(), new(big.Int).Rsh(s.order(), 1).FillBytes(make([]byte, s.scalarSize()))}
}

var boundsP256, boundsP384 = newBounds(P256), newBounds(P384)

func (s Suite) bounds() *bounds {
	if s == P384 {
		return &boundsP384
	}
	return &boundsP256
}

func isZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// check tells whether the signature has the accepted form; it does not verify.
func (s Signature) check(suite Suite) error {
	if len(s) != suite.SignatureSize() {
		return fmt.Errorf("%w: %d bytes, want %d", ErrSigLength, len(s), suite.SignatureSize())
	}
	r, low := s[:len(s)/2], s[len(s)/2:]
	if isZero(r) || isZero(low) || bytes.Compare(r, suite.bounds().order) >= 0 {
		return ErrSigRange
	}
	if bytes.Compare(low, suite.bounds().half) > 0 {
		return ErrHighS
	}
	return nil
}

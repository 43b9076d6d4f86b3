package chancery

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// spki wraps bytes as the point of a P-256 key, whatever they are.
func spki(point []byte) []byte {
	der, err := asn1.Marshal(struct {
		Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		Point     asn1.BitString
	}{
		struct{ Algorithm, Curve asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
		asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
	if err != nil {
		panic(err)
	}
	return der
}

// ed25519Key is the SubjectPublicKeyInfo of a key that no suite has.
func ed25519Key(t *testing.T) []byte {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The coordinator signs CA:N:S over N:PK. If N:PK could be a hash, that
// answer would be a certificate that nobody verified N:S for.
func TestPublicKeyIsAPointOnTheCurve(t *testing.T) {
	good := newKey("node").PublicKey()
	uncompressed, err := good.ECDSA().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(spki(uncompressed), good.SPKI()) {
		t.Fatal("the helper does not write a SubjectPublicKeyInfo as the package does")
	}
	off := bytes.Clone(uncompressed)
	off[64] ^= 1
	beyond := append([]byte{4}, bytes.Repeat([]byte{0xff}, 64)...)
	hash := sha256.Sum256(uncompressed)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherCurve, err := x509.MarshalPKIXPublicKey(&p224.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"nothing":                  nil,
		"hash of N:S as N:PK":      hash[:],
		"hash as point":            spki(hash[:]),
		"N:S as N:PK":              spki(newKey("node").must(FleetID{}, CASelf{good, epoch})),
		"raw X || Y":               spki(uncompressed[1:]),
		"compressed":               spki(elliptic.MarshalCompressed(elliptic.P256(), new(big.Int).SetBytes(uncompressed[1:33]), new(big.Int).SetBytes(uncompressed[33:]))),
		"hybrid form":              spki(append([]byte{6 | uncompressed[64]&1}, uncompressed[1:]...)),
		"infinity":                 spki([]byte{0}),
		"zero coordinates":         spki(append([]byte{4}, make([]byte, 64)...)),
		"off the curve":            spki(off),
		"coordinates above p":      spki(beyond),
		"trailing byte":            append(good.SPKI(), 0),
		"trailing byte in the key": spki(append(bytes.Clone(uncompressed), 0)),
		"curve without a suite":    otherCurve,
		"longer than any key":      append(good.SPKI(), make([]byte, 300)...),
		"P-384 point under P-256":  spki(newKey384("node").PublicKey().SPKI()[23:]),
		// encoding/asn1 lets it pass.
		"element at the end":        append([]byte{0x30, 0x5b}, append(good.SPKI()[2:], 5, 0)...),
		"Ed25519 key":               ed25519Key(t),
		"length in the long form":   slices.Insert(good.SPKI(), 1, 0x81),
		"one byte of the algorithm": slices.Delete(good.SPKI(), 5, 6),
	} {
		if k, err := ParsePublicKey(der); !errors.Is(err, ErrPublicKey) || !k.IsZero() {
			t.Errorf("%s: %v, %v, want ErrPublicKey", name, k, err)
		}
	}
	for i := range good.SPKI() {
		if _, err := ParsePublicKey(good.SPKI()[:i]); !errors.Is(err, ErrPublicKey) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
	}
	for _, k := range []PublicKey{good, newKey384("node").PublicKey()} {
		again, err := ParsePublicKey(k.SPKI())
		if err != nil || !again.Equal(k) || again.Suite() != k.Suite() || again.Fingerprint() != sha256.Sum256(k.SPKI()) {
			t.Errorf("%s: %v, %v", k.Suite(), again, err)
		}
	}
}

// A signature has one form. Whoever names things by signatures, or signs over
// signatures, relies on that nobody can restate one.
func TestSignatureHasOneForm(t *testing.T) {
	for _, key := range []softKey{newKey("a"), newKey384("a")} {
		k := key.PublicKey()
		suite, n := k.Suite(), k.Suite().order()
		half := suite.SignatureSize() / 2
		s := CASelf{k, epoch}
		good := key.must(FleetID{1}, s)
		if err := k.Verify(FleetID{1}, s, good); err != nil {
			t.Fatal(err)
		}
		pad := func(v *big.Int) []byte { return v.FillBytes(make([]byte, half)) }
		zero, r, low := make([]byte, half), good[:half], good[half:]
		join := func(r, s []byte) Signature { return append(bytes.Clone(r), s...) }
		halfOrder := new(big.Int).Rsh(n, 1)
		for _, test := range []struct {
			name string
			sig  Signature
			want error
		}{
			{"high s", twin(suite, good), ErrHighS},
			{"lowest high s", join(r, pad(new(big.Int).Add(halfOrder, big.NewInt(1)))), ErrHighS},
			{"highest low s", join(r, pad(halfOrder)), ErrSignature},
			{"s = n", join(r, pad(n)), ErrHighS},
			{"r = 0", join(zero, low), ErrSigRange},
			{"s = 0", join(r, zero), ErrSigRange},
			{"both 0", join(zero, zero), ErrSigRange},
			{"r = n", join(pad(n), low), ErrSigRange},
			{"r = n-1", join(pad(new(big.Int).Sub(n, big.NewInt(1))), low), ErrSignature},
			{"all ones", bytes.Repeat([]byte{0xff}, 2*half), ErrSigRange},
			{"swapped", join(low, r), nil},
			{"DER", good.ASN1(), ErrSigLength},
			{"empty", nil, ErrSigLength},
			{"one byte short", good[:2*half-1], ErrSigLength},
			{"one byte long", append(bytes.Clone(good), 0), ErrSigLength},
			{"of the other suite's length", make([]byte, 160-2*half), ErrSigLength},
		} {
			err := k.Verify(FleetID{1}, s, test.sig)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%s, %s: %v, want %v", suite, test.name, err, test.want)
			}
		}
	}
	if err := (PublicKey{}).Verify(FleetID{}, CASelf{}, make([]byte, 64)); !errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
}

// Tokens and TPMs return either half; signers normalise.
func TestNewSignatureNormalises(t *testing.T) {
	k := newKey("a")
	good := k.must(FleetID{}, CASelf{k.PublicKey(), epoch})
	for _, either := range []Signature{good, twin(P256, good)} {
		got, err := NewSignatureASN1(P256, either.ASN1())
		if err != nil || !bytes.Equal(got, good) {
			t.Errorf("%x: %x, %v", either, got, err)
		}
	}
	n := P256.order()
	for name, v := range map[string][2]*big.Int{
		"r = 0": {new(big.Int), big.NewInt(1)}, "s = 0": {big.NewInt(1), new(big.Int)},
		"r = n": {n, big.NewInt(1)}, "s = n": {big.NewInt(1), n},
		"negative": {big.NewInt(-1), big.NewInt(1)},
	} {
		if _, err := NewSignature(P256, v[0], v[1]); !errors.Is(err, ErrSigRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
	der := good.ASN1()
	for name, b := range map[string][]byte{
		"trailing byte": append(bytes.Clone(der), 0),
		"truncated":     der[:len(der)-1],
		"raw":           good,
		"nothing":       nil,
	} {
		if _, err := NewSignatureASN1(P256, b); !errors.Is(err, ErrSigRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The encoding by hand is that of encoding/asn1, whatever r and s are, and raw
// signatures are taken in like their numbers.
func TestSignatureEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		suite := rapid.SampledFrom([]Suite{P256, P384}).Draw(t, "suite")
		number := func(name string) *big.Int {
			b := rapid.SliceOfN(rapid.Byte(), 0, suite.scalarSize()).Draw(t, name)
			return new(big.Int).SetBytes(b)
		}
		r, s := number("r"), number("s")
		raw := append(r.FillBytes(make([]byte, suite.scalarSize())), s.FillBytes(make([]byte, suite.scalarSize()))...)
		want, err := NewSignature(suite, r, s)
		got, rawErr := NewSignatureRaw(suite, raw)
		if !bytes.Equal(got, want) || !errors.Is(rawErr, err) {
			t.Fatalf("raw: %x, %v; by numbers: %x, %v", got, rawErr, want, err)
		}
		if err != nil {
			return
		}
		half := len(want) / 2
		der, err := asn1.Marshal(ecdsaSigValue{new(big.Int).SetBytes(want[:half]), new(big.Int).SetBytes(want[half:])})
		if err != nil || !bytes.Equal(want.ASN1(), der) {
			t.Fatalf("ASN.1 of %x is %x, want %x: %v", want, want.ASN1(), der, err)
		}
		if _, err := NewSignatureRaw(suite, raw[1:]); !errors.Is(err, ErrSigLength) {
			t.Fatalf("a byte less: %v", err)
		}
	})
}

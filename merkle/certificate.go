package merkle

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509/pkix"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A Certificate is an X.509 certificate whose signature is a [Proof]
// ("Certificates"). Parsing one verifies nothing: see [CA.Verify].
type Certificate struct {
	Raw    []byte // all of it, DER
	RawTBS []byte // DER TBSCertificate

	Issuer        TrustAnchorID // the CA
	Serial        Serial
	NotBefore     time.Time
	NotAfter      time.Time // inclusive
	RawSubject    []byte    // DER Name
	RawSPKI       []byte    // DER SubjectPublicKeyInfo
	RawExtensions []byte    // DER Extensions SEQUENCE, nil if there are none
	Extensions    []pkix.Extension
	Proof         Proof

	// What of the TBSCertificate goes into the log entry as it is.
	version      []byte
	identity     []byte // issuer, validity, subject
	keyAlgorithm []byte
	tail         []byte // all that follows the SPKI
}

// proofAlgorithm is the one AlgorithmIdentifier of a Merkle Tree Certificate.
var proofAlgorithm = algorithm(oidProof)

// ParseCertificate parses a DER certificate. It is [ErrNotMTC] if the
// certificate is of another signature algorithm, inside and outside, and
// [ErrMalformed] for anything else; see [IsNotCertificate] for the difference
// between damaged and something else. The result keeps slices of der.
func ParseCertificate(der []byte) (*Certificate, error) {
	tbs, outer, signature, err := parseFrame(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(outer, proofAlgorithm) {
		return nil, otherAlgorithm(tbs, outer)
	}
	c := &Certificate{Raw: der, RawTBS: tbs}
	if err := c.parseTBS(tbs); err != nil {
		return nil, err
	}
	c.Proof, err = ParseProof(signature)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// parseFrame takes apart what all X.509 certificates have in common.
func parseFrame(der []byte) (tbs, algorithm, signature cryptobyte.String, err error) {
	s, ok := frame(der)
	if !ok {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, errFrame)
	}
	if len(der) > MaxCertificateSize {
		return nil, nil, nil, malformed("certificate of %d bytes, at most %d", len(der), MaxCertificateSize)
	}
	if !s.ReadASN1Element(&tbs, asn1.SEQUENCE) ||
		!s.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !isAlgorithm(algorithm) ||
		!s.ReadASN1(&signature, asn1.BIT_STRING) || !s.Empty() {
		return nil, nil, nil, malformed("not a DER certificate")
	}
	if len(signature) == 0 || signature[0] != 0 {
		return nil, nil, nil, malformed("signature is not a whole number of bytes")
	}
	return tbs, algorithm, signature[1:], nil
}

// otherAlgorithm tells a certificate of another kind, which names its
// algorithm twice, from a Merkle Tree Certificate whose outer algorithm was
// damaged.
func otherAlgorithm(tbs, outer []byte) error {
	s, ok := frame(tbs)
	var inner cryptobyte.String
	if ok && s.SkipOptionalASN1(versionTag) && s.SkipASN1(asn1.INTEGER) &&
		s.ReadASN1Element(&inner, asn1.SEQUENCE) && bytes.Equal(inner, outer) {
		return ErrNotMTC
	}
	return malformed("signature algorithms inside and outside are not the same")
}

func (c *Certificate) parseTBS(tbs []byte) error {
	s, ok := frame(tbs)
	if !ok {
		return malformed("not a DER TBSCertificate")
	}
	start := s
	if !readVersion(&s) {
		return malformed("certificate is not of version 3")
	}
	c.version = start[:len(start)-len(s)]
	var serial uint64
	if !s.ReadASN1Integer(&serial) {
		return malformed("serial number is not from 0 to 2^64-1")
	}
	c.Serial = Serial(serial)
	var inner cryptobyte.String
	if !s.ReadASN1Element(&inner, asn1.SEQUENCE) || !bytes.Equal(inner, proofAlgorithm) {
		return malformed("signature algorithms inside and outside are not the same")
	}

	start = s
	var issuer, subject, spki cryptobyte.String
	if !s.ReadASN1Element(&issuer, asn1.SEQUENCE) ||
		!readValidity(&s, &c.NotBefore, &c.NotAfter) ||
		!s.ReadASN1Element(&subject, asn1.SEQUENCE) || !isName(subject) {
		return malformed("issuer, validity or subject is not DER")
	}
	c.identity = start[:len(start)-len(s)]
	if !s.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return malformed("public key is not DER")
	}
	if c.keyAlgorithm, ok = keyAlgorithm(spki); !ok {
		return malformed("public key is not a DER SubjectPublicKeyInfo")
	}
	c.tail = s
	c.RawSubject, c.RawSPKI = subject, spki

	var err error
	if c.Issuer, err = ParseName(issuer); err != nil {
		return err
	}
	c.RawExtensions, c.Extensions, err = readExtensions(&s)
	return err
}

// EntryHash returns the hash of the log entry that the certificate claims, in
// one pass over the TBSCertificate ("Verifying Certificate Signatures").
func (c *Certificate) EntryHash() Hash {
	key := sha256.Sum256(c.RawSPKI)
	n := len(c.Proof.LogExtensions)
	h := sha256.New()
	h.Write([]byte{leafPrefix, byte(n >> 8), byte(n)})
	h.Write(c.Proof.LogExtensions)
	h.Write([]byte{entryTBSCert >> 8, entryTBSCert})
	h.Write(c.version)
	h.Write(c.identity)
	h.Write(c.keyAlgorithm)
	h.Write([]byte{byte(asn1.OCTET_STRING), byte(len(key))})
	h.Write(key[:])
	h.Write(c.tail)
	var entry Hash
	h.Sum(entry[:0])
	return entry
}

// SubtreeHash returns the hash that the proof's subtree has if the
// certificate is in the log. It is [ErrProof] if the proof is no proof for
// the certificate's index.
func (c *Certificate) SubtreeHash() (Hash, error) {
	return Evaluate(c.Serial.Index(), c.Proof.Subtree, c.EntryHash(), c.Proof.Inclusion)
}

// MarshalCertificate returns the DER certificate of the entry with the given
// serial number. It refuses, with [ErrMalformed] or [ErrSerial], what
// [ParseCertificate] or any relying party would refuse; it does not evaluate
// the proof.
func MarshalCertificate(f EntryFields, serial Serial, proof Proof) ([]byte, error) {
	if _, err := f.check(); err != nil {
		return nil, err
	}
	if _, err := NewSerial(serial.Log(), serial.Index()); err != nil {
		return nil, err
	}
	signature, err := proof.Marshal()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addVersion(b)
			b.AddASN1Uint64(uint64(serial))
			b.AddBytes(proofAlgorithm)
			b.AddBytes(Name(f.Issuer))
			addValidity(b, f.NotBefore, f.NotAfter)
			b.AddBytes(f.Subject)
			b.AddBytes(f.SPKI)
			addExtensions(b, f.Extensions)
		})
		b.AddBytes(proofAlgorithm)
		b.AddASN1BitString(signature)
	})
	der := b.BytesOrPanic()
	if len(der) > MaxCertificateSize {
		return nil, malformed("certificate of %d bytes, at most %d", len(der), MaxCertificateSize)
	}
	return der, nil
}

package merkle

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	_ "crypto/sha512" // SHA-384, for P-384 cosigners
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A CA is a Merkle Tree CA as relying parties know it: its identifier, the
// key of its CA cosigner and the serial numbers that it may use
// ("Representing Certification Authorities"). The cosigner's curve says its
// algorithm: P-256 is ECDSA with SHA-256, P-384 ECDSA with SHA-384.
type CA struct {
	ID        TrustAnchorID
	PublicKey *ecdsa.PublicKey
	MinSerial Serial // inclusive; lower ones are revoked
	MaxSerial Serial // inclusive; higher ones are revoked
	NotBefore time.Time
	NotAfter  time.Time // inclusive
}

var unsignedAlgorithm = algorithm(oidUnsigned)

// ParseCA parses a CA certificate. It is taken as a trust anchor: whatever
// signature it carries is not looked at, and it may be an unsigned
// certificate (RFC 9925). It is [ErrNotMTC] if the certificate is that of
// another kind of CA, [ErrUnsupportedCosigner] for signature algorithms other
// than the two, [ErrCriticalExtension] or [ErrMalformed].
func ParseCA(der []byte) (*CA, error) {
	tbs, algorithm, signature, err := parseFrame(der)
	if err != nil {
		return nil, err
	}
	s, ok := frame(tbs)
	var inner, issuer, subject, spki cryptobyte.String
	ca := new(CA)
	if !ok || !readVersion(&s) || !s.SkipASN1(asn1.INTEGER) ||
		!s.ReadASN1Element(&inner, asn1.SEQUENCE) || !bytes.Equal(inner, algorithm) ||
		!s.ReadASN1Element(&issuer, asn1.SEQUENCE) || !isName(issuer) ||
		!readValidity(&s, &ca.NotBefore, &ca.NotAfter) ||
		!s.ReadASN1Element(&subject, asn1.SEQUENCE) || !isName(subject) ||
		!s.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return nil, malformed("not a DER CA certificate of version 3")
	}
	_, extensions, err := readExtensions(&s)
	if err != nil {
		return nil, err
	}
	own, ok := extension(extensions, oidCA)
	if !ok {
		return nil, fmt.Errorf("%w: the certificate is not that of a Merkle Tree CA", ErrNotMTC)
	}
	if bytes.Equal(algorithm, unsignedAlgorithm) && len(signature) != 0 {
		return nil, malformed("unsigned certificate has a signature")
	}
	if err := checkCritical(extensions, oidCA, oidKeyUsage, oidBasicConstraints); err != nil {
		return nil, err
	}
	if !own.Critical || !isCertSigner(extensions) {
		return nil, malformed("certificate is not marked as that of a CA")
	}
	if ca.ID, err = ParseName(subject); err != nil {
		return nil, err
	}
	if err := ca.parseExtension(own.Value, spki); err != nil {
		return nil, err
	}
	if err := ca.check(); err != nil {
		return nil, err
	}
	return ca, nil
}

// parseExtension reads MTCCertificationAuthority, and the cosigner's key of
// the algorithm that it names.
func (ca *CA) parseExtension(value, spki []byte) error {
	s, ok := frame(value)
	var logHash, sigAlg cryptobyte.String
	if !ok || !s.ReadASN1Element(&logHash, asn1.SEQUENCE) || !isAlgorithm(logHash) ||
		!s.ReadASN1Element(&sigAlg, asn1.SEQUENCE) || !isAlgorithm(sigAlg) ||
		!s.ReadASN1Integer((*uint64)(&ca.MinSerial)) ||
		!s.ReadASN1Integer((*uint64)(&ca.MaxSerial)) || !s.Empty() {
		return malformed("not a DER MTCCertificationAuthority")
	}
	if !bytes.Equal(logHash, algorithm(oidSHA256)) {
		return fmt.Errorf("%w: the log's hash is not SHA-256", ErrUnsupportedCosigner)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	ca.PublicKey, ok = key.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return fmt.Errorf("%w: the key is not an ECDSA key", ErrUnsupportedCosigner)
	}
	kind, err := ca.cosigner()
	if err != nil {
		return err
	}
	if !bytes.Equal(sigAlg, algorithm(kind.algorithm)) {
		return fmt.Errorf("%w: signature algorithm that is not the one of %s", ErrUnsupportedCosigner, kind.curve.Params().Name)
	}
	if canonical, err := x509.MarshalPKIXPublicKey(ca.PublicKey); err != nil || !bytes.Equal(canonical, spki) {
		return malformed("CA cosigner's key is not in its canonical encoding")
	}
	return nil
}

// A cosignerKind is a signature algorithm of CA cosigners. Each hash goes
// with one curve, so that the key alone says all.
type cosignerKind struct {
	curve     elliptic.Curve
	hash      crypto.Hash
	algorithm encasn1.ObjectIdentifier
}

func (ca *CA) cosigner() (cosignerKind, error) {
	if ca.PublicKey == nil {
		return cosignerKind{}, fmt.Errorf("%w: no key", ErrUnsupportedCosigner)
	}
	switch ca.PublicKey.Curve {
	case elliptic.P256():
		return cosignerKind{elliptic.P256(), crypto.SHA256, oidECDSAWithSHA256}, nil
	case elliptic.P384():
		return cosignerKind{elliptic.P384(), crypto.SHA384, oidECDSAWithSHA384}, nil
	}
	return cosignerKind{}, fmt.Errorf("%w: neither P-256 nor P-384", ErrUnsupportedCosigner)
}

// check refuses what cannot be written in a CA certificate, or whose names
// do not fit a CosignedMessage.
func (ca *CA) check() error {
	if n := len(LogID(ca.ID, 1<<16-1).Origin()); ca.ID.IsZero() || n > maxIDSize {
		return malformed("CA ID %q is empty or too long", ca.ID)
	}
	if ca.MinSerial > ca.MaxSerial {
		return malformed("least serial number %v is above greatest %v", ca.MinSerial, ca.MaxSerial)
	}
	if _, err := ca.cosigner(); err != nil {
		return err
	}
	return checkValidity(ca.NotBefore, ca.NotAfter)
}

// isCertSigner tells whether the extensions say, as RFC 5280 has it, that the
// key may sign certificates: keyCertSign in the key usage (section 4.2.1.3)
// and cA in the basic constraints (section 4.2.1.9).
func isCertSigner(extensions []pkix.Extension) bool {
	keyUsage, ok := extension(extensions, oidKeyUsage)
	s := cryptobyte.String(keyUsage.Value)
	var usage encasn1.BitString
	if !ok || !s.ReadASN1BitString(&usage) || !s.Empty() || usage.At(keyCertSign) == 0 {
		return false
	}
	basicConstraints, ok := extension(extensions, oidBasicConstraints)
	s, frameOK := frame(basicConstraints.Value)
	var isCA bool
	if !ok || !frameOK || !s.ReadASN1Boolean(&isCA) || !isCA {
		return false
	}
	// A path length only bounds the CAs below.
	var pathLen uint64
	return s.Empty() || s.ReadASN1Integer(&pathLen) && s.Empty()
}

const keyCertSign = 5 // bit of KeyUsage

// Marshal returns the CA certificate, unsigned (RFC 9925) and with the serial
// number 1. A CA makes the same bytes each time.
func (ca *CA) Marshal() ([]byte, error) {
	if err := ca.check(); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(ca.PublicKey)
	if err != nil {
		return nil, malformed("CA cosigner's key: %v", err)
	}
	extensions, err := ca.extensions()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addVersion(b)
			b.AddASN1Uint64(1)
			b.AddBytes(unsignedAlgorithm)
			b.AddBytes(unsignedIssuer())
			addValidity(b, ca.NotBefore, ca.NotAfter)
			b.AddBytes(Name(ca.ID))
			b.AddBytes(spki)
			addExtensions(b, extensions)
		})
		b.AddBytes(unsignedAlgorithm)
		b.AddASN1BitString(nil)
	})
	return b.BytesOrPanic(), nil
}

func (ca *CA) extensions() ([]byte, error) {
	kind, err := ca.cosigner()
	if err != nil {
		return nil, err
	}
	var usage, constraints, own cryptobyte.Builder
	usage.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(7 - keyCertSign) // unused bits
		b.AddUint8(0x80 >> keyCertSign)
	})
	constraints.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
	own.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(algorithm(oidSHA256))
		b.AddBytes(algorithm(kind.algorithm))
		b.AddASN1Uint64(uint64(ca.MinSerial))
		b.AddASN1Uint64(uint64(ca.MaxSerial))
	})
	return MarshalExtensions([]pkix.Extension{
		{Id: oidKeyUsage, Critical: true, Value: usage.BytesOrPanic()},
		{Id: oidBasicConstraints, Critical: true, Value: constraints.BytesOrPanic()},
		{Id: oidCA, Critical: true, Value: own.BytesOrPanic()},
	})
}

// unsignedIssuer is the name that stands where nobody signed (RFC 9925
// section 3.2).
func unsignedIssuer() []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidRDNAUnsigned)
				b.AddASN1(asn1.UTF8String, func(*cryptobyte.Builder) {})
			})
		})
	})
	return b.BytesOrPanic()
}

package merkle

import (
	"cmp"
	"crypto/x509"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A TrustAnchorID names a CA, a log or a cosigner: an object identifier under
// the private enterprise arc 1.3.6.1.4.1, written without that arc
// (draft-ietf-tls-trust-anchor-ids, section 3). It is comparable; the zero
// value is no identifier.
type TrustAnchorID struct {
	binary string // the contents of a DER RELATIVE-OID
}

// maxIDSize is the longest binary form on the wire, and also the longest name
// in a CosignedMessage.
const maxIDSize = 255

// ParseTrustAnchorID parses the ASCII form: decimal components without
// leading zeros, separated by dots, as in "32473.1".
func ParseTrustAnchorID(s string) (TrustAnchorID, error) {
	// A component takes a byte or more, and a byte is at most "127.".
	if len(s) > 4*maxIDSize {
		return TrustAnchorID{}, malformed("trust anchor ID of %d characters", len(s))
	}
	oid, err := x509.ParseOID(arcPrefix + s)
	if err != nil {
		return TrustAnchorID{}, malformed("trust anchor ID %q", s)
	}
	der, err := oid.MarshalBinary()
	if err != nil {
		return TrustAnchorID{}, malformed("trust anchor ID %q", s)
	}
	id, err := TrustAnchorIDFromBytes(der[len(arcBytes):])
	if err != nil || id.String() != s {
		return TrustAnchorID{}, malformed("trust anchor ID %q", s)
	}
	return id, nil
}

// TrustAnchorIDFromBytes parses the binary form: 1 to 255 bytes, components
// in minimal base 128.
func TrustAnchorIDFromBytes(b []byte) (TrustAnchorID, error) {
	if len(b) == 0 || len(b) > maxIDSize {
		return TrustAnchorID{}, malformed("trust anchor ID of %d bytes", len(b))
	}
	var oid x509.OID
	if err := oid.UnmarshalBinary(b); err != nil {
		return TrustAnchorID{}, malformed("trust anchor ID %x", b)
	}
	return TrustAnchorID{string(b)}, nil
}

// arcBytes is 1.3.6.1.4.1 in the contents of a DER OBJECT IDENTIFIER.
const arcBytes = "\x2b\x06\x01\x04\x01"

// IsZero tells whether id is no identifier.
func (id TrustAnchorID) IsZero() bool { return id.binary == "" }

// String returns the ASCII form, "" for the zero value.
func (id TrustAnchorID) String() string {
	if id.IsZero() {
		return ""
	}
	var oid x509.OID
	if err := oid.UnmarshalBinary([]byte(arcBytes + id.binary)); err != nil {
		panic("merkle: internal error: trust anchor ID: " + err.Error())
	}
	return strings.TrimPrefix(oid.String(), arcPrefix)
}

// Bytes returns the binary form.
func (id TrustAnchorID) Bytes() []byte { return []byte(id.binary) }

// Append returns the identifier with further components.
func (id TrustAnchorID) Append(components ...uint32) TrustAnchorID {
	b := []byte(id.binary)
	for _, c := range components {
		for shift := 28; shift > 0; shift -= 7 {
			if c>>shift != 0 {
				b = append(b, 0x80|byte(c>>shift))
			}
		}
		b = append(b, byte(c&0x7f))
	}
	return TrustAnchorID{string(b)}
}

// Compare orders identifiers as cosigners are ordered in a certificate:
// shorter binary forms first, those of one length byte by byte ("Certificate
// Format").
func (id TrustAnchorID) Compare(other TrustAnchorID) int {
	return cmp.Or(
		cmp.Compare(len(id.binary), len(other.binary)),
		strings.Compare(id.binary, other.binary),
	)
}

// LogID names one of a CA's logs ("Issuance Logs").
func LogID(ca TrustAnchorID, log uint16) TrustAnchorID {
	return ca.Append(logsArc, uint32(log))
}

// Origin is the name of a cosigner or log in what cosigners sign and in
// signed checkpoints: "oid/" and the whole object identifier ("Signature
// Format").
func (id TrustAnchorID) Origin() string { return namePrefix + id.String() }

// Name returns the identifier as a DER distinguished name: one relative
// distinguished name with one attribute ("Certification Authority
// Identifiers").
func Name(id TrustAnchorID) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidTrustAnchorID)
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) {
					b.AddBytes([]byte(id.String()))
				})
			})
		})
	})
	return b.BytesOrPanic()
}

// ParseName parses what [Name] returns, and nothing else.
func ParseName(der []byte) (TrustAnchorID, error) {
	s := cryptobyte.String(der)
	var name, rdn, attribute, value cryptobyte.String
	if !s.ReadASN1(&name, asn1.SEQUENCE) || !s.Empty() ||
		!name.ReadASN1(&rdn, asn1.SET) || !name.Empty() ||
		!rdn.ReadASN1(&attribute, asn1.SEQUENCE) || !rdn.Empty() ||
		!readOID(&attribute, oidTrustAnchorID) ||
		!attribute.ReadASN1(&value, asn1.UTF8String) || !attribute.Empty() {
		return TrustAnchorID{}, malformed("name is not that of a trust anchor ID")
	}
	return ParseTrustAnchorID(string(value))
}

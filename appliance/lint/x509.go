package lint

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// What an X.509 certificate has beside the fields of an entry
// (docs/protocol.md section 6.8).
const (
	oidSubjectKeyID   = "\x55\x1d\x0e" // 2.5.29.14
	oidAuthorityKeyID = "\x55\x1d\x23" // 2.5.29.35
	oidCRLPoints      = "\x55\x1d\x1f" // 2.5.29.31

	ecdsaWithSHA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02" // 1.2.840.10045.4.3.2
	ecdsaWithSHA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03" // 1.2.840.10045.4.3.3

	x509Issuer = "Chancery X.509 issuer "
	x509Block  = 65536 // indexes of a CRL's partition
)

// An X509 is a certificate that the X.509 issuer is about to sign, and what is
// known of it besides.
type X509 struct {
	TBS       []byte        // DER TBSCertificate
	NC        []byte        // the N:C that it accompanies
	Serial    merkle.Serial // of that
	SPKI      []byte        // the TLS key
	Issuer    []byte        // SubjectPublicKeyInfo of the X.509 issuer
	Endpoints []string      // URLs of the coordinator
}

// CheckX509 tells whether the X.509 issuer may sign. Refusals are [*Error]s.
//
// Its reader is crypto/x509. It takes what N:C says for granted, which was
// checked before CA:SK signed it: what both have must be the same bytes, and of
// the rest it knows each byte.
func (l *Linter) CheckX509(c *X509) error {
	issuer := curveOf(c.Issuer)
	if issuer == nil {
		return refuse(Issuer, "the issuer's key is not a point on P-256 or P-384 in its one form: %s", show(c.Issuer))
	}
	algorithm := ecdsaWithSHA256
	if issuer.suite == chancery.P384 {
		algorithm = ecdsaWithSHA384
	}
	// A reader wants a signature, and believes it.
	cert, err := x509.ParseCertificate([]byte(tlv(tagSequence, string(c.TBS)+algorithm+tlv(0x03, "\x00"))))
	if err != nil {
		return refuse(Encoding, "crypto/x509 does not read it: %v", err)
	}
	nc, err := x509.ParseCertificate(c.NC)
	if err != nil {
		return refuse(Encoding, "crypto/x509 does not read its N:C: %v", err)
	}
	switch ca := l.rules.CA.String(); {
	case cert.Version != 3 || !bytes.Equal(cert.RawTBSCertificate, c.TBS):
		return refuse(Encoding, "version is %d, want 3 and nothing besides", cert.Version)
	case cert.SerialNumber.Cmp(nc.SerialNumber) != 0 || !cert.SerialNumber.IsUint64() || cert.SerialNumber.Uint64() != uint64(c.Serial):
		return refuse(Serial, "serial number is %s, that of the N:C %s", cert.SerialNumber, nc.SerialNumber)
	case string(nc.RawIssuer) != l.issuer:
		return refuse(Issuer, "the issuer of the N:C is %s, not CA %s", show(nc.RawIssuer), ca)
	case string(cert.RawIssuer) != nameOf(oidCommonName, x509Issuer+ca):
		return refuse(Issuer, "issuer is %s, not the X.509 issuer of CA %s", show(cert.RawIssuer), ca)
	case !cert.NotBefore.Equal(nc.NotBefore) || !cert.NotAfter.Equal(nc.NotAfter):
		return refuse(Validity, "validity is %s to %s, that of the N:C %s to %s", stamp(cert.NotBefore), stamp(cert.NotAfter), stamp(nc.NotBefore), stamp(nc.NotAfter))
	case !bytes.Equal(cert.RawSubject, nc.RawSubject):
		return refuse(Subject, "subject is %s, that of the N:C %s", show(cert.RawSubject), show(nc.RawSubject))
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, c.SPKI):
		return refuse(Key, "the key is %s, not the one that was asked for", show(cert.RawSubjectPublicKeyInfo))
	}
	curve, err := l.usable(c.SPKI)
	if err != nil {
		return err
	}
	return c.extensions(cert, nc, keyID(curve, c.SPKI), keyID(issuer, c.Issuer), l.rules.CA.String())
}

// usable tells whether a key may have a certificate.
func (l *Linter) usable(spki []byte) (*curve, error) {
	c := curveOf(spki)
	if c == nil {
		return nil, refuse(Key, "the key is not a point on P-256 or P-384 in its one form: %s", show(spki))
	}
	switch {
	case c.suite < l.rules.MinSuite:
		return nil, refuse(Suite, "the key's suite is %s, the lowest is %s", c.suite, l.rules.MinSuite)
	case !c.has(spki):
		return nil, refuse(Key, "the key is not a point on %s", c.name)
	case c.knows(spki):
		return nil, refuse(BadKey, "anybody can compute the private half of the key")
	}
	if whose, ok := l.rules.Forbidden[sha256.Sum256(spki)]; ok {
		return nil, refuse(KeyPurpose, "the key is %s", whose)
	}
	return c, nil
}

// extensions compares them all: first those of the N:C, then those that are
// about the two keys and the list.
func (c *X509) extensions(cert, nc *x509.Certificate, key, issuer, ca string) error {
	type extension struct {
		rule     Rule
		oid      string
		critical bool
		value    string
	}
	var want []extension
	for i, rule := range []Rule{KeyUsage, ExtKeyUsage, BasicConstraints, AltName} {
		if i >= len(nc.Extensions) {
			return refuse(Extensions, "the N:C has %d extensions", len(nc.Extensions))
		}
		e := nc.Extensions[i]
		want = append(want, extension{rule, contents(e.Id), e.Critical, string(e.Value)})
	}
	want = append(want,
		extension{Extensions, oidSubjectKeyID, false, tlv(tagOctets, key)},
		extension{Extensions, oidAuthorityKeyID, false, tlv(tagSequence, tlv(0x80, issuer))})
	if len(c.Endpoints) > 0 {
		urls := ""
		for _, e := range c.Endpoints {
			urls += tlv(tagURI, fmt.Sprintf("%s/crl/x509/%s/%d/%d.crl", e, ca, uint64(c.Serial)>>48, uint64(c.Serial)&(1<<48-1)/x509Block))
		}
		want = append(want, extension{Extensions, oidCRLPoints, false, tlv(tagSequence, tlv(tagSequence, tlv(0xa0, tlv(0xa0, urls))))})
	}
	if len(cert.Extensions) != len(want) {
		return refuse(Extensions, "there are %d extensions, want %d", len(cert.Extensions), len(want))
	}
	for i, e := range cert.Extensions {
		switch w := want[i]; {
		case contents(e.Id) != w.oid:
			return refuse(Extensions, "extension %d is %s", i+1, e.Id)
		case e.Critical != w.critical:
			return refuse(Critical, "extension %s: critical is %t", e.Id, e.Critical)
		case string(e.Value) != w.value:
			return refuse(w.rule, "extension %s is %s, want %s", e.Id, show(e.Value), show([]byte(w.value)))
		}
	}
	return nil
}

// contents returns those of an OBJECT IDENTIFIER as form.go has them.
func contents(id asn1.ObjectIdentifier) string {
	b, err := asn1.Marshal(id)
	if err != nil {
		return ""
	}
	return string(b[2:])
}

// keyID is the key identifier of RFC 7093 section 2, method 1: of the point,
// with the byte that says that it is uncompressed.
func keyID(c *curve, spki []byte) string {
	sum := sha256.Sum256(spki[len(c.head)-1:])
	return string(sum[:20])
}

package ekroots

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// A Certificate is of an authority that signs EK certificates, or of one above
// it.
type Certificate struct {
	Cert *x509.Certificate

	// Vendor is the name of the bundle that the program carries it in, such as
	// "infineon"; empty for the operator's own.
	Vendor string
	// File is the name of the operator's file that it is in, without a path;
	// empty for those that the program carries.
	File string
}

// Origin tells where the certificate is from: "vendor infineon", or the name
// of the operator's file.
func (c Certificate) Origin() string {
	if c.Vendor != "" {
		return "vendor " + c.Vendor
	}
	return c.File
}

// Fingerprint returns the SHA-256 of the DER, as 64 hexadecimal digits.
func (c Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.Cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Subject and Issuer return the names as in RFC 2253, fit for a line on a
// terminal.
func (c Certificate) Subject() string { return line(c.Cert.Subject.String()) }
func (c Certificate) Issuer() string  { return line(c.Cert.Issuer.String()) }

// NotAfter returns the end of the validity.
func (c Certificate) NotAfter() time.Time { return c.Cert.NotAfter }

// Root tells whether the certificate is its own issuer's, by the names and,
// where it has them, the key identifiers. The signature on itself proves
// nothing and is not looked at: many vendors' are by SHA-1.
func (c Certificate) Root() bool {
	return bytes.Equal(c.Cert.RawSubject, c.Cert.RawIssuer) &&
		(len(c.Cert.AuthorityKeyId) == 0 || bytes.Equal(c.Cert.AuthorityKeyId, c.Cert.SubjectKeyId))
}

// Notes tells what an operator should know of the certificate at that time;
// mostly nothing.
func (c Certificate) Notes(at time.Time) []string {
	var notes []string
	switch {
	case at.After(c.Cert.NotAfter):
		notes = append(notes, "expired: no EK certificate below it is believed")
	case at.Before(c.Cert.NotBefore):
		notes = append(notes, "not valid yet: no EK certificate below it is believed")
	}
	for _, id := range c.Cert.UnhandledCriticalExtensions {
		notes = append(notes, fmt.Sprintf("critical extension %v is not understood: no EK certificate below it is believed", id))
	}
	switch c.Cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		if !c.Root() {
			notes = append(notes, fmt.Sprintf("signed with %v, which is not believed: it counts only because it is in this list", c.Cert.SignatureAlgorithm))
		}
	}
	return notes
}

// line makes text of a certificate fit for one line of a terminal and for a
// comment in a PEM file, where it must not look like the start of a block.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return strings.ReplaceAll(s, "--", "- ")
}

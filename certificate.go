package chancery

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery/merkle"
)

// Private extensions of N:C, under the arc for documentation until the
// project has one of its own (docs/protocol.md section 2).
var (
	oidNS        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 1}
	oidAssurance = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 2}
	oidRoles     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 3}

	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// An AssuranceLevel says how much the coordinator knew about the chip that
// holds N:SK.
type AssuranceLevel uint8

const (
	AssuranceSoftware AssuranceLevel = 0 // no chip
	AssuranceTPM      AssuranceLevel = 1 // a TPM without an EK certificate
	AssuranceEK       AssuranceLevel = 2 // EK certificate verified, or EK on the allow-list
	AssuranceQuote    AssuranceLevel = 3 // and the quoted boot state matched
)

// String returns the level as the command line prints it.
func (l AssuranceLevel) String() string {
	switch l {
	case AssuranceSoftware:
		return "software"
	case AssuranceTPM:
		return "tpm"
	case AssuranceEK:
		return "ek-verified"
	case AssuranceQuote:
		return "quote-matched"
	}
	return fmt.Sprintf("assurance-%d", uint8(l))
}

// Assurance is the content of the assurance extension.
type Assurance struct {
	Level     AssuranceLevel
	Simulator bool     // the chip is a simulator
	EKDigest  [32]byte // [EKDigest]
}

// A DetachedNS is N:S as it stands inside N:C: what the certificate does not
// say already.
type DetachedNS struct {
	CANSHash  [32]byte
	Created   time.Time
	Signature Signature
}

// A Subject is what N:C says about a node.
type Subject struct {
	Name        string
	TrustDomain string
	DNSNames    []string // empty unless the fleet configures a DNS suffix
	NodeKey     PublicKey
	NotBefore   time.Time
	NotAfter    time.Time
	NS          DetachedNS
	Roles       []string // ascending
	Assurance   Assurance
}

// A Certificate is N:C: an X.509 certificate in the Merkle Tree Certificate
// form, whose log entry holds N:S. It is immutable.
type Certificate struct {
	Subject
	CA     merkle.TrustAnchorID
	Serial merkle.Serial

	mtc *merkle.Certificate
}

// ErrNotNC means that a well-formed Merkle Tree Certificate is not an N:C:
// extensions are missing, doubled, unknown or in another order, or a field
// says something that Chancery never writes.
var ErrNotNC = errors.New("not a Chancery node certificate")

const maxDNSNames = 8

// MaxRoles is how many roles a certificate may grant.
const MaxRoles = 32

// Fields returns the log entry of the subject under a CA. It checks what a
// certificate must never say.
func (s *Subject) Fields(ca merkle.TrustAnchorID) (merkle.EntryFields, error) {
	if err := s.check(); err != nil {
		return merkle.EntryFields{}, err
	}
	return merkle.EntryFields{
		Issuer:     ca,
		NotBefore:  s.NotBefore,
		NotAfter:   s.NotAfter,
		Subject:    commonName(s.Name),
		SPKI:       s.NodeKey.SPKI(),
		Extensions: s.extensions(),
	}, nil
}

func (s *Subject) check() error {
	if err := ValidateName(s.Name); err != nil {
		return err
	}
	if !validTrustDomain(s.TrustDomain) {
		return fmt.Errorf("%w: trust domain %q", ErrName, clip(s.TrustDomain))
	}
	if !s.NotAfter.After(s.NotBefore) {
		return fmt.Errorf("N:C: notAfter %s must be after notBefore %s", s.NotAfter, s.NotBefore)
	}
	if len(s.DNSNames) > maxDNSNames || len(s.Roles) > MaxRoles {
		return fmt.Errorf("N:C: %d DNS names and %d roles, at most %d and %d", len(s.DNSNames), len(s.Roles), maxDNSNames, MaxRoles)
	}
	for _, n := range s.DNSNames {
		if len(n) > 253 || n == "" || !validTrustDomain(n) {
			return fmt.Errorf("%w: DNS name %q", ErrName, clip(n))
		}
	}
	for i, r := range s.Roles {
		if err := ValidateName(r); err != nil {
			return fmt.Errorf("role: %w", err)
		}
		if i > 0 && r <= s.Roles[i-1] {
			return fmt.Errorf("N:C: roles %q are not ascending", s.Roles)
		}
	}
	return s.NS.Signature.check(s.NodeKey.Suite())
}

// ns returns N:S as the statement that the node signed.
func (s *Subject) ns(fleet FleetID) *NS {
	return &NS{Fleet: fleet, NodeKey: s.NodeKey, CANSHash: s.NS.CANSHash, Created: s.NS.Created, Name: s.Name, Signature: s.NS.Signature}
}

// SPIFFEID returns the URI in the certificate's SAN.
func (s *Subject) SPIFFEID() string { return SPIFFEID(s.TrustDomain, s.Name) }

func commonName(name string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidCommonName)
				b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
			})
		})
	})
	return b.BytesOrPanic()
}

// extensions returns the DER Extensions of N:C: these and no others, once
// each, in this order.
func (s *Subject) extensions() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addUsageExtensions(b)
		addExtension(b, oidSubjectAltName, false, s.subjectAltName())
		addExtension(b, oidNS, false, octets(s.encodeNS()))
		addExtension(b, oidRoles, false, octets(s.encodeRoles()))
		addExtension(b, oidAssurance, false, octets(s.Assurance.encode()))
	})
	return b.BytesOrPanic()
}

// addUsageExtensions adds what N:C and session certificates have in common:
// digitalSignature, serverAuth and clientAuth, CA:FALSE.
func addUsageExtensions(b *cryptobyte.Builder) {
	addExtension(b, oidKeyUsage, true, []byte{0x03, 0x02, 0x07, 0x80})
	addExtension(b, oidExtKeyUsage, false, ekuServerAndClient)
	addExtension(b, oidBasicConstraints, true, []byte{0x30, 0x00})
}

var ekuServerAndClient = func() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidServerAuth)
		b.AddASN1ObjectIdentifier(oidClientAuth)
	})
	return b.BytesOrPanic()
}()

func addExtension(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, critical bool, value []byte) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(value)
	})
}

// octets wraps a presentation-language structure so that the extension's
// value is DER, as RFC 5280 section 4.2 asks.
func octets(v []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1OctetString(v)
	return b.BytesOrPanic()
}

func (s *Subject) subjectAltName() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.SPIFFEID())) })
		for _, n := range s.DNSNames {
			b.AddASN1(cbasn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(n)) })
		}
	})
	return b.BytesOrPanic()
}

func (s *Subject) encodeNS() []byte {
	var e encoder
	e.AddBytes(s.NS.CANSHash[:])
	e.time(s.NS.Created)
	e.vec8(s.NS.Signature)
	return e.BytesOrPanic()
}

func (s *Subject) encodeRoles() []byte {
	var e encoder
	e.list(len(s.Roles), func(e *encoder, i int) { e.vec8([]byte(s.Roles[i])) })
	return e.BytesOrPanic()
}

func (a *Assurance) encode() []byte {
	var e encoder
	e.AddUint8(uint8(a.Level))
	var flags uint8
	if a.Simulator {
		flags = 1
	}
	e.AddUint8(flags)
	e.AddBytes(a.EKDigest[:])
	return e.BytesOrPanic()
}

// NewCertificate puts N:C together from its log entry's fields and the proof
// that they are in a signed subtree.
func NewCertificate(s *Subject, ca merkle.TrustAnchorID, serial merkle.Serial, proof merkle.Proof) (*Certificate, error) {
	f, err := s.Fields(ca)
	if err != nil {
		return nil, err
	}
	der, err := merkle.MarshalCertificate(f, serial, proof)
	if err != nil {
		return nil, err
	}
	return ParseCertificate(der)
}

// Raw returns the certificate's DER. It must not be changed.
func (c *Certificate) Raw() []byte { return c.mtc.Raw }

// MTC returns the certificate as any Merkle Tree Certificate.
func (c *Certificate) MTC() *merkle.Certificate { return c.mtc }

// NodeID returns node_id in the fleet.
func (c *Certificate) NodeID(fleet FleetID) NodeID { return NewNodeID(fleet, c.NodeKey) }

// ParseCertificate parses N:C. It does not verify it. Errors are those of
// [merkle.ParseCertificate] and [ErrNotNC].
func ParseCertificate(der []byte) (*Certificate, error) {
	m, err := merkle.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("N:C: %w", err)
	}
	c := &Certificate{CA: m.Issuer, Serial: m.Serial, mtc: m}
	c.NotBefore, c.NotAfter = m.NotBefore, m.NotAfter
	if c.NodeKey, err = ParsePublicKey(m.RawSPKI); err != nil {
		return nil, fmt.Errorf("N:C: %w", err)
	}
	if err := c.parseExtensions(m.Extensions); err != nil {
		return nil, err
	}
	// The rest is held against what the same facts encode to. That covers
	// order, criticality, doubled and unknown extensions, and the subject.
	f, err := c.Fields(c.CA)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotNC, err)
	}
	if !bytes.Equal(f.Extensions, m.RawExtensions) || !bytes.Equal(f.Subject, m.RawSubject) {
		return nil, fmt.Errorf("%w: its fields are not in the one form", ErrNotNC)
	}
	if len(m.Proof.LogExtensions) != 0 {
		return nil, fmt.Errorf("%w: its log entry has extensions", ErrNotNC)
	}
	return c, nil
}

// parseExtensions takes the facts out of the private extensions and the SAN.
func (c *Certificate) parseExtensions(list []pkix.Extension) error {
	seen := map[string]bool{}
	for _, ext := range list {
		seen[ext.Id.String()] = true
		ok := true // of the others, ParseCertificate compares every byte
		switch {
		case ext.Id.Equal(oidSubjectAltName):
			ok = c.parseSAN(ext.Value)
		case ext.Id.Equal(oidNS):
			ok = c.parseNS(ext.Value)
		case ext.Id.Equal(oidRoles):
			ok = c.parseRoles(ext.Value)
		case ext.Id.Equal(oidAssurance):
			ok = c.parseAssurance(ext.Value)
		}
		if !ok {
			return fmt.Errorf("%w: extension %s does not parse", ErrNotNC, ext.Id)
		}
	}
	for _, oid := range []asn1.ObjectIdentifier{oidSubjectAltName, oidNS, oidRoles, oidAssurance} {
		if !seen[oid.String()] {
			return fmt.Errorf("%w: extension %s is missing", ErrNotNC, oid)
		}
	}
	return nil
}

func (c *Certificate) parseSAN(v cryptobyte.String) bool {
	var names, uri cryptobyte.String
	if !v.ReadASN1(&names, cbasn1.SEQUENCE) || !v.Empty() || !names.ReadASN1(&uri, cbasn1.Tag(6).ContextSpecific()) {
		return false
	}
	u, err := url.Parse(string(uri))
	if err != nil || u.Scheme != "spiffe" {
		return false
	}
	name, ok := bytes.CutPrefix([]byte(u.Path), []byte("/node/"))
	if !ok {
		return false
	}
	c.TrustDomain, c.Name = u.Host, string(name)
	for !names.Empty() {
		var dns cryptobyte.String
		if !names.ReadASN1(&dns, cbasn1.Tag(2).ContextSpecific()) || len(c.DNSNames) == maxDNSNames {
			return false
		}
		c.DNSNames = append(c.DNSNames, string(dns))
	}
	return true
}

// inner starts on the structure inside the OCTET STRING of [octets].
func inner(v cryptobyte.String) *decoder {
	var s cryptobyte.String
	ok := v.ReadASN1(&s, cbasn1.OCTET_STRING) && v.Empty()
	return &decoder{s: s, bad: !ok}
}

func (c *Certificate) parseNS(v cryptobyte.String) bool {
	d := inner(v)
	c.NS = DetachedNS{CANSHash: d.hash(), Created: d.time(), Signature: d.signature()}
	return d.done("N:S") == nil
}

func (c *Certificate) parseRoles(v cryptobyte.String) bool {
	d := inner(v)
	d.list(MaxRoles, func(d *decoder) { c.Roles = append(c.Roles, string(d.vec8())) })
	return d.done("roles") == nil
}

func (c *Certificate) parseAssurance(v cryptobyte.String) bool {
	d := inner(v)
	c.Assurance.Level = AssuranceLevel(d.u8())
	flags := d.u8()
	c.Assurance.Simulator = flags == 1
	c.Assurance.EKDigest = d.hash()
	d.read(flags <= 1 && c.Assurance.Level <= AssuranceQuote)
	return d.done("assurance") == nil
}

// HasRole reports whether the certificate grants the role.
func (c *Certificate) HasRole(role string) bool { return slices.Contains(c.Roles, role) }

// CommonName returns the node's name out of an N:C's subject, or "" where the
// DER Name is not of that form.
func CommonName(subject []byte) string {
	var rdn, set, attr, value cryptobyte.String
	s := cryptobyte.String(subject)
	if !s.ReadASN1(&rdn, cbasn1.SEQUENCE) || !rdn.ReadASN1(&set, cbasn1.SET) || !set.ReadASN1(&attr, cbasn1.SEQUENCE) {
		return ""
	}
	var oid asn1.ObjectIdentifier
	if !attr.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidCommonName) || !attr.ReadASN1(&value, cbasn1.UTF8String) {
		return ""
	}
	return string(value)
}

// VerifyNS checks N:S inside N:C under N:PK; of N:C itself it says nothing,
// see [Verifier].
func (c *Certificate) VerifyNS(fleet FleetID) error { return c.ns(fleet).Verify(fleet) }

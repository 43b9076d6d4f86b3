package chancery

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery/merkle"
)

var (
	oidAuthorityKeyID           = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLNumber                = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// An X509CRL is the to-be-signed part of an RFC 5280 CRL (TBSCertList): a list
// of this fleet for software that does not know ours. The X.509 issuer signs
// it, the key of [Pointer.X509Issuer], which signs X.509 structures and
// nothing else but the challenges of its token.
type X509CRL struct {
	suite      Suite
	buf        []byte // with room before the TBSCertList and after it
	start, end int    // of the TBSCertList
}

// message returns the DER TBSCertList as RFC 5280 section 5.1.1.1 signs it. It
// begins with 0x30, which no labelled body does.
func (c X509CRL) message(FleetID, Suite) []byte { return c.buf[c.start:c.end] }

// An X509CRLBuilder puts an [X509CRL] together, an entry at a time: in one
// buffer, because such a list takes some 40 bytes for each certificate where
// ours takes one or two.
type X509CRLBuilder struct {
	pointer *Pointer
	head    *CRLHead
	name    []byte
	urls    []string
	buf     []byte
	last    struct {
		at     time.Time
		reason ReasonCode
		tail   []byte // what follows the serial number: alike for all that one command revoked
	}
}

const (
	// x509Room is kept free in front of the entries. All that comes before
	// them has at most some 150 bytes.
	x509Room = 256
	// x509Entry is what an entry takes that has a reason and a small log number.
	x509Entry = 2 + 9 + 15 + 14
)

// X509IssuerName returns the DER Name of the X.509 issuer for the entries of
// one CA id. It is another one for each, because serial numbers are those of
// log entries, and they begin anew with each CA key; the key of the issuer may
// stay. The CA id must be short enough for a commonName (64 characters, RFC
// 5280 appendix A.1); those that are derived from a key are.
func X509IssuerName(ca merkle.TrustAnchorID) ([]byte, error) {
	name := "Chancery X.509 issuer " + ca.String()
	if len(name) > 64 {
		return nil, fmt.Errorf("X.509 issuer: the CA id %s is too long for a commonName", ca)
	}
	return commonName(name), nil
}

// X509KeyID is the key identifier of an X.509 issuer: the leftmost 160 bits of
// SHA-256 over the BIT STRING of its key (RFC 7093 section 2, method 1).
func X509KeyID(k PublicKey) []byte {
	sum := sha256.Sum256(point(k.ECDSA()))
	return sum[:20]
}

func point(k *ecdsa.PublicKey) []byte {
	b, err := k.Bytes()
	if err != nil {
		panic("chancery: internal error: " + err.Error())
	}
	return b
}

// X509PartitionSpan is how many indexes a partition of the X.509 CRL covers: a
// block of ours. Partition n is of the indexes from n times as many on.
const X509PartitionSpan = blockSpan

// X509CRLPath returns where a coordinator serves the X.509 CRL of a CA id.
func X509CRLPath(ca merkle.TrustAnchorID) string {
	return x509Path + ca.String() + x509Suffix
}

// X509PartitionPath returns where it serves one partition.
func X509PartitionPath(ca merkle.TrustAnchorID, log uint16, partition uint64) string {
	return x509Path + ca.String() + "/" + strconv.Itoa(int(log)) + "/" + strconv.FormatUint(partition, 10) + x509Suffix
}

const (
	x509Path   = "/crl/x509/"
	x509Suffix = ".crl"
)

// X509DistributionPoint returns the URLs of the list that a certificate with
// the serial number is on, as its cRLDistributionPoints extension and the
// list's own issuingDistributionPoint have them: one for each endpoint.
func X509DistributionPoint(p *Pointer, ca merkle.TrustAnchorID, log uint16, partition uint64) (urls []string) {
	for _, e := range p.Endpoints {
		urls = append(urls, e.URL+X509PartitionPath(ca, log, partition))
	}
	return urls
}

// NewX509CRL begins the list for the CA id that goes with a head: number,
// thisUpdate and nextUpdate are the head's. urls are those of a partition, from
// [X509DistributionPoint], or none for the list of all. expect is how many
// entries there will be, about.
func NewX509CRL(p *Pointer, head *CRLHead, ca merkle.TrustAnchorID, urls []string, expect int) (*X509CRLBuilder, error) {
	if p.X509Issuer.IsZero() {
		return nil, fmt.Errorf("X.509 CRL: the pointer record names no X.509 issuer")
	}
	name, err := X509IssuerName(ca)
	if err != nil {
		return nil, err
	}
	size := 2*x509Room + expect*x509Entry
	for _, u := range urls {
		size += 8 + len(u)
	}
	return &X509CRLBuilder{pointer: p, head: head, name: name, urls: urls, buf: make([]byte, x509Room, size)}, nil
}

// Add adds a revoked certificate. Serial numbers must be ascending.
func (b *X509CRLBuilder) Add(serial merkle.Serial, at time.Time, reason ReasonCode) {
	if b.last.tail == nil || b.last.reason != reason || !b.last.at.Equal(at) {
		b.last.at, b.last.reason, b.last.tail = at, reason, x509EntryTail(at, reason)
	}
	// INTEGER: the fewest bytes whose highest bit is 0.
	width := bits.Len64(uint64(serial))/8 + 1
	var wide [9]byte
	binary.BigEndian.PutUint64(wide[1:], uint64(serial))
	b.buf = append(b.buf, 0x30, byte(2+width+len(b.last.tail)), 0x02, byte(width))
	b.buf = append(b.buf, wide[9-width:]...)
	b.buf = append(b.buf, b.last.tail...)
}

// x509EntryTail is revocationDate and crlEntryExtensions. The reason
// unspecified is not written (RFC 5280 section 5.3.1).
func x509EntryTail(at time.Time, reason ReasonCode) []byte {
	var b cryptobyte.Builder
	addTime(&b, at)
	if reason != ReasonUnspecified {
		b.AddBytes([]byte{0x30, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x15, 0x04, 0x03, 0x0a, 0x01, byte(reason)})
	}
	return b.BytesOrPanic()
}

// Finish returns the list. The builder must not be used any more.
func (b *X509CRLBuilder) Finish() X509CRL {
	suite := b.pointer.X509Issuer.Suite()
	entries := len(b.buf) - x509Room
	b.buf = append(b.buf, b.extensions()...)

	var h cryptobyte.Builder
	h.AddASN1Int64(1) // v2
	h.AddBytes(suite.algorithmIdentifier())
	h.AddBytes(b.name)
	addTime(&h, b.head.ThisUpdate)
	addTime(&h, b.head.NextUpdate)
	if entries > 0 { // section 5.1.2.6: the list of none is absent
		h.AddBytes(derHeader(0x30, entries))
	}
	head := h.BytesOrPanic()
	head = append(derHeader(0x30, len(head)+len(b.buf)-x509Room), head...)
	start := x509Room - len(head)
	copy(b.buf[start:], head)
	return X509CRL{suite: suite, buf: b.buf, start: start, end: len(b.buf)}
}

func (b *X509CRLBuilder) extensions() []byte {
	var e cryptobyte.Builder
	e.AddASN1(cbasn1.Tag(0).Constructed().ContextSpecific(), func(e *cryptobyte.Builder) {
		e.AddASN1(cbasn1.SEQUENCE, func(e *cryptobyte.Builder) {
			addExtension(e, oidAuthorityKeyID, false, authorityKeyID(b.pointer.X509Issuer))
			var n cryptobyte.Builder
			n.AddASN1Uint64(b.head.Number)
			addExtension(e, oidCRLNumber, false, n.BytesOrPanic())
			if len(b.urls) > 0 {
				addExtension(e, oidIssuingDistributionPoint, true, x509DistributionPoint(b.urls))
			}
		})
	})
	return e.BytesOrPanic()
}

// x509DistributionPoint is an IssuingDistributionPoint (RFC 5280 section
// 5.2.5) that says where the list is, and with it what it is of; and a
// DistributionPoint (section 4.2.1.13), which has the same form.
func x509DistributionPoint(urls []string) []byte {
	var b cryptobyte.Builder
	inner := cbasn1.Tag(0).Constructed().ContextSpecific()
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(inner, func(b *cryptobyte.Builder) { // distributionPoint
			b.AddASN1(inner, func(b *cryptobyte.Builder) { // fullName
				for _, u := range urls {
					b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(u)) })
				}
			})
		})
	})
	return b.BytesOrPanic()
}

// List returns the DER CertificateList: the list with the X.509 issuer's
// signature. It takes over the list's memory.
func (c X509CRL) List(sig Signature) []byte {
	var tail cryptobyte.Builder
	tail.AddBytes(c.suite.algorithmIdentifier())
	tail.AddASN1BitString(sig.ASN1())
	buf := append(c.buf[:c.end], tail.BytesOrPanic()...)
	head := derHeader(0x30, len(buf)-c.start)
	start := c.start - len(head)
	copy(buf[start:], head)
	return buf[start:]
}

// derHeader is tag and length of what has so many bytes.
func derHeader(tag byte, n int) []byte {
	if n < 0x80 {
		return []byte{tag, byte(n)}
	}
	width := (bits.Len(uint(n)) + 7) / 8
	h := []byte{tag, 0x80 | byte(width)}
	for shift := 8 * (width - 1); shift >= 0; shift -= 8 {
		h = append(h, byte(n>>shift))
	}
	return h
}

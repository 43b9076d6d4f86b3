package chancery

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery/merkle"
)

var (
	oidSubjectKeyID          = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidCRLDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
)

// An X509TBS is the to-be-signed part of an RFC 5280 certificate
// (TBSCertificate) for software that does not know ours: that of a node's TLS
// key, which accompanies an N:C, or the X.509 issuer's own. The X.509 issuer
// signs it (docs/protocol.md section 6.8).
type X509TBS struct {
	suite Suite
	raw   []byte
}

// message returns the DER TBSCertificate as RFC 5280 signs it. It begins with
// 0x30, which no labelled body does.
func (t X509TBS) message(FleetID, Suite) []byte { return t.raw }

// Certificate returns the DER Certificate with the X.509 issuer's signature.
func (t X509TBS) Certificate(sig Signature) []byte {
	return signed(t.raw, t.suite, sig)
}

// maxX509 bounds an X.509 certificate: 16 distribution points of up to 300
// bytes and 9 names of up to as many.
const maxX509 = 16 << 10

// ErrX509 means that an X.509 certificate is not what the X.509 issuer may sign
// for an N:C, or for itself, or that it did not sign it.
var ErrX509 = errors.New("X.509 certificate is not acceptable")

// errNoX509 is [ErrX509] of a fleet without an issuer.
var errNoX509 = fmt.Errorf("%w: the pointer record names no X.509 issuer", ErrX509)

// NewX509 prepares the X.509 certificate that accompanies nc: of the TLS key,
// with N:C's serial number, validity, subject and names, on the X.509 CRL of
// the serial number's partition. There must be one for each N:C at most, since
// a serial number is one certificate's (RFC 5280 section 4.1.2.2).
func NewX509(p *Pointer, nc *Certificate, key PublicKey) (X509TBS, error) {
	return newX509(p, nc, key, X509DistributionPoint(p, nc.CA, nc.Serial.Log(), nc.Serial.Index()/X509PartitionSpan))
}

func newX509(p *Pointer, nc *Certificate, key PublicKey, urls []string) (X509TBS, error) {
	if p.X509Issuer.IsZero() {
		return X509TBS{}, errNoX509
	}
	issuer, err := X509IssuerName(nc.CA)
	if err != nil {
		return X509TBS{}, err
	}
	return X509TBS{p.X509Issuer.Suite(), tbsCertificate{
		serial: integer(uint64(nc.Serial)), suite: p.X509Issuer.Suite(), issuer: issuer, notBefore: nc.NotBefore, notAfter: nc.NotAfter, subject: commonName(nc.Name), key: key,
		extensions: func(b *cryptobyte.Builder) {
			addUsageExtensions(b)
			addExtension(b, oidSubjectAltName, false, nc.subjectAltName())
			addExtension(b, oidSubjectKeyID, false, octets(X509KeyID(key)))
			addExtension(b, oidAuthorityKeyID, false, authorityKeyID(p.X509Issuer))
			if len(urls) > 0 {
				addExtension(b, oidCRLDistributionPoints, false, x509DistributionPoints(urls))
			}
		},
	}.encode()}, nil
}

// NewX509CA prepares the X.509 issuer's own certificate for the entries of one
// CA key, which it signs itself. It is good from the time of the CA key on and
// has no end of its own (RFC 5280 section 4.1.2.5): it ends with the CA key. Its
// serial number is as if of log 0, which there is none of.
func NewX509CA(p *Pointer, k *CAKey) (tbs X509TBS, serial merkle.Serial, err error) {
	if p.X509Issuer.IsZero() {
		return tbs, 0, errNoX509
	}
	name, err := X509IssuerName(k.ID)
	if err != nil {
		return tbs, 0, err
	}
	serial = x509CASerial(p.X509Issuer)
	return X509TBS{p.X509Issuer.Suite(), tbsCertificate{
		serial: integer(uint64(serial)), suite: p.X509Issuer.Suite(), issuer: name, notBefore: k.Created, notAfter: time.Unix(maxTime, 0), subject: name, key: p.X509Issuer,
		extensions: func(b *cryptobyte.Builder) {
			addExtension(b, oidKeyUsage, true, []byte{0x03, 0x02, 0x01, 0x06})                        // keyCertSign, cRLSign
			addExtension(b, oidBasicConstraints, true, []byte{0x30, 0x06, 0x01, 0x01, 0xff, 2, 1, 0}) // CA, pathLenConstraint 0
			addExtension(b, oidSubjectKeyID, false, octets(X509KeyID(p.X509Issuer)))
			addExtension(b, oidAuthorityKeyID, false, authorityKeyID(p.X509Issuer))
		},
	}.encode()}, serial, nil
}

// x509CASerial is below 2^48, as no log entry's is, and another one for each key
// under the same name.
func x509CASerial(k PublicKey) (n merkle.Serial) {
	sum := k.Fingerprint()
	for _, b := range sum[:6] {
		n = n<<8 | merkle.Serial(b)
	}
	return max(n, 1)
}

// VerifyX509 checks that der is the X.509 certificate of the key that
// accompanies nc, which has been verified. The pointer record of who made it may
// have had other endpoints; the path of the CRL is the same.
func VerifyX509(p *Pointer, nc *Certificate, key PublicKey, der []byte) error {
	c, err := parseX509(der)
	if err != nil {
		return err
	}
	path := X509PartitionPath(nc.CA, nc.Serial.Log(), nc.Serial.Index()/X509PartitionSpan)
	if len(c.CRLDistributionPoints) > maxEndpoints || slices.ContainsFunc(c.CRLDistributionPoints, func(u string) bool { return !strings.HasSuffix(u, path) }) {
		return fmt.Errorf("%w: its CRL is not under %s", ErrX509, path)
	}
	tbs, err := newX509(p, nc, key, c.CRLDistributionPoints)
	if err != nil {
		return err
	}
	return tbs.verify(p, c)
}

// VerifyX509CA checks that der is the X.509 issuer's own certificate for a CA
// key of the pointer record.
func VerifyX509CA(p *Pointer, k *CAKey, der []byte) error {
	c, err := parseX509(der)
	if err != nil {
		return err
	}
	tbs, _, err := NewX509CA(p, k)
	if err != nil {
		return err
	}
	return tbs.verify(p, c)
}

func parseX509(der []byte) (*x509.Certificate, error) {
	if len(der) > maxX509 {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrX509, len(der), maxX509)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrX509, err)
	}
	return c, nil
}

// verify compares bytes, so that a certificate can say nothing else, and then
// verifies the signature.
func (t X509TBS) verify(p *Pointer, c *x509.Certificate) error {
	sig, err := NewSignatureASN1(t.suite, c.Signature)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrX509, err)
	}
	if !bytes.Equal(t.Certificate(sig), c.Raw) {
		return fmt.Errorf("%w: it says something else than it must, or has high s", ErrX509)
	}
	if err := p.X509Issuer.Verify(p.FleetID(), t, sig); err != nil {
		return fmt.Errorf("%w: %w", ErrX509, err)
	}
	return nil
}

// An X509PoP is the proof that a node which asks for an X.509 certificate holds
// the TLS key that is to be certified: that key signs it. It names the N:C that
// the certificate is to accompany, so it is of no use to another node.
type X509PoP struct {
	Key    PublicKey
	CA     merkle.TrustAnchorID
	Serial merkle.Serial
}

func (p X509PoP) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	e.key(p.Key)
	e.vec8(p.CA.Bytes())
	e.AddUint64(uint64(p.Serial))
	return labelled(labelX509PoP, fleet, suite, e.BytesOrPanic())
}

// A tbsCertificate is what our DER TBSCertificates differ in.
type tbsCertificate struct {
	serial              []byte // INTEGER
	suite               Suite  // of the issuer's key
	issuer              []byte // Name
	notBefore, notAfter time.Time
	subject             []byte // Name
	key                 PublicKey
	extensions          func(*cryptobyte.Builder)
}

func (t tbsCertificate) encode() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Uint64(2) })
		b.AddBytes(t.serial)
		b.AddBytes(t.suite.algorithmIdentifier())
		b.AddBytes(t.issuer)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, t.notBefore)
			addTime(b, t.notAfter)
		})
		b.AddBytes(t.subject)
		b.AddBytes([]byte(t.key.spki))
		b.AddASN1(cbasn1.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { t.extensions(b) })
		})
	})
	return b.BytesOrPanic()
}

// signed is a Certificate (RFC 5280 section 4.1): what was signed, the
// algorithm once more, and the signature.
func signed(tbs []byte, suite Suite, sig Signature) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(suite.algorithmIdentifier())
		b.AddASN1BitString(sig.ASN1())
	})
	return b.BytesOrPanic()
}

func integer(n uint64) []byte {
	var b cryptobyte.Builder
	b.AddASN1Uint64(n)
	return b.BytesOrPanic()
}

// authorityKeyID is an AuthorityKeyIdentifier with the key identifier alone.
func authorityKeyID(k PublicKey) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(X509KeyID(k)) })
	})
	return b.BytesOrPanic()
}

// x509DistributionPoints is a CRLDistributionPoints of one list that is under
// any of the URLs (RFC 5280 section 4.2.1.13).
func x509DistributionPoints(urls []string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(x509DistributionPoint(urls)) })
	return b.BytesOrPanic()
}

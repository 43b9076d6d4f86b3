package tpm

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// An EKCertificate is a manufacturer's word that a key is the endorsement key
// of a chip that it made (TCG EK Credential Profile 2.5, section 3).
type EKCertificate struct {
	Cert         *x509.Certificate
	Manufacturer string // as certified, such as "id:49465800"
	Model        string
	Version      string // of the firmware at manufacture, such as "id:000700ff"
}

// Vendor returns the manufacturer by its TCG vendor identifier, as [Info] has
// it, such as "IFX"; what is not one is returned as it is certified.
func (c *EKCertificate) Vendor() string {
	id, ok := strings.CutPrefix(c.Manufacturer, "id:")
	n, err := strconv.ParseUint(id, 16, 32)
	if !ok || err != nil {
		return c.Manufacturer
	}
	return letters(uint32(n))
}

// Extended key usages and attributes of the TCG (EK Credential Profile 2.5,
// section 3.1).
var (
	oidEKCertificate       = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidPlatformCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 2}
	oidManufacturer        = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel               = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion             = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSubjectAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
)

const (
	maxCertificate = 8192
	maxChain       = 8
	maxDescription = 256
)

// ParseEKCertificate parses a DER certificate and reads the chip's
// description from its subject alternative name. It does not judge it; see
// [EKCertificate.Verify].
func ParseEKCertificate(der []byte) (*EKCertificate, error) {
	if len(der) > maxCertificate {
		return nil, evidence(LinkEKCertificate, "%w: %d bytes, at most %d", ErrMalformed, len(der), maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, evidence(LinkEKCertificate, "%w: %w", ErrMalformed, err)
	}
	c := &EKCertificate{Cert: cert}
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		if err := c.readDescription(e.Value); err != nil {
			return nil, evidence(LinkEKCertificate, "subject alternative name: %w", err)
		}
		// The name is critical, because the subject is empty, and the
		// standard library does not know directory names. Now it is
		// understood.
		cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	}
	return c, nil
}

// readDescription reads a GeneralNames (RFC 5280 section 4.2.1.6) that holds
// nothing but directory names.
func (c *EKCertificate) readDescription(names []byte) error {
	s := cryptobyte.String(names)
	var list cryptobyte.String
	if !s.ReadASN1(&list, cbasn1.SEQUENCE) || !s.Empty() || list.Empty() {
		return ErrMalformed
	}
	for !list.Empty() {
		var name cryptobyte.String
		if !list.ReadASN1(&name, cbasn1.Tag(4).ContextSpecific().Constructed()) {
			return fmt.Errorf("%w: a name that is not a directory name", ErrMalformed)
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(name, &rdns); err != nil || len(rest) != 0 {
			return fmt.Errorf("%w: directory name", ErrMalformed)
		}
		for _, set := range rdns {
			for _, attribute := range set {
				if err := c.describe(attribute); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *EKCertificate) describe(a pkix.AttributeTypeAndValue) error {
	var field *string
	switch {
	case a.Type.Equal(oidManufacturer):
		field = &c.Manufacturer
	case a.Type.Equal(oidModel):
		field = &c.Model
	case a.Type.Equal(oidVersion):
		field = &c.Version
	default:
		return nil
	}
	value, ok := a.Value.(string)
	if !ok || len(value) > maxDescription || *field != "" {
		return fmt.Errorf("%w: attribute %v", ErrMalformed, a.Type)
	}
	*field = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, value)
	return nil
}

// Verify checks that the certificate is an endorsement key's and that one of
// the roots stands behind it, by way of the chain that the chip carried and
// of whatever intermediates are among the roots; else it is [ErrNoRoot]. A
// platform certificate of the same manufacturer is [ErrPlatformCertificate].
func (c *EKCertificate) Verify(chain [][]byte, roots *x509.CertPool, at time.Time) error {
	usages := c.Cert.UnknownExtKeyUsage
	switch {
	case slices.ContainsFunc(usages, oidPlatformCertificate.Equal):
		return &EvidenceError{LinkEKCertificate, ErrPlatformCertificate}
	case !slices.ContainsFunc(usages, oidEKCertificate.Equal):
		return evidence(LinkEKCertificate, "%w: extended key usage 2.23.133.8.1 is missing", ErrAttribute)
	case c.Cert.IsCA:
		return evidence(LinkEKCertificate, "%w: it is a certificate authority's", ErrAttribute)
	case len(chain) > maxChain:
		return evidence(LinkEKCertificate, "%w: %d certificates in the chain, at most %d", ErrMalformed, len(chain), maxChain)
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain {
		if len(der) > maxCertificate {
			return evidence(LinkEKCertificate, "%w: %d bytes in the chain, at most %d", ErrMalformed, len(der), maxCertificate)
		}
		issuer, err := x509.ParseCertificate(der)
		if err != nil {
			return evidence(LinkEKCertificate, "%w: chain: %w", ErrMalformed, err)
		}
		intermediates.AddCert(issuer)
	}
	if roots == nil {
		// The library takes nil for the system's roots.
		roots = x509.NewCertPool()
	}
	_, err := c.Cert.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return evidence(LinkEKCertificate, "%w: %w", ErrNoRoot, err)
	}
	return nil
}

// Matches checks that the certificate is over this endorsement key.
func (c *EKCertificate) Matches(key EndorsementKey) error {
	certified, ok := c.Cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || key.key == nil || !certified.Equal(key.key) {
		return evidence(LinkEKCertificate, "%w: it is over another key", ErrAttribute)
	}
	return nil
}

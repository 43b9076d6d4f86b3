package papertpm

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery/tpm"
)

// Names of the TCG in EK certificates (EK Credential Profile 2.5, section
// 3.1), and two of X.509.
var (
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion        = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSpecification  = asn1.ObjectIdentifier{2, 23, 133, 2, 16}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidDirectoryAttrs = asn1.ObjectIdentifier{2, 5, 29, 9}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	tagDirectoryName  = cbasn1.Tag(4).ContextSpecific().Constructed()
)

// certify issues the EK certificate of a chip that describes itself as info.
func (m *Maker) certify(key crypto.PublicKey, info tpm.Info) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	description, err := describe(info)
	if err != nil {
		return nil, err
	}
	specification, err := specify()
	if err != nil {
		return nil, err
	}
	// What an EK does is decrypt; how that is called depends on the algorithm.
	usage := x509.KeyUsageKeyAgreement
	if _, ok := key.(*rsa.PublicKey); ok {
		usage = x509.KeyUsageKeyEncipherment
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: made, NotAfter: forever,
		BasicConstraintsValid: true, KeyUsage: usage,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions: []pkix.Extension{
			// Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
			{Id: oidSubjectAltName, Critical: true, Value: description},
			{Id: oidDirectoryAttrs, Value: specification},
		},
	}
	return x509.CreateCertificate(rand.Reader, template, m.issuer, key, m.key)
}

// describe is a GeneralNames with one directory name that says who made the
// chip, what it is and which firmware it had then.
func describe(info tpm.Info) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tagDirectoryName, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addRDN(b, oidManufacturer, fmt.Sprintf("id:%08X", vendorID(info.Manufacturer)))
				addRDN(b, oidModel, info.Vendor)
				addRDN(b, oidVersion, fmt.Sprintf("id:%08X", info.Firmware>>32))
			})
		})
	})
	return b.Bytes()
}

// addRDN writes a relative name of one attribute. The profile wants a
// UTF8String also where a PrintableString would do.
func addRDN(b *cryptobyte.Builder, attribute asn1.ObjectIdentifier, value string) {
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(attribute)
			b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

// specify is a SubjectDirectoryAttributes that names the specification: family
// 2.0, level 0, revision 1.64.
func specify() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidSpecification)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte("2.0")) })
					b.AddASN1Int64(0)
					b.AddASN1Int64(164)
				})
			})
		})
	})
	return b.Bytes()
}

// vendorID is the TCG vendor identifier as a number: four letters, padded with
// zeros.
func vendorID(letters string) uint32 {
	var id uint32
	for i := range 4 {
		id <<= 8
		if i < len(letters) {
			id |= uint32(letters[i])
		}
	}
	return id
}

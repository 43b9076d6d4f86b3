package ekroots

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
)

// What is read at most. Microsoft's collection of all vendors' certificates
// has some hundreds without its own.
const (
	maxFile         = 1 << 20 // bytes
	maxCertificates = 1000    // in a file, and in all files of a directory
)

var (
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // TCG EK Credential Profile 2.5, section 3.1
	oidKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// parse reads PEM certificates with comments between them, or a single one in
// DER. Where pem.Decode passes over what it does not understand, this is an
// error.
func parse(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), maxFile)
	}
	// DER first, because a name in it may look like PEM.
	cert, err := x509.ParseCertificate(data)
	if err == nil {
		return []*x509.Certificate{cert}, nil
	}
	blocks := bytes.Count(data, []byte("-----BEGIN"))
	switch {
	case blocks == 0:
		return nil, fmt.Errorf("%w: no PEM block, and as DER: %w", ErrNotCertificate, err)
	case blocks > maxCertificates:
		return nil, fmt.Errorf("%w: %d certificates, at most %d", ErrTooLarge, blocks, maxCertificates)
	}
	certs := make([]*x509.Certificate, 0, blocks)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: PEM block %d is a %q", ErrNotCertificate, len(certs)+1, line(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: PEM block %d: %w", ErrNotCertificate, len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) != blocks {
		return nil, fmt.Errorf("%w: %d PEM blocks begin, %d are whole", ErrNotCertificate, blocks, len(certs))
	}
	return certs, nil
}

// check says whether the certificate may be an anchor: of an authority, for
// signing certificates (RFC 5280, section 4.2.1.3 and 4.2.1.9). Without the
// key usage extension a key may be used for all.
func check(cert *x509.Certificate) error {
	switch {
	case !cert.IsCA && slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal):
		return fmt.Errorf("%w: issued by %q", ErrEKCertificate, line(cert.Issuer.String()))
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return fmt.Errorf("%w: basicConstraints of %q do not say cA", ErrNotCA, line(cert.Subject.String()))
	case cert.KeyUsage&x509.KeyUsageCertSign == 0 && hasKeyUsage(cert):
		return fmt.Errorf("%w: keyUsage of %q does not say keyCertSign", ErrNotCA, line(cert.Subject.String()))
	}
	return nil
}

func hasKeyUsage(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidKeyUsage) {
			return true
		}
	}
	return false
}

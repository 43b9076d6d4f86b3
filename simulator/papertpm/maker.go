package papertpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// A Maker is a manufacturer of paper chips: a certificate authority of two
// tiers, as swtpm's manufacturer is, in memory. Its methods may be called
// concurrently.
type Maker struct {
	root, issuer *x509.Certificate
	key          *ecdsa.PrivateKey // the issuer's
	primes       primes            // of RSA endorsement keys
}

// Chips were made before any clock that a test may set, and EK certificates do
// not expire: the profile recommends the time of RFC 5280 section 4.1.2.5.
var (
	made    = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// NewMaker makes a manufacturer with keys of its own.
func NewMaker() (*Maker, error) {
	root, rootKey, err := newCA("papertpm root", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	issuer, key, err := newCA("papertpm EK issuer", root, rootKey)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	return &Maker{root: root, issuer: issuer, key: key}, nil
}

// newCA makes a CA under the parent, or a root if there is none.
func newCA(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: made, NotAfter: forever,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// newSerial returns a positive number of at most 16 bytes.
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Roots returns the root and the intermediate that signs EK certificates. The
// chips carry no chain, as swtpm's do not, so whoever verifies them needs both.
func (m *Maker) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(m.root)
	pool.AddCert(m.issuer)
	return pool
}

// RootsPEM returns the same certificates for a coordinator's configuration.
func (m *Maker) RootsPEM() []byte {
	var all []byte
	for _, cert := range []*x509.Certificate{m.root, m.issuer} {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return all
}

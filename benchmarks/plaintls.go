package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/chancery-pki/chancery"
)

// A plainCA is what machines have who do not have Chancery: a root, an
// intermediate, and certificates for client and server. All keys are P-256.
type plainCA struct {
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey // the intermediate's
	roots              *x509.CertPool
}

func newPlainCA() (*plainCA, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &plainCA{roots: x509.NewCertPool()}
	if ca.root, err = plainCertificate("root", true, nil, rootKey, rootKey); err != nil {
		return nil, err
	}
	ca.roots.AddCert(ca.root)
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	ca.intermediate, err = plainCertificate("intermediate", true, ca.root, ca.key, rootKey)
	return ca, err
}

// plainCertificate certifies a key; without an issuer it is its own.
func plainCertificate(name string, isCA bool, issuer *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(7 * 24 * time.Hour),
		BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.DNSNames = []string{name}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issue returns a new key with its certificate and the intermediate's.
func (ca *plainCA) issue(name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := plainCertificate(name, false, ca.intermediate, key, ca.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.intermediate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// server and client return configurations for mutual TLS that have all that
// does not concern certificates in common with those of nodes.
func (ca *plainCA) server(own *tls.Certificate) *tls.Config {
	c := plainConfig(own)
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.roots
	return c
}

func (ca *plainCA) client(own *tls.Certificate, name string) *tls.Config {
	c := plainConfig(own)
	c.RootCAs, c.ServerName = ca.roots, name
	return c
}

func plainConfig(own *tls.Certificate) *tls.Config {
	like := chancery.ServerConfig(chancery.TLSOptions{})
	return &tls.Config{Certificates: []tls.Certificate{*own}, MinVersion: like.MinVersion, CurvePreferences: like.CurvePreferences, NextProtos: like.NextProtos,
		SessionTicketsDisabled: like.SessionTicketsDisabled}
}

// A plainFiles names the files that other programs read: the root, and the
// chain and the key of each of two ends.
type plainFiles struct {
	Root      string
	Near, Far struct{ Chain, Key string }
}

// The names of the two ends.
const nearName, farName = "near.example", "far.example"

func (ca *plainCA) save(dir string) (f *plainFiles, err error) {
	f = &plainFiles{Root: filepath.Join(dir, "root.pem")}
	if err := writePEM(f.Root, "CERTIFICATE", ca.root.Raw); err != nil {
		return nil, err
	}
	for name, end := range map[string]*struct{ Chain, Key string }{nearName: &f.Near, farName: &f.Far} {
		c, err := ca.issue(name)
		if err != nil {
			return nil, err
		}
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			return nil, err
		}
		end.Chain, end.Key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
		if err := writePEM(end.Chain, "CERTIFICATE", c.Certificate...); err != nil {
			return nil, err
		}
		if err := writePEM(end.Key, "PRIVATE KEY", key); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func writePEM(path, kind string, blocks ...[]byte) error {
	var b []byte
	for _, der := range blocks {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return os.WriteFile(path, b, 0o600)
}

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	encoding "encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/cloudflare/cfssl/config"
	cflog "github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// crypto11Key is the token's key as crypto11 has it.
func crypto11Key(j *job) (crypto.Signer, error) {
	pin, err := os.ReadFile(j.PINFile)
	if err != nil {
		return nil, err
	}
	// One session is the library's own.
	c, err := crypto11.Configure(&crypto11.Config{Path: j.Module, TokenLabel: j.Token, Pin: string(pin), MaxSessions: j.Callers + 1})
	if err != nil {
		return nil, err
	}
	key, err := c.FindKeyPair(nil, []byte(j.Key))
	if err == nil && key == nil {
		err = fmt.Errorf("no key %q", j.Key)
	}
	return key, err
}

// openCrypto11 has the standard library write certificates, and crypto11 sign.
func openCrypto11(j *job, ca *x509.Certificate, _ []*request) (issuer, error) {
	key, err := crypto11Key(j)
	if err != nil {
		return nil, err
	}
	return standard(ca, key), nil
}

// makeOwn has the key sign its own certificate.
func makeOwn(j *job) error {
	key, err := crypto11Key(j)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return os.WriteFile(j.CA, der, 0o600)
}

func standard(ca *x509.Certificate, key crypto.Signer) issuer {
	return func(r *request) ([]byte, error) {
		serial := make([]byte, 16)
		rand.Read(serial)
		now := time.Now()
		return x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes(serial[1:]), Subject: pkix.Name{CommonName: r.name}, DNSNames: []string{r.name},
			NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		}, ca, r.key.Public(), key)
	}
}

// openPKCS11 has the standard library write certificates, which verifies them
// too, and the binding itself sign.
func openPKCS11(j *job, ca *x509.Certificate, _ []*request) (issuer, error) {
	key, err := openRawKey(j, ca)
	if err != nil {
		return nil, err
	}
	return standard(ca, key), nil
}

// openBare is the least that can be done: the bytes of a certificate with
// another serial number, name and key in it, and a signature at which nobody
// looks.
func openBare(j *job, ca *x509.Certificate, requests []*request) (issuer, error) {
	key, err := openRawKey(j, ca)
	if err != nil {
		return nil, err
	}
	first := requests[0]
	der, err := standard(ca, key)(first)
	if err != nil {
		return nil, err
	}
	template, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	point, err := first.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	var algorithm cryptobyte.Builder
	algorithm.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(encoding.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}) // ecdsa-with-SHA256
	})
	identifier := algorithm.BytesOrPanic()
	return func(r *request) ([]byte, error) {
		serial := make([]byte, len(template.SerialNumber.Bytes()))
		rand.Read(serial)
		serial[0] = template.SerialNumber.Bytes()[0]
		own, err := r.key.PublicKey.Bytes()
		if err != nil {
			return nil, err
		}
		tbs := bytes.Replace(template.RawTBSCertificate, template.SerialNumber.Bytes(), serial, 1)
		tbs = bytes.ReplaceAll(tbs, []byte(first.name), []byte(r.name)) // names are as long as each other
		tbs = bytes.Replace(tbs, point, own, 1)
		digest := sha256.Sum256(tbs)
		sig, err := key.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		var b cryptobyte.Builder
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(tbs)
			b.AddBytes(identifier)
			b.AddASN1BitString(sig)
		})
		return b.Bytes()
	}, nil
}

// openRawKey opens a session for each caller.
func openRawKey(j *job, ca *x509.Certificate) (*rawKey, error) {
	pin, err := os.ReadFile(j.PINFile)
	if err != nil {
		return nil, err
	}
	p := pkcs11.New(j.Module)
	if p == nil {
		return nil, fmt.Errorf("cannot load %s", j.Module)
	}
	if err := p.Initialize(); err != nil {
		return nil, err
	}
	slots, err := p.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil || info.Label != j.Token {
			continue
		}
		k := &rawKey{p: p, public: ca.PublicKey, sessions: make(chan pkcs11.SessionHandle, j.Callers)}
		for i := range j.Callers {
			s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				if err := p.Login(s, pkcs11.CKU_USER, string(pin)); err != nil {
					return nil, err
				}
				if err := k.find(s, j.Key); err != nil {
					return nil, err
				}
			}
			k.sessions <- s
		}
		return k, nil
	}
	return nil, fmt.Errorf("no token %q", j.Token)
}

// A rawKey signs with C_Sign.
type rawKey struct {
	p        *pkcs11.Ctx
	key      pkcs11.ObjectHandle
	public   crypto.PublicKey
	sessions chan pkcs11.SessionHandle
}

func (k *rawKey) find(s pkcs11.SessionHandle, label string) error {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}
	if err := k.p.FindObjectsInit(s, template); err != nil {
		return err
	}
	found, _, err := k.p.FindObjects(s, 1)
	if err = errors.Join(err, k.p.FindObjectsFinal(s)); err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("no key %q", label)
	}
	k.key = found[0]
	return nil
}

func (k *rawKey) Public() crypto.PublicKey { return k.public }

func (k *rawKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	s := <-k.sessions
	defer func() { k.sessions <- s }()
	if err := k.p.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, k.key); err != nil {
		return nil, err
	}
	raw, err := k.p.Sign(s, digest)
	if err != nil {
		return nil, err
	}
	half := len(raw) / 2
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:half]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[half:]))
	})
	return b.Bytes()
}

// openCFSSL has cfssl's signer sign requests, with a key by crypto11.
func openCFSSL(j *job, ca *x509.Certificate, requests []*request) (issuer, error) {
	cflog.Level = cflog.LevelError
	key, err := crypto11Key(j)
	if err != nil {
		return nil, err
	}
	policy := &config.Signing{Default: &config.SigningProfile{Usage: []string{"digital signature", "server auth", "client auth"}, Expiry: 24 * time.Hour, ExpiryString: "24h"}}
	s, err := local.NewSigner(key, ca, x509.ECDSAWithSHA256, policy)
	if err != nil {
		return nil, err
	}
	for _, r := range requests {
		if r.body, err = csr(r.name, r.key); err != nil {
			return nil, err
		}
	}
	return func(r *request) ([]byte, error) {
		out, err := s.Sign(signer.SignRequest{Hosts: []string{r.name}, Request: string(r.body)})
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(out)
		if block == nil {
			return nil, errors.New("not PEM")
		}
		return block.Bytes, nil
	}, nil
}

// csr is a certificate request, PEM.
func csr(name string, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

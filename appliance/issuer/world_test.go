package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/merkle"
)

// A softKey is an X.509 issuer's key that a test can make certificates with,
// too.
type softKey struct {
	*ecdsa.PrivateKey
	public chancery.PublicKey
}

func newSoftKey(t testing.TB) *softKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &softKey{private, public}
}

// signer is the key as a token has it.
type signer struct{ *softKey }

func (s signer) PublicKey() chancery.PublicKey { return s.public }

func (s signer) Sign(_ context.Context, fleet chancery.FleetID, what chancery.Statement) (chancery.Signature, error) {
	suite := s.public.Suite()
	h := suite.Hash().New()
	h.Write(chancery.Message(fleet, suite, what))
	der, err := s.PrivateKey.Sign(rand.Reader, h.Sum(nil), suite.Hash())
	if err != nil {
		return nil, err
	}
	return chancery.NewSignatureASN1(suite, der)
}

// A world is a coordinator whose nodes are on paper, with an X.509 issuer, and
// third parties that have the certificate of that.
type world struct {
	*appliancetest.Coordinator
	*issuer.Issuer
	t      *testing.T
	key    *softKey
	signer *appliancetest.Signer // what the issuer signs with
	cert   *x509.Certificate     // the issuer's own
	dir    string                // of the third parties
}

func newWorld(t *testing.T, nodes int) *world {
	t.Helper()
	w := &world{t: t, key: newSoftKey(t)}
	w.Coordinator = appliancetest.NewPaper(t, nodes, func(p *chancery.Pointer) {
		p.X509Issuer = w.key.public
		for _, u := range []string{"https://one.example:8443", "https://two.example:8443"} {
			p.Endpoints = append(p.Endpoints, chancery.Endpoint{URL: u, Pins: [][32]byte{{1}}})
		}
	})
	w.signer = appliancetest.NewSigner(signer{w.key})
	var err error
	w.Issuer, err = issuer.New(issuer.Config{Store: w.Store, Pointer: w.Pointer, Signer: w.signer, Current: func() *chancery.CRL { return w.Ledger.CRL() }})
	if err != nil {
		t.Fatal(err)
	}
	// In a path that a Unix socket's fits too.
	if w.dir, err = os.MkdirTemp("", "x509-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	w.cert = w.own()
	w.write("ca.pem", "CERTIFICATE", w.cert.Raw)
	return w
}

func (w *world) ca() merkle.TrustAnchorID { return w.Pointer.Current().ID }

// all is the list of all, partition one of them.
func (w *world) all() issuer.Part { return issuer.Part{CA: w.ca()} }

func (w *world) partition(n uint64) issuer.Part {
	return issuer.Part{CA: w.ca(), Log: 1, Partition: n}
}

func (w *world) points(partition uint64) []string {
	return chancery.X509DistributionPoint(w.Pointer, w.ca(), 1, partition)
}

// own is the issuer's own certificate.
func (w *world) own() *x509.Certificate {
	w.t.Helper()
	der, err := w.Issuer.CA(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return w.parse(der)
}

func (w *world) parse(der []byte) *x509.Certificate {
	w.t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// nc is the N:C of the log entry, or what of it matters here.
func (w *world) nc(index uint64) *chancery.Certificate {
	w.t.Helper()
	serial, err := merkle.NewSerial(1, index)
	if err != nil {
		w.t.Fatal(err)
	}
	now := w.Clock.Now().Truncate(time.Second)
	ns, err := signer{w.key}.Sign(w.t.Context(), w.Pointer.FleetID(), chancery.NewCeremony(nil)) // in place of N:S
	if err != nil {
		w.t.Fatal(err)
	}
	s := &chancery.Subject{Name: appliancetest.Paper(int(index)).Name, TrustDomain: w.Pointer.TrustDomain, DNSNames: []string{"node.example"}, NodeKey: newSoftKey(w.t).public,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), NS: chancery.DetachedNS{Created: now, Signature: ns}}
	nc, err := chancery.NewCertificate(s, w.ca(), serial, merkle.Proof{Subtree: merkle.Subtree{Start: index, End: index + 1}})
	if err != nil {
		w.t.Fatal(err)
	}
	return nc
}

// companion has the issuer make the certificate that third parties know the
// node of the log entry by.
func (w *world) companion(index uint64) *companion {
	w.t.Helper()
	key := newSoftKey(w.t)
	der, err := w.Certificate(w.t.Context(), w.nc(index), key.public)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &companion{cert: w.parse(der), key: key.PrivateKey, index: index}
	c.file = w.write(fmt.Sprintf("%d.pem", index), "CERTIFICATE", c.cert.Raw)
	return c
}

type companion struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	index uint64
	file  string
}

// revoke revokes certificates by their indexes.
func (w *world) revoke(code chancery.ReasonCode, indexes ...uint64) {
	w.t.Helper()
	var list strings.Builder
	for _, i := range indexes {
		fmt.Fprintf(&list, "1:%d\n", i)
	}
	_, err := w.Authority.Revoke(w.t.Context(), "op", authority.RevokeRequest{Scope: authority.Certificates, Code: code},
		authority.ReadSelectors(authority.Certificates, strings.NewReader(list.String())), nil)
	if err != nil {
		w.t.Fatal(err)
	}
}

// list returns a list whose signature a third party has verified.
func (w *world) list(part issuer.Part) (*issuer.List, *x509.RevocationList) {
	w.t.Helper()
	l, err := w.CRL(w.t.Context(), part)
	if err != nil {
		w.t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(l.DER)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := parsed.CheckSignatureFrom(w.cert); err != nil {
		w.t.Fatal(err)
	}
	return l, parsed
}

// export writes lists to a file, as crl export does.
func (w *world) export(name string, parts ...issuer.Part) (file string) {
	w.t.Helper()
	var b []byte
	for _, p := range parts {
		l, _ := w.list(p)
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.DER})...)
	}
	return w.file(name, b)
}

func (w *world) write(name, kind string, der []byte) (file string) {
	w.t.Helper()
	return w.file(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (w *world) file(name string, b []byte) (file string) {
	w.t.Helper()
	file = filepath.Join(w.dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

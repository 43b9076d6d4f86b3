package ekroots

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// verify is what package tpm does with a pool.
func verify(t *testing.T, dir string, ek *x509.Certificate, chain ...*x509.Certificate) error {
	t.Helper()
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain {
		intermediates.AddCert(cert)
	}
	leaf := *ek
	leaf.UnhandledCriticalExtensions = nil // the directory name, which package tpm reads
	_, err = leaf.Verify(x509.VerifyOptions{Roots: set.Pool(), Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// What the package comment says of anchors is so.
func TestAnchors(t *testing.T) {
	root := newMaker(t, "root", nil)
	below := newMaker(t, "below", root)
	ek := below.newEK(t)

	if err := verify(t, t.TempDir(), ek, below.cert, root.cert); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("nobody stands behind it: %v", err)
	}
	for what, c := range map[string]struct {
		file, chain []*x509.Certificate
		fails       bool
	}{
		"the root in the store, the intermediate with the chip": {[]*x509.Certificate{root.cert}, []*x509.Certificate{below.cert}, false},
		"both in the store":                      {[]*x509.Certificate{root.cert, below.cert}, nil, false},
		"the intermediate alone in the store":    {[]*x509.Certificate{below.cert}, nil, false},
		"the root in the store, no intermediate": {[]*x509.Certificate{root.cert}, nil, true},
	} {
		dir := t.TempDir()
		writeFile(t, dir, "x.pem", pemOf(c.file...))
		if err := verify(t, dir, ek, c.chain...); (err != nil) != c.fails {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Certificates that the verifier has reservations about are loaded and listed.
// It accepts no chain through one with a critical extension that it does not
// know, which is what it takes name constraints on directory names for.
func TestReservations(t *testing.T) {
	extension := func(id asn1.ObjectIdentifier, value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: true, Value: value})
		}
	}
	// NameConstraints { permittedSubtrees { directoryName {} } }
	directory := []byte{0x30, 0x08, 0xa0, 0x06, 0x30, 0x04, 0xa4, 0x02, 0x30, 0x00}
	for what, c := range map[string]struct {
		change func(*x509.Certificate)
		fails  bool
		note   string
	}{
		"unknown critical extension":    {extension(asn1.ObjectIdentifier{1, 2, 3, 4}, []byte{5, 0}), true, "1.2.3.4"},
		"constraint on directory names": {extension(asn1.ObjectIdentifier{2, 5, 29, 30}, directory), true, "2.5.29.30"},
		"constraint on DNS names, permits": {func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.org"}
		}, false, ""},
		"constraint on DNS names, excludes": {func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.ExcludedDNSDomains = true, []string{""} }, false, ""},
		"expired":                           {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }, true, "expired"},
		"not valid yet":                     {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }, true, "not valid yet"},
	} {
		m := newMaker(t, "root", nil, c.change)
		dir := t.TempDir()
		writeFile(t, dir, "x.pem", pemOf(m.cert))
		if err := verify(t, dir, m.newEK(t)); (err != nil) != c.fails {
			t.Errorf("%s: %v", what, err)
		}
		notes := Certificate{Cert: m.cert}.Notes(now)
		if (c.note == "") != (len(notes) == 0) || c.note != "" && !strings.Contains(notes[0], c.note) {
			t.Errorf("%s: notes %q", what, notes)
		}
	}
}

// Infineon's oldest root is an intermediate that is signed with SHA-1: it is
// believed because it is carried, not because of who signed it.
func TestSHA1Intermediate(t *testing.T) {
	carried, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) Certificate {
		i := slices.IndexFunc(carried, func(c Certificate) bool { return c.Cert.Subject.CommonName == name })
		if i < 0 {
			t.Fatalf("%s is not carried", name)
		}
		return carried[i]
	}
	infineon, verisign := find("IFX TPM EK Root CA"), find("VeriSign Trusted Platform Module Root CA")
	if infineon.Root() || !verisign.Root() {
		t.Error("root and intermediate are mistaken for each other")
	}
	if err := infineon.Cert.CheckSignatureFrom(verisign.Cert); !errors.As(err, new(x509.InsecureAlgorithmError)) {
		t.Errorf("the library verifies SHA-1: %v", err)
	}
	if err := verify(t, t.TempDir(), infineon.Cert); err != nil {
		t.Error(err)
	}
}

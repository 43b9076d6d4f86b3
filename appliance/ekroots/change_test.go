package ekroots

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkDirectory checks that a set can be loaded from the directory, and that
// the operator's certificates in it are these.
func checkDirectory(t *testing.T, dir string, want ...*x509.Certificate) {
	t.Helper()
	own, err := readDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(own, want, func(c Certificate, x *x509.Certificate) bool { return c.Cert.Equal(x) }) {
		t.Fatalf("the directory holds %d certificates, want %d, or others", len(own), len(want))
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || info.Mode() != 0o644 || strings.HasPrefix(file.Name(), ".") {
			t.Errorf("%s: %v, %v", file.Name(), info.Mode(), err)
		}
	}
}

func TestAddAndRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ek-roots") // made by Add
	root := newMaker(t, "root", nil)
	below := newMaker(t, "below", root)
	other := newMaker(t, "other", nil)

	added, err := Add(dir, "Some Vendor (2026).crt", root.cert.Raw, now)
	if err != nil || len(added) != 1 || added[0].File != "Some-Vendor--2026.pem" || !added[0].Cert.Equal(root.cert) {
		t.Fatalf("%v, %v", added, err)
	}
	checkDirectory(t, dir, root.cert)

	// Only what is new, and only once; under a name that is free.
	carried, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	added, err = Add(dir, "../Some Vendor (2026).pem", pemOf(root.cert, below.cert, carried[3].Cert, below.cert, other.cert), now)
	if err != nil || len(added) != 2 || added[0].File == "Some-Vendor--2026.pem" || !strings.HasPrefix(added[0].File, "Some-Vendor--2026-") {
		t.Fatalf("%v, %v", added, err)
	}
	checkDirectory(t, dir, below.cert, other.cert, root.cert)

	// Each can be removed; its neighbour in the file stays.
	print := strings.ToUpper(added[0].Fingerprint())
	removed, err := Remove(dir, print[:2]+":"+print[2:])
	if err != nil || len(removed) != 1 || removed[0].File != added[0].File {
		t.Fatalf("%v, %v", removed, err)
	}
	checkDirectory(t, dir, other.cert, root.cert)
	for _, m := range []*maker{other, root} {
		if _, err := Remove(dir, Certificate{Cert: m.cert}.Fingerprint()[:8]); err != nil {
			t.Fatal(err)
		}
	}
	checkDirectory(t, dir)
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestAddFile(t *testing.T) {
	dir := t.TempDir()
	root := newMaker(t, "root", nil)
	writeFile(t, dir, "from-vendor.cer", root.cert.Raw)
	added, err := AddFile(filepath.Join(dir, "ek-roots"), filepath.Join(dir, "from-vendor.cer"), now)
	if err != nil || len(added) != 1 || added[0].File != "from-vendor.pem" {
		t.Errorf("%v, %v", added, err)
	}
	writeFile(t, dir, "large", make([]byte, maxFile+1))
	for file, want := range map[string]error{"large": ErrTooLarge, "absent": os.ErrNotExist, ".": ErrNotCertificate} {
		if _, err := AddFile(filepath.Join(dir, "ek-roots"), filepath.Join(dir, file), now); !errors.Is(err, want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The same subject and key is another certificate if its validity is another.
func TestAddSuccessor(t *testing.T) {
	dir := t.TempDir()
	root := newMaker(t, "root", nil)
	template := *root.cert
	template.NotAfter = template.NotAfter.AddDate(10, 0, 0)
	successor := sign(t, &template, root, root.key)
	for _, cert := range []*x509.Certificate{root.cert, successor} {
		if _, err := Add(dir, "root", cert.Raw, now); err != nil {
			t.Fatal(err)
		}
	}
	if own, err := readDir(dir); err != nil || len(own) != 2 {
		t.Errorf("%d certificates, %v", len(own), err)
	}
}

func TestAddRefuses(t *testing.T) {
	dir := t.TempDir()
	root := newMaker(t, "root", nil)
	if _, err := Add(dir, "root", root.cert.Raw, now); err != nil {
		t.Fatal(err)
	}
	carried, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	fine := newMaker(t, "fine", nil).cert
	leaf := newMaker(t, "leaf", root, func(c *x509.Certificate) { c.IsCA = false })
	bare := newMaker(t, "bare", root, func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false })
	signs := newMaker(t, "signs other things", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	old := newMaker(t, "old", nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })
	var many []*x509.Certificate
	for range maxCertificates {
		many = append(many, fine)
	}
	for _, c := range []struct {
		what string
		data []byte
		want error
	}{
		{"text", []byte("-- no --"), ErrNotCertificate},
		{"DER with something behind it", append(slices.Clone(fine.Raw), 0), ErrNotCertificate},
		{"a leaf", pemOf(fine, leaf.cert), ErrNotCA},
		{"no basicConstraints", bare.cert.Raw, ErrNotCA},
		{"no keyCertSign", signs.cert.Raw, ErrNotCA},
		{"an EK certificate", pemOf(fine, root.newEK(t)), ErrEKCertificate},
		{"expired", pemOf(fine, old.cert), ErrExpired},
		{"present", root.cert.Raw, ErrPresent},
		{"carried", pemOf(carried[0].Cert, root.cert), ErrPresent},
		{"large", make([]byte, maxFile+1), ErrTooLarge},
		{"many", pemOf(append(many, fine)...), ErrTooLarge},
	} {
		added, err := Add(dir, "x", c.data, now)
		if !errors.Is(err, c.want) || hint(err) == "" || added != nil {
			t.Errorf("%s: %v, %v", c.what, added, err)
		}
	}
	checkDirectory(t, dir, root.cert)

	// What a left-out vendor made can be added by itself.
	if _, err := Add(dir, "x", carried[0].Cert.Raw, now, carried[0].Vendor); err != nil {
		t.Error(err)
	}
	// A directory that is not in order is not added to.
	writeFile(t, dir, "broken.pem", []byte("x"))
	if _, err := Add(dir, "x", fine.Raw, now); err == nil || !strings.Contains(err.Error(), "broken.pem") {
		t.Errorf("%v", err)
	}
}

func TestRemoveRefuses(t *testing.T) {
	dir := t.TempDir()
	carried, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	for print, want := range map[string]error{
		carried[0].Fingerprint():      ErrShipped,
		strings.Repeat("0", 64):       ErrUnknown,
		strings.Repeat("0", 66):       ErrFingerprint,
		"1234567":                     ErrFingerprint,
		"":                            ErrFingerprint,
		"../../../etc/passwd":         ErrFingerprint,
		"CN=AMDTPM":                   ErrFingerprint,
		"sha256:" + "00000000":        ErrFingerprint,
		carried[0].Fingerprint()[:10]: ErrShipped,
	} {
		if _, err := Remove(dir, print); !errors.Is(err, want) || hint(err) == "" {
			t.Errorf("%q: %v", print, err)
		}
	}
}

// A certificate in two files is removed from both.
func TestRemoveFromAllFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := newMaker(t, "a", nil).cert, newMaker(t, "b", nil).cert
	writeFile(t, dir, "1.pem", pemOf(a))
	writeFile(t, dir, "2.pem", pemOf(b, a))
	removed, err := Remove(dir, Certificate{Cert: a}.Fingerprint())
	if err != nil || len(removed) != 2 {
		t.Fatalf("%v, %v", removed, err)
	}
	checkDirectory(t, dir, b)
}

// A name in a certificate cannot smuggle a PEM block into the file, nor
// anything into a terminal.
func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	evil := newMaker(t, "x\n-----BEGIN CERTIFICATE-----\n\x1b[2J", nil)
	added, err := Add(dir, "-----BEGIN\n/..", evil.cert.Raw, now)
	if err != nil {
		t.Fatal(err)
	}
	checkDirectory(t, dir, evil.cert)
	if s := added[0].Subject(); strings.ContainsAny(s, "\n\x1b") || strings.Contains(s, "-----") {
		t.Errorf("subject %q", s)
	}
}

func TestSanitise(t *testing.T) {
	for name, want := range map[string]string{
		"":                        "certificate",
		"..":                      "certificate",
		"/":                       "certificate",
		".pem":                    "certificate",
		"a.pem":                   "a",
		"../../etc/cron.d/x.pem":  "x",
		`C:\certs\Root CA.cer`:    "Root-CA",
		".hidden.pem":             "hidden",
		"OPTIGA(TM)_ECC.crt":      "OPTIGA-TM-_ECC",
		"Zürich.pem":              "Z-rich",
		"a\x00b\n.pem":            "a-b",
		strings.Repeat("x", 1000): strings.Repeat("x", 64),
	} {
		if got := sanitise(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

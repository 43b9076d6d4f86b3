package ekroots

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestLoad(t *testing.T) {
	carried, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	absent, err := Load(filepath.Join(t.TempDir(), "not-there"))
	if err != nil || len(absent.List()) != len(carried) {
		t.Fatalf("without a directory: %d certificates, %v", len(absent.List()), err)
	}

	dir := t.TempDir()
	root := newMaker(t, "root", nil)
	below := newMaker(t, "below", root)
	writeFile(t, dir, "b.pem", append([]byte("Bought in spring.\n"), pemOf(root.cert)...))
	writeFile(t, dir, "a.pem", pemOf(below.cert, carried[0].Cert)) // one that the program carries too
	writeFile(t, dir, ".b.pem-123", []byte("half a wri"))
	if err := os.Mkdir(filepath.Join(dir, "..data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b.pem", filepath.Join(dir, "c.pem")); err != nil {
		t.Fatal(err)
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range set.List()[len(carried):] {
		kind := "intermediate"
		if c.Root() {
			kind = "root"
		}
		got = append(got, c.Origin()+" "+kind+" "+c.Subject())
	}
	want := []string{"a.pem intermediate CN=below", "a.pem root " + carried[0].Subject(), "b.pem root CN=root", "c.pem root CN=root"}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if origin := set.List()[0].Origin(); origin != "vendor amd" {
		t.Errorf("origin %q", origin)
	}
	if !set.Pool().Equal(poolOf(set.List())) || set.Pool().Equal(poolOf(carried)) {
		t.Error("the pool is not the list")
	}

	few, err := Load(dir, "nuvoton", "atmel")
	if err != nil || slices.ContainsFunc(few.List(), func(c Certificate) bool { return c.Vendor == "nuvoton" || c.Vendor == "atmel" }) {
		t.Errorf("vendors left out are there: %v", err)
	}
	if _, err := Load(dir, "nuvotom"); !errors.Is(err, ErrVendor) || hint(err) == "" {
		t.Errorf("a vendor that is none: %v", err)
	}
}

func poolOf(list []Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c.Cert)
	}
	return pool
}

// A file that is not what it should be stops the load and is named.
func TestLoadFailsClosed(t *testing.T) {
	root := newMaker(t, "root", nil)
	good := pemOf(root.cert)
	key := []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	for _, c := range []struct {
		what, name string
		data       []byte
		want       error
	}{
		{"empty", "x.pem", nil, ErrNotCertificate},
		{"text", "x.pem", []byte("hello"), ErrNotCertificate},
		{"cut off", "x.pem", good[:len(good)-10], ErrNotCertificate},
		{"damaged before a good one", "x.pem", append(append([]byte("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"), good...), good...), ErrNotCertificate},
		{"damaged after a good one", "x.pem", append(slices.Clone(good), good[:100]...), ErrNotCertificate},
		{"a bit flipped in the encoding", "x.pem", []byte(strings.Replace(string(good), "MII", "MIJ", 1)), ErrNotCertificate},
		{"a key", "x.pem", append(slices.Clone(good), key...), ErrNotCertificate},
		{"an EK certificate", "x.pem", pemOf(root.cert, root.newEK(t)), ErrEKCertificate},
		{"large", "x.pem", make([]byte, maxFile+1), ErrTooLarge},
		{"many", "x.pem", []byte(strings.Repeat("-----BEGIN CERTIFICATE-----\n", maxCertificates+1)), ErrTooLarge},
		{"another name", "README", good, errStray},
	} {
		dir := t.TempDir()
		writeFile(t, dir, "good.pem", good)
		writeFile(t, dir, c.name, c.data)
		set, err := Load(dir)
		file, ok := errors.AsType[*FileError](err)
		if set != nil || !ok || !errors.Is(err, c.want) || file.File != filepath.Join(dir, c.name) || hint(err) == "" {
			t.Errorf("%s: %v, %v", c.what, set, err)
		}
	}

	for what, make := range map[string]func(file string) error{
		"a directory":      func(file string) error { return os.Mkdir(file, 0o755) },
		"a FIFO":           func(file string) error { return syscall.Mkfifo(file, 0o644) },
		"a link to a void": func(file string) error { return os.Symlink("void", file) },
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, "x.pem")); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); hint(err) == "" || !strings.Contains(err.Error(), "x.pem") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLoadLimitsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	half := []byte(strings.Repeat(string(pemOf(newMaker(t, "root", nil).cert)), maxCertificates/2+1))
	writeFile(t, dir, "a.pem", half)
	if _, err := Load(dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "b.pem", half)
	if _, err := Load(dir); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

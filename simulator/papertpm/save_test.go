package papertpm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// TestSavedMaker has whoever believes in a maker meet its chips in another
// process.
func TestSavedMaker(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "maker")
	m := must(papertpm.NewMaker())(t)
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	again := must(papertpm.LoadMaker(dir))(t)
	if !again.Roots().Equal(m.Roots()) || !bytes.Equal(must(os.ReadFile(papertpm.RootsFile(dir)))(t), m.RootsPEM()) {
		t.Error("the maker has other certificates than before")
	}
	for _, kind := range kinds {
		ek := must(must(again.New(papertpm.Options{EK: kind}))(t).EK())(t)
		if err := must(tpm.ParseEKCertificate(ek.Certificate))(t).Verify(nil, m.Roots(), time.Now()); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
	}
	files := must(os.ReadDir(dir))(t)
	for _, f := range files {
		if info := must(f.Info())(t); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
		text := string(must(os.ReadFile(filepath.Join(dir, f.Name())))(t))
		if strings.Contains(text, "PRIVATE KEY") && !strings.HasPrefix(text, "This key is a simulator's and protects nothing.") {
			t.Errorf("%s does not say what it is", f.Name())
		}
	}
	if len(files) != 2 {
		t.Errorf("%d files", len(files))
	}
	err := must(papertpm.NewMaker())(t).Save(dir)
	if _, ok := errors.AsType[*papertpm.MakerExistsError](err); !ok {
		t.Errorf("a maker was saved over another: %v", err)
	}
}

// TestBadMakers loads what nobody saved.
func TestBadMakers(t *testing.T) {
	if _, err := papertpm.LoadMaker(t.TempDir()); !errors.Is(err, papertpm.ErrNoMaker) {
		t.Errorf("%v, want %v", err, papertpm.ErrNoMaker)
	}
	other := t.TempDir()
	if err := must(papertpm.NewMaker())(t).Save(other); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(dir string) error{
		"another maker's key": func(dir string) error {
			return os.Rename(filepath.Join(other, "issuer-key.pem"), filepath.Join(dir, "issuer-key.pem"))
		},
		"no key":             func(dir string) error { return os.Remove(filepath.Join(dir, "issuer-key.pem")) },
		"an empty key file":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "issuer-key.pem"), nil, 0o600) },
		"empty certificates": func(dir string) error { return os.WriteFile(papertpm.RootsFile(dir), nil, 0o600) },
		"one certificate":    func(dir string) error { return os.WriteFile(papertpm.RootsFile(dir), half(t, dir), 0o600) },
		"two of the same kind": func(dir string) error {
			return os.WriteFile(papertpm.RootsFile(dir), bytes.Repeat(half(t, dir), 2), 0o600)
		},
	} {
		dir := t.TempDir()
		if err := must(papertpm.NewMaker())(t).Save(dir); err != nil {
			t.Fatal(err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := papertpm.LoadMaker(dir); err == nil || errors.Is(err, papertpm.ErrNoMaker) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// half is the first certificate of a saved maker.
func half(t *testing.T, dir string) []byte {
	t.Helper()
	text := must(os.ReadFile(papertpm.RootsFile(dir)))(t)
	const end = "-----END CERTIFICATE-----\n"
	return text[:bytes.Index(text, []byte(end))+len(end)]
}

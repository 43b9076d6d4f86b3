package softokn_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/internal/p11"
	"github.com/chancery-pki/chancery/simulator/softokn"
)

func newToken(t *testing.T, dir string) softokn.Instance {
	t.Helper()
	i, err := softokn.New(dir)
	if err != nil {
		t.Fatalf("%v: install libnss3 (make deps-test)", err)
	}
	return i
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open initialises the module as the URI in text says, with a session without
// login.
func open(t *testing.T, i softokn.Instance) *p11.Module {
	t.Helper()
	uri, err := hsm.ParseURI(i.URI.String())
	check(t, err)
	m, err := p11.Load(uri.ModulePath, uri.InitReserved)
	check(t, err)
	slot, err := m.Slot(uri.Token)
	check(t, err)
	check(t, m.Open(slot))
	return m
}

func pin(t *testing.T, i softokn.Instance) string {
	t.Helper()
	pin, err := p11.PIN(i.URI)
	check(t, err)
	return pin
}

func TestNew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `it's a "new" \ directory`)
	i := newToken(t, dir)
	info, err := os.Stat(filepath.Join(dir, "pin"))
	check(t, err)
	if info.Mode().Perm() != 0o600 || len(pin(t, i)) < 12 {
		t.Errorf("pin has mode %v and %d bytes", info.Mode(), len(pin(t, i)))
	}
	if strings.Contains(i.URI.String(), pin(t, i)) {
		t.Error("the PIN is in the uri")
	}
	if _, err := os.Stat(filepath.Join(dir, "key4.db")); err != nil {
		t.Error(err)
	}
	if _, err := softokn.New(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New in the directory of a token: %v, want %v", err, fs.ErrExist)
	}
}

// The parameters are not optional.
func TestParameters(t *testing.T) {
	i := newToken(t, t.TempDir())
	p := pkcs11.New(i.URI.ModulePath)
	defer p.Destroy()
	if err := p.Initialize(); err != pkcs11.Error(pkcs11.CKR_ARGUMENTS_BAD) {
		t.Errorf("C_Initialize without parameters: %v, want CKR_ARGUMENTS_BAD", err)
	}
}

// A key outlives the module, signs, and is what GenerateKey says it is.
func TestGenerateKey(t *testing.T) {
	i := newToken(t, t.TempDir())
	check(t, i.GenerateKey("ca"))
	check(t, i.GenerateKey("approval"))
	if err := i.GenerateKey("ca"); err == nil || !strings.Contains(err.Error(), "label already") {
		t.Errorf("a label twice: error %v", err)
	}
	if err := i.GenerateKey(""); err == nil {
		t.Error("a key without label")
	}

	m := open(t, i)
	defer func() { check(t, m.Close()) }()
	if err := m.Login(m.Session, pkcs11.CKU_USER, "not the PIN"); err != pkcs11.Error(pkcs11.CKR_PIN_INCORRECT) {
		t.Errorf("login with a wrong PIN: %v, want CKR_PIN_INCORRECT", err)
	}
	check(t, m.Login(m.Session, pkcs11.CKU_USER, pin(t, i)))
	private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
	check(t, err)
	public, err := m.Find(pkcs11.CKO_PUBLIC_KEY, "ca")
	check(t, err)
	id, err := m.Attribute(private, pkcs11.CKA_ID)
	check(t, err)
	if other, err := m.Attribute(public, pkcs11.CKA_ID); err != nil || len(id) == 0 || string(id) != string(other) {
		t.Errorf("CKA_ID %x of the private and %x of the public key: %v", id, other, err)
	}
	for kind, want := range map[uint]byte{
		pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
		pkcs11.CKA_SIGN: 1, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_UNWRAP: 0, pkcs11.CKA_DERIVE: 0, pkcs11.CKA_SIGN_RECOVER: 0,
	} {
		if got, err := m.Attribute(private, kind); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("attribute %#x is %x, want %02x: %v", kind, got, want, err)
		}
	}
	check(t, m.SignAndVerify("ca"))
}

// Tokens of two directories, one after the other in one process, do not see
// each other's keys.
func TestNewBeside(t *testing.T) {
	first, second := newToken(t, t.TempDir()), newToken(t, t.TempDir())
	check(t, first.GenerateKey("ca"))
	check(t, second.GenerateKey("ca"))
	var ids []string
	for _, i := range []softokn.Instance{first, second} {
		m := open(t, i)
		check(t, m.Login(m.Session, pkcs11.CKU_USER, pin(t, i)))
		private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
		check(t, err)
		id, err := m.Attribute(private, pkcs11.CKA_ID)
		check(t, err)
		ids = append(ids, string(id))
		check(t, m.Close())
	}
	if ids[0] == ids[1] {
		t.Errorf("both tokens have the key with CKA_ID %x", ids[0])
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct{ dir, says string }{
		"long": {filepath.Join(t.TempDir(), strings.Repeat("x/", 600)), "at most"},
		"file": {"softokn_test.go", "not a directory"},
	} {
		if _, err := softokn.New(test.dir); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.says)
		}
	}
}

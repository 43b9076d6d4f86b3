package softokn_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
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

// open initialises the module as the URI in text says, and returns a session
// without login. What it returns last finalises the module.
func open(t *testing.T, i softokn.Instance) (*pkcs11.Ctx, pkcs11.SessionHandle, func()) {
	t.Helper()
	uri, err := hsm.ParseURI(i.URI.String())
	check(t, err)
	p := pkcs11.New(uri.ModulePath)
	text := append([]byte(uri.InitReserved), 0)
	var pinned runtime.Pinner
	pinned.Pin(&text[0])
	check(t, p.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))))
	slots, err := p.GetSlotList(true)
	check(t, err)
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		check(t, err)
		if info.Label == uri.Token {
			s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			check(t, err)
			return p, s, func() {
				t.Helper()
				check(t, p.Finalize())
				p.Destroy()
				pinned.Unpin()
			}
		}
	}
	t.Fatalf("no token %q in %d slots", uri.Token, len(slots))
	panic("unreachable")
}

func pin(t *testing.T, i softokn.Instance) string {
	t.Helper()
	source, err := url.Parse(i.URI.PINSource)
	check(t, err)
	b, err := os.ReadFile(source.Path)
	check(t, err)
	return string(b)
}

// find returns the only object of the class and label.
func find(t *testing.T, p *pkcs11.Ctx, s pkcs11.SessionHandle, class uint, label string) pkcs11.ObjectHandle {
	t.Helper()
	check(t, p.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}))
	found, _, err := p.FindObjects(s, 2)
	check(t, err)
	check(t, p.FindObjectsFinal(s))
	if len(found) != 1 {
		t.Fatalf("%d objects of class %d and label %q, want 1", len(found), class, label)
	}
	return found[0]
}

func attribute(t *testing.T, p *pkcs11.Ctx, s pkcs11.SessionHandle, o pkcs11.ObjectHandle, kind uint) []byte {
	t.Helper()
	got, err := p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		t.Fatalf("attribute %#x: %v", kind, err)
	}
	return got[0].Value
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

	p, s, end := open(t, i)
	defer end()
	if err := p.Login(s, pkcs11.CKU_USER, "not the PIN"); err != pkcs11.Error(pkcs11.CKR_PIN_INCORRECT) {
		t.Errorf("login with a wrong PIN: %v, want CKR_PIN_INCORRECT", err)
	}
	check(t, p.Login(s, pkcs11.CKU_USER, pin(t, i)))
	private, public := find(t, p, s, pkcs11.CKO_PRIVATE_KEY, "ca"), find(t, p, s, pkcs11.CKO_PUBLIC_KEY, "ca")
	id := attribute(t, p, s, private, pkcs11.CKA_ID)
	if other := attribute(t, p, s, public, pkcs11.CKA_ID); len(id) == 0 || string(id) != string(other) {
		t.Errorf("CKA_ID %x of the private and %x of the public key", id, other)
	}
	for kind, want := range map[uint]byte{
		pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
		pkcs11.CKA_SIGN: 1, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_UNWRAP: 0, pkcs11.CKA_DERIVE: 0, pkcs11.CKA_SIGN_RECOVER: 0,
	} {
		if got := attribute(t, p, s, private, kind); len(got) != 1 || got[0] != want {
			t.Errorf("attribute %#x is %x, want %02x", kind, got, want)
		}
	}
	point := attribute(t, p, s, public, pkcs11.CKA_EC_POINT)
	if len(point) != 67 || point[0] != 4 || point[1] != 65 {
		t.Fatalf("CKA_EC_POINT is %x, want an OCTET STRING of 65 bytes", point)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[2:])
	check(t, err)

	digest := sha256.Sum256([]byte("softoken"))
	check(t, p.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, private))
	sig, err := p.Sign(s, digest[:])
	check(t, err)
	if len(sig) != 64 || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Errorf("signature %x does not verify", sig)
	}
}

// Tokens of two directories, one after the other in one process, do not see
// each other's keys.
func TestNewBeside(t *testing.T) {
	first, second := newToken(t, t.TempDir()), newToken(t, t.TempDir())
	check(t, first.GenerateKey("ca"))
	check(t, second.GenerateKey("ca"))
	var ids []string
	for _, i := range []softokn.Instance{first, second} {
		p, s, end := open(t, i)
		check(t, p.Login(s, pkcs11.CKU_USER, pin(t, i)))
		ids = append(ids, string(attribute(t, p, s, find(t, p, s, pkcs11.CKO_PRIVATE_KEY, "ca"), pkcs11.CKA_ID)))
		end()
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

package tpm2pkcs11_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/tpm2pkcs11"
)

// crashVariable makes this program log in and sign with the key of the label
// that it holds, and end without a word to the module.
const crashVariable = "TPM2PKCS11_TEST_CRASH"

func TestMain(m *testing.M) {
	uri := os.Getenv(crashVariable)
	if uri == "" {
		os.Exit(m.Run())
	}
	if err := crash(uri); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func crash(text string) error {
	uri, err := hsm.ParseURI(text)
	if err != nil {
		return err
	}
	m, err := load(uri)
	if err != nil {
		return err
	}
	if err := m.login(); err != nil {
		return err
	}
	return m.signAndVerify(uri.Object)
}

// A module is the PKCS#11 module between C_Initialize and C_Finalize, with a
// session.
type module struct {
	*pkcs11.Ctx
	uri     hsm.URI
	session pkcs11.SessionHandle
}

func load(uri hsm.URI) (module, error) {
	m := module{Ctx: pkcs11.New(uri.ModulePath), uri: uri}
	if err := m.Initialize(); err != nil {
		return m, err
	}
	slots, err := m.GetSlotList(true)
	if err != nil {
		return m, err
	}
	for _, slot := range slots {
		info, err := m.GetTokenInfo(slot)
		if err != nil {
			return m, err
		}
		if info.Label == uri.Token {
			m.session, err = m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			return m, err
		}
	}
	return m, fmt.Errorf("no token %q in %d slots", uri.Token, len(slots))
}

func (m module) login() error {
	pin, err := readPIN(m.uri)
	if err != nil {
		return err
	}
	return m.Login(m.session, pkcs11.CKU_USER, pin)
}

func readPIN(uri hsm.URI) (string, error) {
	source, err := url.Parse(uri.PINSource)
	if err != nil {
		return "", err
	}
	pin, err := os.ReadFile(source.Path)
	return string(pin), err
}

// find returns the only object of the class and label.
func (m module) find(class uint, label string) (pkcs11.ObjectHandle, error) {
	err := m.FindObjectsInit(m.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
	if err != nil {
		return 0, err
	}
	found, _, err := m.FindObjects(m.session, 2)
	if err := errors.Join(err, m.FindObjectsFinal(m.session)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d objects of class %d and label %q, want 1", len(found), class, label)
	}
	return found[0], nil
}

func (m module) attribute(o pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := m.GetAttributeValue(m.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, fmt.Errorf("attribute %#x: %w", kind, err)
	}
	return got[0].Value, nil
}

func (m module) sign(key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := m.SignInit(m.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, key); err != nil {
		return nil, err
	}
	return m.Sign(m.session, digest)
}

func (m module) signAndVerify(label string) error {
	private, err := m.find(pkcs11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return err
	}
	public, err := m.find(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return err
	}
	point, err := m.attribute(public, pkcs11.CKA_EC_POINT)
	if err != nil {
		return err
	}
	if len(point) != 67 || point[0] != 4 || point[1] != 65 {
		return fmt.Errorf("CKA_EC_POINT is %x, want an OCTET STRING of 65 bytes", point)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[2:])
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(label))
	sig, err := m.sign(private, digest[:])
	if err != nil {
		return err
	}
	if len(sig) != 64 || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return fmt.Errorf("signature %x does not verify", sig)
	}
	return nil
}

// unload ends the module in good order, if the chip is there to hear of it.
func (m module) unload() {
	m.Logout(m.session)
	m.Finalize()
	m.Destroy()
}

func newToken(t *testing.T, labels ...string) *tpm2pkcs11.Token {
	t.Helper()
	token, err := tpm2pkcs11.New(filepath.Join(t.TempDir(), "a space"), "trial")
	if err != nil {
		t.Fatalf("%v: install swtpm libtpm2-pkcs11-1 (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, token.Stop()) })
	for _, label := range labels {
		check(t, token.GenerateKey(label))
	}
	for name, value := range token.Env() {
		t.Setenv(name, value)
	}
	return token
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// use loads the module for as long as f takes.
func use(t *testing.T, token *tpm2pkcs11.Token, f func(module)) {
	t.Helper()
	m, err := load(token.URI)
	check(t, err)
	defer m.unload()
	f(m)
}

// state is what the chip says of its lock.
func state(t *testing.T, token *tpm2pkcs11.Token) string {
	t.Helper()
	n, err := token.LockoutCounter()
	check(t, err)
	locked, err := token.InLockout()
	check(t, err)
	return fmt.Sprint(n, " ", locked)
}

func TestNew(t *testing.T) {
	t.Setenv("TPM2_PKCS11_STORE", "/nonexistent") // what New changes it puts back
	dir := filepath.Join(t.TempDir(), "new")
	token, err := tpm2pkcs11.New(dir, "trial")
	if err != nil {
		t.Fatalf("%v: install swtpm libtpm2-pkcs11-1 (make deps-test)", err)
	}
	if got := os.Getenv("TPM2_PKCS11_STORE"); got != "/nonexistent" {
		t.Errorf("TPM2_PKCS11_STORE became %s", got)
	}
	pins := map[string]bool{}
	for _, name := range []string{"pin", "so-pin"} {
		info, err := os.Stat(filepath.Join(dir, name))
		check(t, err)
		pin, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		if info.Mode().Perm() != 0o600 || len(pin) < 12 || pins[string(pin)] {
			t.Errorf("%s has mode %v and a PIN of %d bytes", name, info.Mode(), len(pin))
		}
		if strings.Contains(fmt.Sprint(token.URI, token.Env()), string(pin)) {
			t.Errorf("%s is in the uri or the environment", name)
		}
		pins[string(pin)] = true
	}
	if got := state(t, token); got != "0 false" {
		t.Errorf("a new chip has counter and lock-out %s", got)
	}
	if _, err := tpm2pkcs11.New(dir, "trial"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New in the directory of a token: %v, want %v", err, fs.ErrExist)
	}
	socket := strings.TrimPrefix(token.Env()["TPM2_PKCS11_TCTI"], "swtpm:path=")
	check(t, token.Stop())
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stop left %s behind", filepath.Dir(socket))
	}
	if _, err := token.LockoutCounter(); err == nil {
		t.Error("a stopped chip answers")
	}
}

// A key outlives the module and the chip's power, signs, and is what
// GenerateKey says it is.
func TestGenerateKey(t *testing.T) {
	token := newToken(t, "ca", "approval")
	if err := token.GenerateKey("ca"); err == nil || !strings.Contains(err.Error(), "label already") {
		t.Errorf("a label twice: error %v", err)
	}
	if err := token.GenerateKey(""); err == nil {
		t.Error("a key without label")
	}
	check(t, token.Restart())
	use(t, token, func(m module) {
		check(t, m.login())
		check(t, m.signAndVerify("ca"))
		check(t, m.signAndVerify("approval"))
		private, err := m.find(pkcs11.CKO_PRIVATE_KEY, "ca")
		check(t, err)
		public, err := m.find(pkcs11.CKO_PUBLIC_KEY, "ca")
		check(t, err)
		id, err := m.attribute(private, pkcs11.CKA_ID)
		check(t, err)
		if other, err := m.attribute(public, pkcs11.CKA_ID); err != nil || len(id) == 0 || string(id) != string(other) {
			t.Errorf("CKA_ID %x of the private and %x of the public key: %v", id, other, err)
		}
		for kind, want := range map[uint]byte{
			pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
			pkcs11.CKA_SIGN: 1, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_UNWRAP: 0, pkcs11.CKA_DERIVE: 0, pkcs11.CKA_SIGN_RECOVER: 0,
			pkcs11.CKA_LOCAL: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_NEVER_EXTRACTABLE: 1,
		} {
			if got, err := m.attribute(private, kind); err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("attribute %#x is %x, want %02x: %v", kind, got, want, err)
			}
		}
	})
}

// What GenerateKey leaves out of the public half the module does refuse.
func TestRefusedAttributes(t *testing.T) {
	token := newToken(t)
	for name, a := range map[string]*pkcs11.Attribute{
		"none":        nil,
		"CKA_VERIFY":  pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		"CKA_ENCRYPT": pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
	} {
		use(t, token, func(m module) {
			check(t, m.login())
			public := []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")),
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			}
			var want error
			if a != nil {
				public = append(public, a)
				want = pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
			}
			_, _, err := m.GenerateKeyPair(m.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public,
				[]*pkcs11.Attribute{
					pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
					pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
					pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
				})
			if err != want {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		})
		check(t, token.Flush()) // a refused key stays in the chip
	}
}

// A chip without power takes the module with it; the power alone does not
// bring it back.
func TestKill(t *testing.T) {
	token := newToken(t, "ca")
	m, err := load(token.URI)
	check(t, err)
	check(t, m.login())
	check(t, m.signAndVerify("ca"))
	private, err := m.find(pkcs11.CKO_PRIVATE_KEY, "ca")
	check(t, err)

	token.Kill()
	gone := pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
	if _, err := m.sign(private, make([]byte, 32)); err != gone {
		t.Errorf("signature without power: %v, want %v", err, gone)
	}
	check(t, token.Restart())
	if _, err := m.sign(private, make([]byte, 32)); err == nil {
		t.Error("the module signs after a power cycle as if nothing had been")
	}
	m.unload()

	use(t, token, func(m module) {
		check(t, m.login())
		check(t, m.signAndVerify("ca"))
	})
	if got := state(t, token); got != "1 false" {
		t.Errorf("counter and lock-out after a loss of power: %s, want 1 false", got)
	}
	// Orderly power cycles do not count.
	for range 3 {
		check(t, token.Restart())
	}
	if got := state(t, token); got != "1 false" {
		t.Errorf("counter and lock-out after power cycles: %s, want 1 false", got)
	}
}

// Two wrong PINs and a loss of power lock the token.
func TestLockout(t *testing.T) {
	token := newToken(t, "ca")
	use(t, token, func(m module) {
		for n := range 2 {
			if err := m.Login(m.session, pkcs11.CKU_USER, "not the PIN"); err != pkcs11.Error(pkcs11.CKR_PIN_INCORRECT) {
				t.Errorf("wrong PIN %d: %v, want CKR_PIN_INCORRECT", n, err)
			}
		}
		// Also while the module is open the chip can be asked.
		if got := state(t, token); got != "2 false" {
			t.Errorf("counter and lock-out after two wrong PINs: %s, want 2 false", got)
		}
		token.Kill()
	})
	check(t, token.Restart())
	if got := state(t, token); got != "3 true" {
		t.Errorf("counter and lock-out after a loss of power: %s, want 3 true", got)
	}
	use(t, token, func(m module) {
		if err := m.login(); err != pkcs11.Error(pkcs11.CKR_PIN_LOCKED) {
			t.Errorf("the right PIN: %v, want CKR_PIN_LOCKED", err)
		}
	})
	check(t, token.Restart())
	if got := state(t, token); got != "3 true" {
		t.Errorf("counter and lock-out after a power cycle: %s, want 3 true", got)
	}

	check(t, token.ClearLockout())
	if got := state(t, token); got != "0 false" {
		t.Errorf("counter and lock-out after ClearLockout: %s, want 0 false", got)
	}
	use(t, token, func(m module) {
		check(t, m.login())
		check(t, m.signAndVerify("ca"))
	})
}

// Processes that end without a word fill the chip up.
func TestFlush(t *testing.T) {
	token := newToken(t, "ca")
	uri := token.URI
	uri.Object = "ca"
	crash := func() error {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashVariable+"="+uri.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	check(t, crash())
	n := 1
	for ; crash() == nil; n++ {
		if n == 10 {
			t.Fatalf("%d processes find room in a chip of three objects", n)
		}
	}
	t.Logf("after %d processes the chip was full", n)
	check(t, token.Flush())
	check(t, crash())
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct{ dir, label, says string }{
		"no label":     {t.TempDir(), "", "1 to 32"},
		"long label":   {t.TempDir(), strings.Repeat("x", 33), "1 to 32"},
		"broken label": {t.TempDir(), "\xff", "UTF-8"},
		"comma":        {filepath.Join(t.TempDir(), "a,b"), "x", "cannot name"},
		"file":         {"tpm2pkcs11_test.go", "x", "not a directory"},
	} {
		if _, err := tpm2pkcs11.New(test.dir, test.label); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.says)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := tpm2pkcs11.New(t.TempDir(), "trial")
	var missing *tpm2pkcs11.NotInstalledError
	if !errors.As(err, &missing) || missing.Hint() != "install swtpm: apt-get install swtpm" {
		t.Errorf("New without swtpm: %v", err)
	}
}

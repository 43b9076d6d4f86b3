package tpm2pkcs11_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/internal/p11"
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
	return m.SignAndVerify(uri.Object)
}

// A module is the PKCS#11 module with a session.
type module struct {
	*p11.Module
	uri hsm.URI
}

func load(uri hsm.URI) (module, error) {
	m, err := p11.Load(uri.ModulePath, "")
	if err != nil {
		return module{}, err
	}
	slot, err := m.Slot(uri.Token)
	if err != nil {
		return module{}, err
	}
	return module{m, uri}, m.Open(slot)
}

func (m module) login() error {
	pin, err := p11.PIN(m.uri)
	if err != nil {
		return err
	}
	return m.Login(m.Session, pkcs11.CKU_USER, pin)
}

// unload ends the module in good order, if the chip is there to hear of it.
func (m module) unload() {
	m.Logout(m.Session)
	m.Close()
}

func newToken(t *testing.T, labels ...string) *tpm2pkcs11.Token {
	t.Helper()
	token, err := tpm2pkcs11.New(filepath.Join(t.TempDir(), "a space"), "trial")
	if err != nil {
		t.Fatalf("%v: install swtpm libtpm2-pkcs11-1 (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, token.Stop()) })
	for name, value := range token.Env() {
		t.Setenv(name, value)
	}
	for _, label := range labels { // a ceremony has room for one
		hsmtest.Generate(t, token.URI, label)
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

func socket(token *tpm2pkcs11.Token) string {
	return strings.TrimPrefix(token.Env()["TPM2_PKCS11_TCTI"], "swtpm:path=")
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
	check(t, token.Stop())
	if _, err := os.Stat(filepath.Dir(socket(token))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stop left %s behind", filepath.Dir(socket(token)))
	}
	if _, err := token.LockoutCounter(); err == nil {
		t.Error("a stopped chip answers")
	}
}

// A key outlives the module and the chip's power, signs, and is what a
// ceremony says it is.
func TestKeys(t *testing.T) {
	token := newToken(t, "ca", "approval")
	check(t, token.Restart())
	use(t, token, func(m module) {
		check(t, m.login())
		check(t, m.SignAndVerify("ca"))
		check(t, m.SignAndVerify("approval"))
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
			pkcs11.CKA_LOCAL: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_NEVER_EXTRACTABLE: 1,
		} {
			if got, err := m.Attribute(private, kind); err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("attribute %#x is %x, want %02x: %v", kind, got, want, err)
			}
		}
	})
}

// The public half of a key that only signs may not verify, and nothing may be
// said of encrypting: the module takes CKA_VERIFY for CKA_DECRYPT of the
// private half, and CKA_ENCRYPT for its CKA_SIGN, as the TPM has one bit for
// both.
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
			_, _, err := m.GenerateKeyPair(m.Session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public,
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
	check(t, m.SignAndVerify("ca"))
	private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
	check(t, err)

	token.Kill()
	gone := pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
	if _, err := m.SignDigest(private, make([]byte, 32)); err != gone {
		t.Errorf("signature without power: %v, want %v", err, gone)
	}
	check(t, token.Restart())
	if _, err := m.SignDigest(private, make([]byte, 32)); err == nil {
		t.Error("the module signs after a power cycle as if nothing had been")
	}
	m.unload()

	use(t, token, func(m module) {
		check(t, m.login())
		check(t, m.SignAndVerify("ca"))
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

// A chip that is busy for a while hears of an orderly power cycle all the same.
func TestRestartBusy(t *testing.T) {
	token := newToken(t, "ca")
	use(t, token, func(m module) { check(t, m.login()) })
	conn, err := net.Dial("unix", socket(token))
	check(t, err)
	time.AfterFunc(time.Second, func() { conn.Close() })
	check(t, token.Restart())
	if got := state(t, token); got != "0 false" {
		t.Errorf("counter and lock-out after a power cycle: %s, want 0 false", got)
	}
}

// Two wrong PINs and a loss of power lock the token.
func TestLockout(t *testing.T) {
	token := newToken(t, "ca")
	use(t, token, func(m module) {
		for n := range 2 {
			if err := m.Login(m.Session, pkcs11.CKU_USER, "not the PIN"); err != pkcs11.Error(pkcs11.CKR_PIN_INCORRECT) {
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
		check(t, m.SignAndVerify("ca"))
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

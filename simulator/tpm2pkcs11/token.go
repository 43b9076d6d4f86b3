package tpm2pkcs11

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/internal/p11"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// The variables by which the module finds its database and its chip.
const (
	storeVariable = "TPM2_PKCS11_STORE"
	tctiVariable  = "TPM2_PKCS11_TCTI"
)

// A Token is a token and the running chip that holds its keys. The methods
// that concern the chip may be called from any goroutine.
type Token struct {
	URI hsm.URI // names token, module and PIN file

	store string // directory of the module's database
	chip  chip
}

// New makes a token with the label in dir, which it creates if need be, and
// starts its chip. The directory then holds the chip's state, tpm/, the
// module's database, store/, and in pin and so-pin, readable by the owner
// only, the PINs of the user and of the security officer. A dir that has a
// token already is an error. The caller stops the token.
//
// New uses the module through its own API, not the tool that comes with it,
// which wants PINs as arguments. The module must not be open in this process
// meanwhile.
func New(dir, label string) (*Token, error) {
	if label == "" || len(label) > 32 || !utf8.ValidString(label) {
		return nil, fmt.Errorf("tpm2pkcs11: a token label has 1 to 32 bytes of UTF-8, not %d", len(label))
	}
	module, err := Locate()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("tpm2pkcs11: %w", err)
	}
	// A comma separates the options of swtpm.
	if strings.ContainsAny(dir, ",") {
		return nil, fmt.Errorf("tpm2pkcs11: directory %q: an option of swtpm cannot name it", dir)
	}
	userPIN, soPIN, err := furnish(dir)
	if err != nil {
		return nil, fmt.Errorf("tpm2pkcs11: %w", err)
	}
	t := &Token{store: filepath.Join(dir, "store")}
	if t.chip.process, err = swtpm.Start(filepath.Join(dir, "tpm")); err != nil {
		return nil, fmt.Errorf("tpm2pkcs11: %w", err)
	}
	env := t.Env()
	env["TPM2_PKCS11_LOG_LEVEL"] = "0" // errors, and no warning that the database is not there yet
	err = withEnv(env, func() error { return initToken(module, label, soPIN, userPIN) })
	if err == nil {
		err = t.Flush() // the key that C_InitToken makes in the chip stays loaded
	}
	if err != nil {
		t.Stop()
		return nil, fmt.Errorf("tpm2pkcs11: make token %q in %s: %w", label, dir, err)
	}
	t.URI = hsm.URI{Token: label, PINSource: p11.Source(filepath.Join(dir, "pin")), ModulePath: module}
	return t, nil
}

// furnish makes what New promises to be in dir, but for what swtpm and the
// module make.
func furnish(dir string) (userPIN, soPIN string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	// Mkdir and not MkdirAll: a chip is made once.
	for _, name := range []string{"tpm", "store"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return "", "", err
		}
	}
	if userPIN, err = p11.NewPIN(filepath.Join(dir, "pin")); err != nil {
		return "", "", err
	}
	soPIN, err = p11.NewPIN(filepath.Join(dir, "so-pin"))
	return userPIN, soPIN, err
}

// Env returns the environment that a process needs to see the token. It stays
// the same over restarts.
func (t *Token) Env() map[string]string {
	return map[string]string{storeVariable: t.store, tctiVariable: "swtpm:path=" + t.chip.process.Socket()}
}

// Kill pulls the chip's plug (SIGKILL). [Token.Restart] powers it on again.
func (t *Token) Kill() { t.chip.kill() }

// Restart is a power cycle: an orderly stop, unless the power is off, and a
// start. The keys stay; logins and what was loaded do not.
func (t *Token) Restart() error {
	if err := t.chip.restart(); err != nil {
		return fmt.Errorf("tpm2pkcs11: %w", err)
	}
	return nil
}

// Stop powers the chip off in good order, for good.
func (t *Token) Stop() error {
	if err := t.chip.stop(); err != nil {
		return fmt.Errorf("tpm2pkcs11: %w", err)
	}
	return nil
}

// LockoutCounter returns how many failed attempts the chip counts
// (TPM_PT_LOCKOUT_COUNTER). It locks at three.
func (t *Token) LockoutCounter() (int, error) {
	n, err := t.chip.property(lockoutCounter)
	return int(n), err
}

// InLockout reports whether the chip refuses PINs (TPMA_PERMANENT, inLockout).
func (t *Token) InLockout() (bool, error) {
	permanent, err := t.chip.property(permanent)
	return permanent&inLockout != 0, err
}

// ClearLockout sets the counter of failed attempts to zero, with the chip's
// lockout authorization, which is empty (TPM2_DictionaryAttackLockReset).
func (t *Token) ClearLockout() error { return t.chip.resetLockout() }

// Flush unloads the objects and sessions that processes left in the chip when
// they were killed. Those of a process that has the module open are lost too.
func (t *Token) Flush() error { return t.chip.flush() }

// withEnv runs f with the variables in the environment. os.Setenv of a program
// with cgo sets C's environment too, where the module looks.
func withEnv(env map[string]string, f func() error) error {
	for name, value := range env {
		old, had := os.LookupEnv(name)
		if err := os.Setenv(name, value); err != nil {
			return err
		}
		defer func() {
			if had {
				os.Setenv(name, old)
			} else {
				os.Unsetenv(name)
			}
		}()
	}
	return f()
}

// Package tpm2pkcs11 makes PKCS#11 tokens in a TPM: the module of the
// tpm2-software project (libtpm2_pkcs11.so) on an swtpm of its own. The module
// is the one that machines with a TPM use; the chip is software and protects
// nothing, so the tokens are for trials and tests.
//
// Start with [New]. The module finds its chip and its database by environment
// variables, each time it is initialised; so every process that uses the token
// needs [Token.Env]. Keys are made in ceremonies of package hsm.
//
// # Faults
//
// A TPM locks itself: after three failed attempts it refuses every PIN, the
// right one too, until a time has passed or [Token.ClearLockout]. A loss of
// power ([Token.Kill]) while the PIN was in use counts as an attempt. So two
// wrong PINs and a Kill lock the token.
//
// After a Kill the module is of no use to who had it open, also after
// [Token.Restart]: it is to be finalised and initialised again.
//
// # Three objects
//
// The chip has memory for three loaded objects and three sessions, and there
// is no resource manager. A process that signs has a session and an object for
// each key it has signed with, so two keys fit and a third is
// CKR_GENERAL_ERROR; and so is the second key that is made in one ceremony.
// What a process had loaded when it was killed stays loaded until
// [Token.Flush] or a Restart.
package tpm2pkcs11

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/chancery-pki/chancery/hsm"
)

// A NotInstalledError is a machine without a part of what a token needs.
type NotInstalledError struct {
	Missing string // a file's name
	Package string // the Debian package that has it
}

func (e *NotInstalledError) Error() string { return fmt.Sprintf("%s is not installed", e.Missing) }

// Hint tells how to install it.
func (e *NotInstalledError) Hint() string {
	return fmt.Sprintf("install %s: apt-get install %[1]s", e.Package)
}

// Locate returns the path of the PKCS#11 module, or a [*NotInstalledError] if
// it or the swtpm program is missing.
func Locate() (module string, err error) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		return "", &NotInstalledError{Missing: "swtpm", Package: "swtpm"}
	}
	for _, path := range hsm.FindModules() {
		if strings.HasPrefix(filepath.Base(path), "libtpm2_pkcs11.") {
			return path, nil
		}
	}
	return "", &NotInstalledError{Missing: "libtpm2_pkcs11.so", Package: "libtpm2-pkcs11-1"}
}

// Package softokn makes tokens in NSS's softoken (libsoftokn3.so), the PKCS#11
// module in software inside Firefox and Thunderbird. It was written apart from
// SoftHSM and differs from it where vendors differ; its tokens protect nothing
// and are for trials and tests.
//
// Start with [New]. Softoken wants parameters from whoever initialises it,
// among them the directory of its database: the URI has them in InitReserved,
// and the environment has no part in it.
//
// # Two tokens
//
// Softoken shows two tokens, both with serial number 0000000000000000: "NSS
// Generic Crypto Services", without PIN and without memory, and "NSS
// Certificate DB", which is the one that the URI names. The labels are fixed,
// so tokens are told apart by their directories alone, and a process uses one
// directory at a time.
//
// # Keys
//
// Crypto11 cannot pass parameters to a module, and so cannot make keys here.
// [Instance.GenerateKey] can.
package softokn

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/internal/p11"
)

// Label is the label of every token.
const Label = "NSS Certificate DB"

// An Instance is a token in a directory of its own.
type Instance struct {
	URI hsm.URI // names token, module, PIN file and the parameters
}

// Env returns the environment that a process needs to see the token: none.
func (i Instance) Env() map[string]string { return nil }

// A NotInstalledError is a machine without NSS.
type NotInstalledError struct{}

func (*NotInstalledError) Error() string { return "NSS softoken (libsoftokn3.so) is not installed" }

// Hint tells how to install it.
func (*NotInstalledError) Hint() string { return "install libnss3: apt-get install libnss3" }

// wellKnown are the places where distributions install softoken. It is no
// module that applications are meant to load, and so not beside the others.
var wellKnown = []string{
	"/usr/lib/*/libsoftokn3.so",
	"/usr/lib/*/nss/libsoftokn3.so",
	"/usr/lib64/libsoftokn3.so",
	"/usr/lib/libsoftokn3.so",
}

// Locate returns the path of softoken, or a [*NotInstalledError].
func Locate() (module string, err error) {
	if module = p11.Locate(wellKnown); module == "" {
		return "", &NotInstalledError{}
	}
	return module, nil
}

// New makes a token in dir, which it creates if need be. The directory then
// holds the database, cert9.db and key4.db, and in pin, readable by the owner
// only, the PIN of the user. A dir that has a token already is an error.
//
// New uses the module through its own API, so that no PIN is ever an argument
// of a program. The module must not be open in this process meanwhile.
func New(dir string) (Instance, error) {
	module, err := Locate()
	if err != nil {
		return Instance{}, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return Instance{}, fmt.Errorf("softokn: %w", err)
	}
	spec, err := parameters(dir)
	if err != nil {
		return Instance{}, fmt.Errorf("softokn: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Instance{}, fmt.Errorf("softokn: %w", err)
	}
	path := filepath.Join(dir, "pin")
	pin, err := p11.NewPIN(path)
	if err != nil {
		return Instance{}, fmt.Errorf("softokn: %w", err)
	}
	if err := initToken(module, spec, pin); err != nil {
		os.Remove(path)
		return Instance{}, fmt.Errorf("softokn: make token in %s: %w", dir, err)
	}
	return Instance{hsm.URI{Token: Label, PINSource: p11.Source(path), ModulePath: module, InitReserved: spec}}, nil
}

// maxParameters is what a URI carries, in bytes.
const maxParameters = 1024

// parameters returns what softoken wants in pReserved of C_Initialize to keep
// its database in dir.
func parameters(dir string) (string, error) {
	escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(dir)
	text := "configdir='sql:" + escaped + "' certPrefix='' keyPrefix='' secmod='secmod.db'"
	if len(text) > maxParameters {
		return "", fmt.Errorf("directory %q: the parameters of softoken have %d bytes, at most %d", dir, len(text), maxParameters)
	}
	return text, nil
}

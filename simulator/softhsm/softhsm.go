// Package softhsm makes tokens in SoftHSM, a PKCS#11 module in software. They
// behave like an HSM and protect nothing: they are for trials and tests.
//
// Start with [New]. SoftHSM reads its configuration from the file that the
// environment variable SOFTHSM2_CONF names, each time it is initialised; so
// every process that uses the token needs [Instance.Env], and a process uses
// one directory of tokens at a time.
package softhsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/chancery-pki/chancery/hsm"
)

// confVariable is how SoftHSM finds its configuration (softhsm2.conf(5)).
const confVariable = "SOFTHSM2_CONF"

// An Instance is a token in a directory of its own or shared with others.
type Instance struct {
	URI  hsm.URI // names token, module and PIN file
	Conf string  // absolute path of softhsm2.conf
}

// Env returns the environment variable that a process needs to see the token,
// in the form of [os/exec.Cmd.Env].
func (i Instance) Env() string { return confVariable + "=" + i.Conf }

// Setenv gives the variable to this process. Call it while no module is open.
func (i Instance) Setenv() error { return os.Setenv(confVariable, i.Conf) }

// A NotInstalledError is a machine without SoftHSM.
type NotInstalledError struct{}

func (*NotInstalledError) Error() string { return "SoftHSM (libsofthsm2.so) is not installed" }

// Hint tells how to install it.
func (*NotInstalledError) Hint() string { return "install softhsm2: apt-get install softhsm2" }

// Locate returns the path of SoftHSM's PKCS#11 module, or a
// [*NotInstalledError].
func Locate() (module string, err error) {
	for _, path := range hsm.FindModules() {
		if strings.HasPrefix(filepath.Base(path), "libsofthsm2.") {
			return path, nil
		}
	}
	return "", &NotInstalledError{}
}

// New makes a token with the label in dir, which it creates if need be. The
// directory then holds softhsm2.conf, tokens/, and in pin and so-pin, readable
// by the owner only, the PINs of the user and of the security officer. A dir
// that has tokens already gets one more, with the same PINs; a label that is
// taken is an error.
//
// New uses the module through its own API, so that no PIN is ever an argument
// of a program. The module must not be open in this process meanwhile.
func New(dir, label string) (Instance, error) {
	if label == "" || len(label) > 32 || !utf8.ValidString(label) {
		return Instance{}, fmt.Errorf("softhsm: a token label has 1 to 32 bytes of UTF-8, not %d", len(label))
	}
	module, err := Locate()
	if err != nil {
		return Instance{}, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return Instance{}, fmt.Errorf("softhsm: %w", err)
	}
	conf, err := writeConf(dir)
	if err != nil {
		return Instance{}, fmt.Errorf("softhsm: %w", err)
	}
	userPIN, err := pinFile(filepath.Join(dir, "pin"))
	if err != nil {
		return Instance{}, fmt.Errorf("softhsm: %w", err)
	}
	soPIN, err := pinFile(filepath.Join(dir, "so-pin"))
	if err != nil {
		return Instance{}, fmt.Errorf("softhsm: %w", err)
	}
	serial, err := withConf(conf, func() (string, error) { return initToken(module, label, soPIN, userPIN) })
	if err != nil {
		return Instance{}, fmt.Errorf("softhsm: make token %q in %s: %w", label, dir, err)
	}
	pinSource := url.URL{Scheme: "file", Path: filepath.Join(dir, "pin")}
	return Instance{
		Conf: conf,
		URI:  hsm.URI{Token: label, Serial: serial, PINSource: pinSource.String(), ModulePath: module},
	}, nil
}

// writeConf writes the configuration, unless it is there, and returns its path.
func writeConf(dir string) (string, error) {
	// The file has no quoting: # begins a comment, a line end the next setting.
	if strings.ContainsAny(dir, "#\r\n") {
		return "", fmt.Errorf("directory %q: softhsm2.conf cannot name it", dir)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	err := create(conf, text)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return conf, err
}

// pinFile returns the PIN in the file, a new one if there is no file.
func pinFile(path string) (string, error) {
	pin := rand.Text() // 26 letters and digits, 130 bits
	err := create(path, pin)
	if errors.Is(err, fs.ErrExist) {
		there, err := os.ReadFile(path)
		return string(there), err
	}
	return pin, err
}

// create writes a file that must not exist yet, for the owner only.
func create(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// withConf runs f with the configuration in the environment. os.Setenv of a
// program with cgo sets C's environment too, where SoftHSM looks.
func withConf(conf string, f func() (string, error)) (string, error) {
	old, had := os.LookupEnv(confVariable)
	if err := os.Setenv(confVariable, conf); err != nil {
		return "", err
	}
	defer func() {
		if had {
			os.Setenv(confVariable, old)
		} else {
			os.Unsetenv(confVariable)
		}
	}()
	return f()
}

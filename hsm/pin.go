package hsm

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"unsafe"
)

// pinCredential is the name of the systemd credential that holds the PIN when
// the URI has no pin-source (systemd.exec(5), LoadCredentialEncrypted=).
const pinCredential = "hsm.pin"

// maxPIN is in bytes; PKCS#11 sets no limit, tokens do, far below.
const maxPIN = 256

// A PINSourceError is a PIN that could not be read from where it should be.
// No try has been spent on it.
type PINSourceError struct {
	Path string // the file; empty if there is none
	Err  error
	hint string
}

func (e *PINSourceError) Error() string {
	if e.Path == "" {
		return "pin: " + e.Err.Error()
	}
	return fmt.Sprintf("pin file %s: %v", e.Path, e.Err)
}

func (e *PINSourceError) Unwrap() error { return e.Err }

// Hint tells how to provide the PIN.
func (e *PINSourceError) Hint() string { return e.hint }

// pinPath returns the file that a pin-source names: a path, or a file URI of
// this host (RFC 8089).
func pinPath(source string) (string, error) {
	path := source
	if !filepath.IsAbs(source) {
		u, err := url.Parse(source)
		if err != nil || u.Scheme != "file" || u.RawQuery != "" || u.Fragment != "" || (u.Host != "" && u.Host != "localhost") {
			return "", errors.New("pin-source is not file:/path or /path")
		}
		path = u.Path
	}
	if !filepath.IsAbs(path) {
		return "", errors.New("pin-source is not an absolute path")
	}
	return path, nil
}

// PIN returns the PIN that the URI points to, for whoever splits it among
// custodians. The caller wipes it with clear.
func PIN(uri URI) ([]byte, error) { return readPIN(uri) }

// readPIN returns the PIN that the URI points to. The caller wipes it, with
// clear, as soon as the token has it.
func readPIN(uri URI) ([]byte, error) {
	path := ""
	if uri.PINSource != "" {
		p, err := pinPath(uri.PINSource)
		if err != nil {
			return nil, &PINSourceError{Err: err, hint: "use pin-source=file:/path/to/pin"}
		}
		path = p
	} else if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		path = filepath.Join(dir, pinCredential)
	} else {
		return nil, &PINSourceError{Err: errors.New("the uri has no pin-source and there is no systemd credential"),
			hint: "add pin-source=file:/path/to/pin to the uri, or LoadCredentialEncrypted=" + pinCredential + ":... to the service"}
	}
	pin, hint, err := readPINFile(path)
	if err != nil {
		return nil, &PINSourceError{Path: path, Err: err, hint: hint}
	}
	return pin, nil
}

func readPINFile(path string) (pin []byte, hint string, err error) {
	// Checked before opening too, for opening a pipe would wait for a writer.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, "put the PIN into a file that only this service reads", errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		var pathError *os.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err
		}
		return nil, "create the file with mode 0600, owned by the user that runs this program", err
	}
	defer f.Close()
	// The open file is asked, so that what is judged is what is read.
	if info, err = f.Stat(); err != nil {
		return nil, "", err
	}
	if perm := info.Mode().Perm(); perm&0o006 != 0 {
		return nil, "chmod 600 " + path + ", and change the PIN: others may have read it",
			fmt.Errorf("mode %04o lets every user of this machine at it", perm)
	}
	buf := make([]byte, maxPIN+len("\r\n")+1)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, "", err
	}
	pin = trimNewline(buf[:n])
	if len(pin) == 0 || len(pin) > maxPIN {
		clear(buf)
		if len(pin) == 0 {
			return nil, "write the user PIN into it", errors.New("empty")
		}
		return nil, "the file holds the PIN and nothing else", fmt.Errorf("longer than %d bytes", maxPIN)
	}
	return pin, "", nil
}

// trimNewline cuts the one line end that editors and echo leave. Nothing more:
// a space may be part of the PIN, and a wrong guess costs a try.
func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
		if n := len(b); n > 0 && b[n-1] == '\r' {
			b = b[:n-1]
		}
	}
	return b
}

// asString lends the bytes to the bindings, which want strings, without
// leaving a copy on the heap that nobody can wipe. The string dies with the
// call that it is lent to. (The copy that cgo makes is the module's.)
func asString(pin []byte) string { return unsafe.String(unsafe.SliceData(pin), len(pin)) }

// A PINError is a token that refuses the user PIN, or one that is not asked
// because a wrong PIN would be one of its last tries.
type PINError struct {
	Token  string // label
	Serial string
	Name   string // the code or flag, such as CKR_PIN_INCORRECT or CKF_USER_PIN_COUNT_LOW
}

func (e *PINError) Error() string {
	if reason, ok := pinReasons[e.Name]; ok {
		return fmt.Sprintf("token %q with serial %s: %s (%s)", e.Token, e.Serial, reason, e.Name)
	}
	return fmt.Sprintf("token %q with serial %s: login refused (%s)", e.Token, e.Serial, e.Name)
}

var pinReasons = map[string]string{
	"CKR_PIN_INCORRECT":            "the user PIN is wrong; it was tried once",
	"CKR_PIN_INVALID":              "the user PIN has characters that the token does not take",
	"CKR_PIN_LEN_RANGE":            "the user PIN has a length that the token does not take",
	"CKR_PIN_EXPIRED":              "the user PIN has expired",
	"CKR_PIN_LOCKED":               "the user PIN is locked",
	"CKR_USER_PIN_NOT_INITIALIZED": "the user PIN was never set",
	"CKF_USER_PIN_INITIALIZED":     "the user PIN was never set",
	"CKF_USER_PIN_LOCKED":          "the user PIN is locked",
	"CKF_USER_PIN_FINAL_TRY":       "one more wrong user PIN locks the token; not tried",
	"CKF_USER_PIN_COUNT_LOW":       "a wrong user PIN was entered since the last login; not tried",
}

// Hint tells the operator what to do with the token.
func (e *PINError) Hint() string {
	switch e.Name {
	case "CKF_USER_PIN_FINAL_TRY":
		return "make sure that the PIN file is right, then allow the last try with: chancery hsm unlatch --final-try " + e.Serial
	case "CKR_PIN_LOCKED", "CKF_USER_PIN_LOCKED", "CKR_PIN_EXPIRED", "CKR_USER_PIN_NOT_INITIALIZED", "CKF_USER_PIN_INITIALIZED":
		return "the security officer sets a new user PIN: pkcs11-tool --module MODULE --token-label LABEL --init-pin --login --login-type so"
	}
	return unlatchHint(e.Serial)
}

// unlatchHint names the token by its serial number, for labels repeat.
func unlatchHint(serial string) string {
	return "correct the PIN file, then allow one more try with: chancery hsm unlatch " + serial
}

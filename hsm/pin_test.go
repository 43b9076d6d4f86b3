package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
)

func TestReadPIN(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, test := range []struct{ file, want string }{
		{"1234", "1234"},
		{"1234\n", "1234"},
		{"1234\r\n", "1234"},
		{"1234\n\n", "1234\n"},
		{"1234\r", "1234\r"},
		{" 12 34 \t\n", " 12 34 \t"},
		{long, long},
		{long + "\r\n", long},
	} {
		path := filepath.Join(t.TempDir(), "a pin")
		write(t, path, test.file, 0o600)
		for _, source := range []string{path, "file:" + strings.ReplaceAll(path, " ", "%20"), "file://" + strings.ReplaceAll(path, " ", "%20")} {
			got, err := hsm.ReadPIN(hsm.URI{PINSource: source})
			if err != nil || string(got) != test.want {
				t.Errorf("%s with %q: PIN %q, error %v, want %q", source, test.file, got, err, test.want)
			}
		}
	}
}

func TestReadPINRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "empty"), "", 0o600)
	write(t, filepath.Join(dir, "newline"), "\n", 0o600)
	write(t, filepath.Join(dir, "long"), strings.Repeat("7", 257), 0o600)
	write(t, filepath.Join(dir, "longer"), strings.Repeat("7", 1<<20), 0o600)
	write(t, filepath.Join(dir, "readable"), "7777", 0o604)
	write(t, filepath.Join(dir, "writable"), "7777", 0o602)
	check(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	for _, test := range []struct{ name, says string }{
		{"missing", "no such file"},
		{"empty", "empty"},
		{"newline", "empty"},
		{"long", "longer than 256"},
		{"longer", "longer than 256"},
		{"readable", "mode 0604"},
		{"writable", "mode 0602"},
		{"pipe", "not a regular file"},
		{".", "not a regular file"},
	} {
		_, err := hsm.ReadPIN(hsm.URI{PINSource: filepath.Join(dir, test.name)})
		var e *hsm.PINSourceError
		if !errors.As(err, &e) || !strings.Contains(e.Error(), test.says) || e.Hint() == "" {
			t.Errorf("%s: error %v, want one with a hint that says %q", test.name, err, test.says)
		} else if strings.Contains(e.Error()+e.Hint(), "777") {
			t.Errorf("%s: error repeats the PIN: %v", test.name, e)
		}
	}
	_, err := hsm.ReadPIN(hsm.URI{PINSource: filepath.Join(dir, "missing")})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v is not os.ErrNotExist", err)
	}
}

func TestReadPINFromCredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	var e *hsm.PINSourceError
	if _, err := hsm.ReadPIN(hsm.URI{}); !errors.As(err, &e) || !strings.Contains(e.Hint(), "pin-source") {
		t.Errorf("no source at all: error %v", err)
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write(t, filepath.Join(dir, "hsm.pin"), "credential\n", 0o400)
	pin, err := hsm.ReadPIN(hsm.URI{})
	if err != nil || string(pin) != "credential" {
		t.Errorf("PIN %q, error %v", pin, err)
	}
	// What the operator wrote into the URI goes before.
	if _, err := hsm.ReadPIN(hsm.URI{PINSource: filepath.Join(dir, "other")}); !errors.As(err, &e) {
		t.Errorf("pin-source that is missing: error %v, want *PINSourceError", err)
	}
}

// SoftHSM never locks a PIN, so the flags are judged by themselves.
func TestMayLogin(t *testing.T) {
	const ready = pkcs11.CKF_TOKEN_INITIALIZED | pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_USER_PIN_INITIALIZED
	if err := hsm.MayLogin(ready); err != nil {
		t.Error(err)
	}
	// The security officer's troubles are not ours.
	if err := hsm.MayLogin(ready | pkcs11.CKF_SO_PIN_COUNT_LOW | pkcs11.CKF_SO_PIN_LOCKED); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		flags uint
		name  string
	}{
		{ready &^ pkcs11.CKF_USER_PIN_INITIALIZED, "CKF_USER_PIN_INITIALIZED"},
		{ready | pkcs11.CKF_USER_PIN_COUNT_LOW, "CKF_USER_PIN_COUNT_LOW"},
		{ready | pkcs11.CKF_USER_PIN_FINAL_TRY, "CKF_USER_PIN_FINAL_TRY"},
		{ready | pkcs11.CKF_USER_PIN_LOCKED, "CKF_USER_PIN_LOCKED"},
		{ready | pkcs11.CKF_USER_PIN_LOCKED | pkcs11.CKF_USER_PIN_FINAL_TRY | pkcs11.CKF_USER_PIN_COUNT_LOW, "CKF_USER_PIN_LOCKED"},
	} {
		var e *hsm.PINError
		if err := hsm.MayLogin(test.flags); !errors.As(err, &e) || e.Name != test.name || e.Hint() == "" {
			t.Errorf("flags 0x%x: error %v, want %s", test.flags, err, test.name)
		}
	}
}

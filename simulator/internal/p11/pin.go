package p11

import (
	"crypto/rand"
	"errors"
	"net/url"
	"os"

	"github.com/chancery-pki/chancery/hsm"
)

// NewPIN makes a PIN in a file that must not exist yet, for the owner only.
func NewPIN(path string) (pin string, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	pin = rand.Text() // 26 letters and digits, 130 bits
	_, err = f.WriteString(pin)
	return pin, errors.Join(err, f.Close())
}

// Source names the file as [hsm.URI.PINSource] does.
func Source(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// PIN reads the file that the URI names.
func PIN(uri hsm.URI) (string, error) {
	source, err := url.Parse(uri.PINSource)
	if err != nil {
		return "", err
	}
	pin, err := os.ReadFile(source.Path)
	return string(pin), err
}

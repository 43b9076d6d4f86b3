package state

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/chancery-pki/chancery/tpm"
)

// LoadKey loads N:SK into its chip. If the key asks for a PIN, the PIN is the
// content of the file, without the newline at its end; no copy of it is kept
// in the state directory.
func LoadKey(chip *tpm.TPM, key *tpm.KeyFile, pinFile string) (*tpm.Key, error) {
	if !key.PIN || pinFile == "" {
		return chip.LoadKey(key)
	}
	pin, err := ReadPIN(pinFile)
	if err != nil {
		return nil, err
	}
	return chip.LoadKeyWithPIN(key, pin)
}

// ReadPIN reads a PIN file. Errors name the file and not what is in it.
func ReadPIN(file string) (tpm.PIN, error) {
	f, err := os.Open(file)
	if err != nil {
		return tpm.PIN{}, fmt.Errorf("PIN file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, tpm.MaxPIN+3))
	if err != nil {
		return tpm.PIN{}, fmt.Errorf("PIN file: %w", err)
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	pin, err := tpm.NewPIN(bytes.TrimSuffix(b, []byte("\r")))
	if err != nil {
		return tpm.PIN{}, fmt.Errorf("PIN file %s: %w", file, err)
	}
	return pin, nil
}

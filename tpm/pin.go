package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// A PIN is the password that an unsealed N:SK can ask for at every signature.
// The chip counts no failed attempts against it, because that would let
// anybody lock the node out, and each loss of power would be such an attempt
// (TPM 2.0 Part 1, section 19.8). So whoever has both chip and key file may
// guess as fast as the chip answers: some 20 times a second.
//
// It crosses the bus to the chip only encrypted, at the creation of the key,
// and never afterwards: sessions prove that they know it (Part 1, section
// 19.6.4). It is never printed.
type PIN struct{ auth []byte }

// PINs have between MinPIN and MaxPIN bytes; the most is what the key's Name
// algorithm allows (TPM 2.0 Part 1, section 19.6.4.3).
const (
	MinPIN = 8
	MaxPIN = 32
)

var (
	// ErrPIN: the chip does not accept the PIN. A command that somebody changed
	// on its way looks the same.
	ErrPIN error = &advice{"the chip does not accept the PIN of the key", "look at the PIN file; failed attempts are not counted. If the PIN is lost, the key is: chancery-agent rejoin"}
	// ErrPINWanted: the key asks for a PIN, and none was given.
	ErrPINWanted error = &advice{"the key asks for a PIN", "name the file that has it: key_pin_file in agent.toml, --key-pin-file at a join"}
)

// NewPIN checks and copies a PIN. A zero byte is refused, because chips cut
// those at the end off.
func NewPIN(pin []byte) (PIN, error) {
	if len(pin) < MinPIN || len(pin) > MaxPIN {
		return PIN{}, fmt.Errorf("tpm: a PIN of %d bytes: it must have between %d and %d", len(pin), MinPIN, MaxPIN)
	}
	if bytes.IndexByte(pin, 0) >= 0 {
		return PIN{}, errors.New("tpm: a PIN with a zero byte in it")
	}
	return PIN{bytes.Clone(pin)}, nil
}

// String does not say what it is.
func (PIN) String() string { return "PIN" }

// GoString does not say what it is.
func (PIN) GoString() string { return "tpm.PIN{}" }

// pinError tells a refused PIN from other errors of a signature.
func pinError(err error) error { return authError(err, ErrPIN) }

// sensitive is what a new key gets of its owner.
func (p PIN) sensitive() tpm2.TPM2BSensitiveCreate {
	return tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: p.auth}}}
}

package tpm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

const secretPIN = "correct-horse-31"

func newPIN(t *testing.T, pin string) tpm.PIN {
	t.Helper()
	return must(tpm.NewPIN([]byte(pin)))(t)
}

func TestPIN(t *testing.T) {
	device := tpmtest.New(t)
	chip := device.Open(t)
	made := must(chip.CreateKeyWithPIN(newPIN(t, secretPIN)))(t)
	file := must(tpm.ParseKeyFile(made.Marshal()))(t)
	if !file.PIN || file.Seal != nil {
		t.Fatalf("the file does not say that the key asks for a PIN: %+v", file)
	}
	key := must(chip.LoadKeyWithPIN(file, newPIN(t, secretPIN)))(t)
	sig := must(key.Sign(context.Background(), fleet, statement))(t)
	if err := key.PublicKey().Verify(fleet, statement, sig); err != nil {
		t.Error(err)
	}
	// It is certified like any other key.
	if _, err := chip.CertifyCreation(file, [32]byte{1}); err != nil {
		t.Errorf("certification: %v", err)
	}

	if _, err := chip.LoadKey(file); !errors.Is(err, tpm.ErrPINWanted) {
		t.Errorf("without a PIN: %v, want %v", err, tpm.ErrPINWanted)
	}
	if _, err := chip.LoadKeyWithPIN(file, tpm.PIN{}); !errors.Is(err, tpm.ErrPINWanted) {
		t.Errorf("with the zero PIN: %v, want %v", err, tpm.ErrPINWanted)
	}
	if _, err := chip.CreateKeyWithPIN(tpm.PIN{}); err == nil {
		t.Error("a key is made with the zero PIN")
	}
	if _, err := chip.LoadKeyWithPIN(createKey(t, chip, nil), newPIN(t, secretPIN)); err == nil {
		t.Error("a PIN is taken for a key that asks for none")
	}

	// A file that lies about the PIN opens nothing.
	lies := must(tpm.ParseKeyFile(file.Marshal()))(t)
	lies.PIN = false
	plain := must(chip.LoadKey(lies))(t)
	if _, err := plain.Sign(context.Background(), fleet, statement); err == nil {
		t.Error("the key signs without its PIN")
	}
	lies = createKey(t, chip, newApprover(t).sealing())
	lies.PIN = true
	if _, err := chip.LoadKeyWithPIN(lies, newPIN(t, secretPIN)); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("a sealed key with a PIN: %v, want %v", err, tpm.ErrKeyFile)
	}
}

// Failed attempts have no consequence: not for this key, not for the chip.
func TestWrongPIN(t *testing.T) {
	device := tpmtest.New(t)
	chip := device.Open(t)
	file := must(chip.CreateKeyWithPIN(newPIN(t, secretPIN)))(t)
	for attempt := range 40 { // an swtpm locks after 3
		wrong := must(chip.LoadKeyWithPIN(file, newPIN(t, fmt.Sprintf("wrong-%08d", attempt))))(t)
		_, err := wrong.Sign(context.Background(), fleet, statement)
		var advised interface{ Hint() string }
		if !errors.Is(err, tpm.ErrPIN) || !errors.As(err, &advised) {
			t.Fatalf("attempt %d: %v, want %v with a hint", attempt, err, tpm.ErrPIN)
		}
		if strings.Contains(err.Error(), "wrong-") {
			t.Errorf("the error says the PIN: %v", err)
		}
	}
	if h := must(chip.Health())(t); h.Failures != 0 || h.InLockout {
		t.Errorf("the chip counted failed attempts: %+v", h)
	}
	key := must(chip.LoadKeyWithPIN(file, newPIN(t, secretPIN)))(t)
	must(key.Sign(context.Background(), fleet, statement))(t)
}

// A listener on the bus learns neither the PIN, nor what is signed, nor an
// answer by which the PIN can be guessed: the session's key is salted.
func TestListenerForPIN(t *testing.T) {
	p := newProxy(t, tpmtest.New(t))
	chip := must(tpm.Open(p.device))(t)
	defer chip.Close()
	pin := newPIN(t, secretPIN)
	file := must(chip.CreateKeyWithPIN(pin))(t)
	key := must(chip.LoadKeyWithPIN(file, pin))(t)
	must(key.Sign(context.Background(), fleet, statement))(t)
	wire := p.passed()
	if !bytes.Contains(wire, file.Public) || !bytes.Contains(wire, file.Private) {
		t.Fatal("the listener does not hear the bus")
	}
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, statement))
	for what, secret := range map[string][]byte{"the PIN": []byte(secretPIN), "half of the PIN": []byte(secretPIN[:8]), "what was signed": digest[:]} {
		if bytes.Contains(wire, secret) {
			t.Errorf("%s passed in the clear", what)
		}
	}
}

func TestNewPIN(t *testing.T) {
	for what, pin := range map[string]string{
		"empty": "", "7 bytes": "1234567", "33 bytes": strings.Repeat("x", 33), "a zero byte": "1234567\x00",
	} {
		_, err := tpm.NewPIN([]byte(pin))
		if err == nil {
			t.Errorf("%s: is taken", what)
		} else if pin != "" && strings.Contains(err.Error(), pin) {
			t.Errorf("%s: the error says it: %v", what, err)
		}
	}
	for _, pin := range []string{"12345678", strings.Repeat("x", 32), "with space"} {
		made := must(tpm.NewPIN([]byte(pin)))(t)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if text := fmt.Sprintf(verb, made); strings.Contains(text, pin) || strings.Contains(text, fmt.Sprintf("%x", pin)) {
				t.Errorf("%s prints the PIN: %s", verb, text)
			}
		}
	}
}

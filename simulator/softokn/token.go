package softokn

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/simulator/internal/p11"
)

// session runs f with the module, in a session with the token.
func session(module, parameters string, f func(*p11.Module) error) error {
	return p11.Use(module, parameters, Label, func(m *p11.Module, slot uint) error {
		if err := m.Open(slot); err != nil {
			return err
		}
		return f(m)
	})
}

// initToken sets the PIN of the user, with which softoken calls the database
// initialised. There is no security officer: before that, his PIN is empty.
func initToken(module, parameters, pin string) error {
	return session(module, parameters, func(m *p11.Module) error {
		if err := m.Login(m.Session, pkcs11.CKU_SO, ""); err != nil {
			return fmt.Errorf("C_Login of the security officer: %w", err)
		}
		if err := m.InitPIN(m.Session, pin); err != nil {
			return fmt.Errorf("C_InitPIN: %w", err)
		}
		return nil
	})
}

// GenerateKey makes a P-256 key pair on the token: kept by the token,
// sensitive, not extractable, good for signing only, with a random CKA_ID and
// the label on both halves. A label that is taken is an error. The module must
// not be open in this process meanwhile.
func (i Instance) GenerateKey(label string) error {
	if label == "" {
		return errors.New("softokn: generate key: the label is empty")
	}
	pin, err := p11.PIN(i.URI)
	if err != nil {
		return fmt.Errorf("softokn: generate key %q: %w", label, err)
	}
	err = session(i.URI.ModulePath, i.URI.InitReserved, func(m *p11.Module) error {
		if err := m.Login(m.Session, pkcs11.CKU_USER, pin); err != nil {
			return fmt.Errorf("C_Login: %w", err)
		}
		return generate(m, label)
	})
	if err != nil {
		return fmt.Errorf("softokn: generate key %q: %w", label, err)
	}
	return nil
}

// p256 is CKA_EC_PARAMS of the curve: its OID in DER.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func generate(m *p11.Module, label string) error {
	if err := m.FindObjectsInit(m.Session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		return fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	found, _, err := m.FindObjects(m.Session, 1)
	if err != nil {
		return fmt.Errorf("C_FindObjects: %w", err)
	}
	if err := m.FindObjectsFinal(m.Session); err != nil {
		return fmt.Errorf("C_FindObjectsFinal: %w", err)
	}
	if len(found) > 0 {
		return errors.New("the token has an object of that label already")
	}
	id := make([]byte, 20)
	rand.Read(id)
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}
	if _, _, err := m.GenerateKeyPair(m.Session, mechanism, public, private); err != nil {
		return fmt.Errorf("C_GenerateKeyPair: %w", err)
	}
	return nil
}

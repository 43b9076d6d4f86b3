package tpm2pkcs11

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// with runs f with the slot that has the token of the label, between
// C_Initialize and C_Finalize. The empty label is that of the token that is
// not initialised yet, which the module always offers.
func with(module, label string, f func(p *pkcs11.Ctx, slot uint) error) (err error) {
	p := pkcs11.New(module)
	if p == nil {
		return errors.New("not a loadable PKCS#11 module: " + module)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		return fmt.Errorf("C_Initialize: %w", err)
	}
	defer func() {
		if e := p.Finalize(); err == nil && e != nil {
			err = fmt.Errorf("C_Finalize: %w", e)
		}
	}()
	slots, err := p.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil {
			return fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Label == label {
			return f(p, slot)
		}
	}
	return fmt.Errorf("the module has no token %q", label)
}

func open(p *pkcs11.Ctx, slot, user uint, pin string) (pkcs11.SessionHandle, error) {
	s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return 0, fmt.Errorf("C_OpenSession: %w", err)
	}
	if err := p.Login(s, user, pin); err != nil {
		return 0, fmt.Errorf("C_Login: %w", err)
	}
	return s, nil
}

func initToken(module, label, soPIN, userPIN string) error {
	return with(module, "", func(p *pkcs11.Ctx, slot uint) error {
		if err := p.InitToken(slot, soPIN, label); err != nil {
			return fmt.Errorf("C_InitToken: %w", err)
		}
		s, err := open(p, slot, pkcs11.CKU_SO, soPIN)
		if err != nil {
			return err
		}
		if err := p.InitPIN(s, userPIN); err != nil {
			return fmt.Errorf("C_InitPIN: %w", err)
		}
		return nil
	})
}

func generateKey(module, token, pin, label string) error {
	return with(module, token, func(p *pkcs11.Ctx, slot uint) error {
		s, err := open(p, slot, pkcs11.CKU_USER, pin)
		if err != nil {
			return err
		}
		return generate(p, s, label)
	})
}

// p256 is CKA_EC_PARAMS of the curve: its OID in DER.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func generate(p *pkcs11.Ctx, s pkcs11.SessionHandle, label string) error {
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		return fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	found, _, err := p.FindObjects(s, 1)
	if err != nil {
		return fmt.Errorf("C_FindObjects: %w", err)
	}
	if err := p.FindObjectsFinal(s); err != nil {
		return fmt.Errorf("C_FindObjectsFinal: %w", err)
	}
	if len(found) > 0 {
		return errors.New("the token has an object of that label already")
	}
	id := make([]byte, 20)
	rand.Read(id)
	// What is missing in the public half the module refuses of a key that only
	// signs. It takes CKA_VERIFY for CKA_DECRYPT of the private half, and
	// CKA_ENCRYPT for its CKA_SIGN, as the TPM has one bit for both; so to
	// allow the one or to forbid the other is CKR_GENERAL_ERROR.
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
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
	if _, _, err := p.GenerateKeyPair(s, mechanism, public, private); err != nil {
		return fmt.Errorf("C_GenerateKeyPair: %w", err)
	}
	return nil
}

package softokn

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
)

// session runs f in a session with the token, between C_Initialize and
// C_Finalize.
func session(module, parameters string, f func(*pkcs11.Ctx, pkcs11.SessionHandle) error) (err error) {
	p := pkcs11.New(module)
	if p == nil {
		return errors.New("not a loadable PKCS#11 module: " + module)
	}
	defer p.Destroy()
	// A C string, in a place that it keeps while the module may look at it.
	text := append([]byte(parameters), 0)
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&text[0])
	if err := p.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))); err != nil {
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
		if info.Label != Label {
			continue
		}
		s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return fmt.Errorf("C_OpenSession: %w", err)
		}
		return f(p, s)
	}
	return fmt.Errorf("softoken has no token %q", Label)
}

// initToken sets the PIN of the user, with which softoken calls the database
// initialised. There is no security officer: before that, his PIN is empty.
func initToken(module, parameters, pin string) error {
	return session(module, parameters, func(p *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if err := p.Login(s, pkcs11.CKU_SO, ""); err != nil {
			return fmt.Errorf("C_Login of the security officer: %w", err)
		}
		if err := p.InitPIN(s, pin); err != nil {
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
	pin, err := readPIN(i.URI)
	if err != nil {
		return fmt.Errorf("softokn: generate key %q: %w", label, err)
	}
	err = session(i.URI.ModulePath, i.URI.InitReserved, func(p *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if err := p.Login(s, pkcs11.CKU_USER, pin); err != nil {
			return fmt.Errorf("C_Login: %w", err)
		}
		return generate(p, s, label)
	})
	if err != nil {
		return fmt.Errorf("softokn: generate key %q: %w", label, err)
	}
	return nil
}

func readPIN(uri hsm.URI) (string, error) {
	source, err := url.Parse(uri.PINSource)
	if err != nil {
		return "", err
	}
	pin, err := os.ReadFile(source.Path)
	return string(pin), err
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
	if _, _, err := p.GenerateKeyPair(s, mechanism, public, private); err != nil {
		return fmt.Errorf("C_GenerateKeyPair: %w", err)
	}
	return nil
}

package softhsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// initToken makes a token in SoftHSM's free slot, sets both PINs, and returns
// the serial number that SoftHSM gave it.
func initToken(module, label, soPIN, userPIN string) (serial string, err error) {
	p := pkcs11.New(module)
	if p == nil {
		return "", errors.New("not a loadable PKCS#11 module: " + module)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		return "", fmt.Errorf("C_Initialize: %w", err)
	}
	defer func() {
		if e := p.Finalize(); err == nil && e != nil {
			err = fmt.Errorf("C_Finalize: %w", e)
		}
	}()
	slot, err := freeSlot(p, label)
	if err != nil {
		return "", err
	}
	if err := p.InitToken(slot, soPIN, label); err != nil {
		return "", fmt.Errorf("C_InitToken: %w", err)
	}
	session, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return "", fmt.Errorf("C_OpenSession: %w", err)
	}
	if err := p.Login(session, pkcs11.CKU_SO, soPIN); err != nil {
		return "", fmt.Errorf("C_Login of the security officer: %w", err)
	}
	if err := p.InitPIN(session, userPIN); err != nil {
		return "", fmt.Errorf("C_InitPIN: %w", err)
	}
	info, err := p.GetTokenInfo(slot)
	if err != nil {
		return "", fmt.Errorf("C_GetTokenInfo: %w", err)
	}
	return info.SerialNumber, nil
}

// freeSlot returns the slot without a token in it that SoftHSM always offers.
func freeSlot(p *pkcs11.Ctx, label string) (uint, error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("C_GetSlotList: %w", err)
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			free, found = slot, true
		} else if info.Label == label {
			return 0, errors.New("there is a token of that label already")
		}
	}
	if !found {
		return 0, errors.New("SoftHSM offers no free slot")
	}
	return free, nil
}

package tpm2pkcs11

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/simulator/internal/p11"
)

// initToken makes a token with the label out of the one without, which the
// module always offers, and sets both PINs.
func initToken(module, label, soPIN, userPIN string) error {
	return p11.Use(module, "", "", func(m *p11.Module, slot uint) error {
		if err := m.InitToken(slot, soPIN, label); err != nil {
			return fmt.Errorf("C_InitToken: %w", err)
		}
		if err := m.Open(slot); err != nil {
			return err
		}
		if err := m.Login(m.Session, pkcs11.CKU_SO, soPIN); err != nil {
			return fmt.Errorf("C_Login: %w", err)
		}
		if err := m.InitPIN(m.Session, userPIN); err != nil {
			return fmt.Errorf("C_InitPIN: %w", err)
		}
		return nil
	})
}

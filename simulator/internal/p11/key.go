package p11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// Find returns the only object of the class and label.
func (m *Module) Find(class uint, label string) (pkcs11.ObjectHandle, error) {
	err := m.FindObjectsInit(m.Session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
	if err != nil {
		return 0, err
	}
	found, _, err := m.FindObjects(m.Session, 2)
	if err := errors.Join(err, m.FindObjectsFinal(m.Session)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d objects of class %d and label %q, want 1", len(found), class, label)
	}
	return found[0], nil
}

// Attribute returns the value of an attribute of the object.
func (m *Module) Attribute(o pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := m.GetAttributeValue(m.Session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, fmt.Errorf("attribute %#x: %w", kind, err)
	}
	return got[0].Value, nil
}

// SignDigest signs with the key. Its errors are the module's.
func (m *Module) SignDigest(key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := m.SignInit(m.Session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, key); err != nil {
		return nil, err
	}
	return m.Sign(m.Session, digest)
}

// SignAndVerify signs something with the P-256 key of the label, and verifies
// it with what the module says is its public half.
func (m *Module) SignAndVerify(label string) error {
	private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return err
	}
	public, err := m.Find(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return err
	}
	point, err := m.Attribute(public, pkcs11.CKA_EC_POINT)
	if err != nil {
		return err
	}
	if len(point) != 67 || point[0] != 4 || point[1] != 65 {
		return fmt.Errorf("CKA_EC_POINT is %x, want an OCTET STRING of 65 bytes", point)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[2:])
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(label))
	sig, err := m.SignDigest(private, digest[:])
	if err != nil {
		return err
	}
	if len(sig) != 64 || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return fmt.Errorf("signature %x does not verify", sig)
	}
	return nil
}

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"os"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"
)

var errVerify = errors.New("signature does not verify")

// openRaw is what a careful program does that uses the binding itself: each
// caller has a session of its own, hashes, signs and verifies.
func openRaw(j job) (*side, error) { return raw(j, true) }

// openUnverified is openRaw without looking at the signature.
func openUnverified(j job) (*side, error) { return raw(j, false) }

func raw(j job, verify bool) (*side, error) {
	if j.Callers > j.Sessions {
		return nil, fmt.Errorf("%d callers with %d sessions", j.Callers, j.Sessions)
	}
	pin, err := os.ReadFile(j.PINFile)
	if err != nil {
		return nil, err
	}
	p := pkcs11.New(j.Module)
	if p == nil {
		return nil, fmt.Errorf("cannot load %s", j.Module)
	}
	if err := p.Initialize(); err != nil {
		return nil, err
	}
	slot, err := slotOf(p, j.Token)
	if err != nil {
		return nil, err
	}
	sessions := make([]pkcs11.SessionHandle, j.Sessions)
	for i := range sessions {
		if sessions[i], err = p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
			return nil, err
		}
	}
	if err := p.Login(sessions[0], pkcs11.CKU_USER, string(pin)); err != nil {
		return nil, err
	}
	private, err := object(p, sessions[0], pkcs11.CKO_PRIVATE_KEY, j.Key)
	if err != nil {
		return nil, err
	}
	public, err := publicOf(p, sessions[0], j.Key)
	if err != nil {
		return nil, err
	}
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	return &side{sign: func(caller int) error {
		digest := sha256.Sum256(j.Message)
		if err := p.SignInit(sessions[caller], mechanism, private); err != nil {
			return err
		}
		sig, err := p.Sign(sessions[caller], digest[:])
		if err != nil || !verify {
			return err
		}
		if !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])) {
			return errVerify
		}
		return nil
	}, close: func() error {
		defer p.Destroy()
		return p.Finalize()
	}}, nil
}

func slotOf(p *pkcs11.Ctx, label string) (uint, error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	for _, slot := range slots {
		if info, err := p.GetTokenInfo(slot); err == nil && info.Label == label {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("there is no token %q", label)
}

func object(p *pkcs11.Ctx, s pkcs11.SessionHandle, class uint, label string) (pkcs11.ObjectHandle, error) {
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		return 0, err
	}
	found, _, err := p.FindObjects(s, 2)
	if err = errors.Join(err, p.FindObjectsFinal(s)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d objects %q of class %d, want 1", len(found), label, class)
	}
	return found[0], nil
}

// publicOf reads a P-256 key, whose point is in an OCTET STRING of 65 bytes.
func publicOf(p *pkcs11.Ctx, s pkcs11.SessionHandle, label string) (*ecdsa.PublicKey, error) {
	o, err := object(p, s, pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return nil, err
	}
	a, err := p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, err
	}
	if len(a[0].Value) != 67 {
		return nil, fmt.Errorf("CKA_EC_POINT of %d bytes, want 67", len(a[0].Value))
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), a[0].Value[2:])
}

// openCrypto11 is ThalesIgnite's library, with a pool of sessions.
func openCrypto11(j job) (*side, error) {
	pin, err := os.ReadFile(j.PINFile)
	if err != nil {
		return nil, err
	}
	// One session is the library's own.
	c, err := crypto11.Configure(&crypto11.Config{Path: j.Module, TokenLabel: j.Token, Pin: string(pin), MaxSessions: j.Sessions + 1})
	if err != nil {
		return nil, err
	}
	key, err := c.FindKeyPair(nil, []byte(j.Key))
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("there is no key %q", j.Key)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T", key.Public())
	}
	return &side{sign: func(int) error {
		digest := sha256.Sum256(j.Message)
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(public, digest[:], sig) {
			return errVerify
		}
		return nil
	}, close: c.Close}, nil
}

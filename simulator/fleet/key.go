package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"

	"github.com/chancery-pki/chancery"
)

// A Key is a P-256 private key in memory. It is a [chancery.Signer].
type Key struct {
	private *ecdsa.PrivateKey
	public  chancery.PublicKey
}

// NewKey makes a key.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	return &Key{private, public}, nil
}

// PublicKey returns the public half.
func (k *Key) PublicKey() chancery.PublicKey { return k.public }

// Sign signs the statement and verifies the signature.
func (k *Key) Sign(_ context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	suite := k.public.Suite()
	h := suite.Hash().New()
	h.Write(chancery.Message(fleet, suite, s))
	der, err := k.private.Sign(rand.Reader, h.Sum(nil), suite.Hash())
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	sig, err := chancery.NewSignatureASN1(suite, der)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	return sig, k.public.Verify(fleet, s, sig)
}

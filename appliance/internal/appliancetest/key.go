package appliancetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/chancery-pki/chancery"
)

func newKey(t testing.TB) (*ecdsa.PrivateKey, chancery.PublicKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// What credentials are made with is the public area, bit by bit.
func TestEndorsementArea(t *testing.T) {
	for _, template := range ekTemplates {
		var unique cryptobyte.Builder
		if template.curve == nil {
			key, err := rsa.GenerateKey(rand.Reader, 8*template.size)
			if err != nil {
				t.Fatal(err)
			}
			add2B(&unique, key.N.Bytes())
		} else {
			key, err := ecdsa.GenerateKey(template.curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			point, err := key.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			add2B(&unique, point[1:1+template.size])
			add2B(&unique, point[1+template.size:])
		}
		public := append(bytes.Clone(template.head), unique.BytesOrPanic()...)
		for range 2 { // the template is parsed once
			key, err := ParseEndorsementKey(public)
			if err != nil {
				t.Fatal(err)
			}
			if area := tpm2.Marshal(key.area()); !bytes.Equal(area, public) {
				t.Errorf("template %s: %x, want %x", template.name, area, public)
			}
		}
	}
}

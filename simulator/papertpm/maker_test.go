package papertpm_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// TestCertificate reads an EK certificate with the standard library alone.
func TestCertificate(t *testing.T) {
	m := must(newMaker())(t)
	usages := map[papertpm.Kind]x509.KeyUsage{
		papertpm.P256: x509.KeyUsageKeyAgreement, papertpm.P384: x509.KeyUsageKeyAgreement, papertpm.RSA2048: x509.KeyUsageKeyEncipherment,
	}
	for kind, usage := range usages {
		ek := must(newChip(t, papertpm.Options{EK: kind}).EK())(t)
		c := must(x509.ParseCertificate(ek.Certificate))(t)
		if c.KeyUsage != usage || c.IsCA || !c.BasicConstraintsValid || c.Subject.String() != "" || len(c.UnknownExtKeyUsage) != 1 || len(c.ExtKeyUsage) != 0 {
			t.Errorf("%v: %+v", kind, c)
		}
		if c.SerialNumber.Sign() <= 0 || c.NotAfter.Year() != 9999 || len(c.AuthorityKeyId) == 0 {
			t.Errorf("%v: serial number %v, until %v, issuer %x", kind, c.SerialNumber, c.NotAfter, c.AuthorityKeyId)
		}
		if ek.Chain != nil {
			t.Errorf("%v: a chip with a chain of %d", kind, len(ek.Chain))
		}
		stranger := must(papertpm.NewMaker())(t)
		wantLink(t, "another maker", must(tpm.ParseEKCertificate(ek.Certificate))(t).Verify(nil, stranger.Roots(), time.Now()), tpm.LinkEKCertificate, nil)
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(m.RootsPEM()) || !pool.Equal(m.Roots()) {
			t.Error("Roots and RootsPEM differ")
		}
	}
}

// TestDistinct makes some hundred RSA endorsement keys: valid, and no two the
// same.
func TestDistinct(t *testing.T) {
	m, seen := must(newMaker())(t), map[string]bool{}
	for range 400 {
		ek := must(must(m.New(papertpm.Options{EK: papertpm.RSA2048}))(t).EK())(t)
		must(tpm.ParseEndorsementKey(ek.Public))(t)
		if seen[string(ek.SPKI)] {
			t.Fatal("two chips have the same endorsement key")
		}
		seen[string(ek.SPKI)] = true
		key := must(x509.ParsePKIXPublicKey(ek.SPKI))(t).(*rsa.PublicKey)
		if key.N.BitLen() != 2048 || key.E != 65537 {
			t.Fatalf("modulus of %d bits, exponent %d", key.N.BitLen(), key.E)
		}
	}
	for _, kind := range []papertpm.Kind{papertpm.P256, papertpm.P384} {
		a, b := must(newChip(t, papertpm.Options{EK: kind}).EK())(t), must(newChip(t, papertpm.Options{EK: kind}).EK())(t)
		if must(x509.ParsePKIXPublicKey(a.SPKI))(t).(*ecdsa.PublicKey).Equal(must(x509.ParsePKIXPublicKey(b.SPKI))(t)) {
			t.Errorf("%v: the same endorsement key", kind)
		}
	}
}

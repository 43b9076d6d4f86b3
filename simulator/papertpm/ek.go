package papertpm

import (
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
)

// A Kind is an endorsement key's: one of the templates of the TCG EK
// Credential Profile 2.5, appendix B.
type Kind int

// The kinds, the cheapest first.
const (
	P256    Kind = iota // template L-2
	P384                // template H-3, what swtpm has and this project prefers
	RSA2048             // template L-1, what most chips in the field have
)

// String returns the kind with its template.
func (k Kind) String() string {
	switch k {
	case P256:
		return "L-2 (ECC P-256)"
	case P384:
		return "H-3 (ECC P-384)"
	case RSA2048:
		return "L-1 (RSA 2048)"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// endorsement is an endorsement key in its chip.
type endorsement struct {
	tpm.EK
	protection
	private decapsulator
}

// A decapsulator recovers the seed that TPM2_MakeCredential encrypted to a key.
type decapsulator interface {
	public() crypto.PublicKey
	// unique is the key in its public area.
	unique() tpm2.TPMUPublicID
	seed(encrypted []byte) ([]byte, error)
}

// endorse makes an endorsement key and certifies it.
func (m *Maker) endorse(kind Kind, info tpm.Info) (*endorsement, error) {
	var private decapsulator
	var err error
	area, p := template(kind), protection{hash: crypto.SHA256, bits: 128}
	switch kind {
	case P256:
		private, err = newECKey(crypto.SHA256)
	case P384:
		private, err = newECKey(crypto.SHA384)
		p = protection{hash: crypto.SHA384, bits: 256}
	case RSA2048:
		private, err = newRSAKey(&m.primes)
	default:
		return nil, fmt.Errorf("papertpm: %v is no kind of endorsement key", kind)
	}
	if err != nil {
		return nil, err
	}
	area.Unique = private.unique()
	ek := &endorsement{EK: tpm.EK{Public: tpm2.Marshal(area)}, protection: p, private: private}
	if ek.SPKI, err = x509.MarshalPKIXPublicKey(private.public()); err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	if ek.Certificate, err = m.certify(private.public(), info); err != nil {
		return nil, fmt.Errorf("papertpm: EK certificate: %w", err)
	}
	return ek, nil
}

// template is the public area without the key. go-tpm has the templates of the
// low range.
func template(kind Kind) tpm2.TPMTPublic {
	switch kind {
	case RSA2048:
		return tpm2.RSAEKTemplate
	case P384:
		area := tpm2.ECCEKTemplate
		area.NameAlg = tpm2.TPMAlgSHA384
		area.ObjectAttributes.UserWithAuth = true
		area.AuthPolicy = tpm2.TPM2BDigest{Buffer: policyB()}
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
			CurveID: tpm2.TPMECCNistP384,
		})
		return area
	}
	return tpm2.ECCEKTemplate
}

package papertpm

import (
	"crypto/aes"
	"crypto/hmac"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"
)

// Activate recovers the secret of a credential that was made for this chip's
// endorsement key and attestation key (TPM 2.0 Part 1, section 24). One for
// another chip or another attestation key is TPM_RC_INTEGRITY, or with an RSA
// key of another chip TPM_RC_VALUE.
func (c *Chip) Activate(credential, encryptedSecret []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seed, err := c.ek.private.seed(encryptedSecret)
	if err != nil {
		return nil, fmt.Errorf("papertpm: activate credential: %w", err)
	}
	var mac cryptobyte.String
	encrypted := cryptobyte.String(credential)
	if !encrypted.ReadUint16LengthPrefixed(&mac) {
		return nil, fmt.Errorf("papertpm: activate credential: %w", tpm2.TPMRCInsufficient)
	}
	if !hmac.Equal(mac, c.ek.mac(seed, c.ak.name, encrypted)) {
		return nil, fmt.Errorf("papertpm: activate credential: %w", tpm2.TPMRCIntegrity)
	}
	plain := cryptobyte.String(c.ek.decrypt(seed, c.ak.name, make([]byte, aes.BlockSize), encrypted))
	var secret cryptobyte.String
	if !plain.ReadUint16LengthPrefixed(&secret) || !plain.Empty() || len(secret) > c.ek.hash.Size() {
		return nil, fmt.Errorf("papertpm: activate credential: %w", tpm2.TPMRCSize)
	}
	return secret, nil
}

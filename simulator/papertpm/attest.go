package papertpm

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
)

// CertifyCreation attests that this chip made the key of the file, and in
// which state (TPM 2.0 Part 3, section 18.3).
func (c *Chip) CertifyCreation(file *tpm.KeyFile, qualifying [32]byte) (tpm.Attestation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ticket, err := tpm2.Unmarshal[tpm2.TPMTTKCreation](file.CreationTicket)
	if err != nil {
		return tpm.Attestation{}, fmt.Errorf("papertpm: %w: creation ticket", tpm.ErrKeyFile)
	}
	if _, err := c.unwrap(file); err != nil {
		return tpm.Attestation{}, err
	}
	name, hash := nameOf(file.Public), sha256.Sum256(file.CreationData)
	if !hmac.Equal(ticket.Digest.Buffer, c.ticket(name, hash).Digest.Buffer) {
		return tpm.Attestation{}, fmt.Errorf("papertpm: certify creation: %w", tpm2.TPMRCTicket)
	}
	return c.attest(tpm2.TPMSTAttestCreation, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{
		ObjectName:   name2B(name),
		CreationHash: tpm2.TPM2BDigest{Buffer: hash[:]},
	}), qualifying)
}

// Quote attests PCRs of the SHA-256 bank and returns their values with it
// (TPM 2.0 Part 3, section 18.4).
func (c *Chip) Quote(pcrs []int, qualifying [32]byte) (tpm.Attestation, tpm.PCRValues, error) {
	if err := checkPCRs(pcrs); err != nil {
		return tpm.Attestation{}, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	digest := c.pcrDigest(pcrs)
	a, err := c.attest(tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: selection(pcrs),
		PCRDigest: tpm2.TPM2BDigest{Buffer: digest[:]},
	}), qualifying)
	if err != nil {
		return tpm.Attestation{}, nil, err
	}
	return a, c.values(pcrs), nil
}

// attest composes a TPMS_ATTEST and signs it with the attestation key. Since
// that is in the endorsement hierarchy, clock and firmware are told as they
// are. The caller holds mu.
func (c *Chip) attest(kind tpm2.TPMST, what tpm2.TPMUAttest, qualifying [32]byte) (tpm.Attestation, error) {
	attest := tpm2.Marshal(tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		Type:            kind,
		QualifiedSigner: name2B(c.ak.qualified),
		ExtraData:       tpm2.TPM2BData{Buffer: qualifying[:]},
		ClockInfo: tpm2.TPMSClockInfo{
			Clock:      uint64(time.Since(c.made).Milliseconds()),
			ResetCount: c.resetCount,
			Safe:       true,
		},
		FirmwareVersion: c.info.Firmware,
		Attested:        what,
	})
	digest := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, c.ak.key, digest[:])
	if err != nil {
		return tpm.Attestation{}, fmt.Errorf("papertpm: %w", err)
	}
	return tpm.Attestation{Attest: attest, Signature: tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))},
		}),
	})}, nil
}

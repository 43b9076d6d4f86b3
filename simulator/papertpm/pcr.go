package papertpm

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// PCRValues returns values of the SHA-256 bank.
func (c *Chip) PCRValues(pcrs []int) (tpm.PCRValues, error) {
	if err := checkPCRs(pcrs); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values(pcrs), nil
}

// ExtendPCR makes a PCR the hash of its value and the digest, as firmware does
// that measures (TPM 2.0 Part 3, section 22.2).
func (c *Chip) ExtendPCR(pcr int, digest [32]byte) error {
	if err := checkPCRs([]int{pcr}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pcrs[pcr] = sha256.Sum256(append(c.pcrs[pcr][:], digest[:]...))
	return nil
}

// resetPCRs gives PCRs the values that they have after TPM2_Startup(CLEAR).
// Those of a dynamic launch show by their ones that there was none.
func (c *Chip) resetPCRs() {
	c.pcrs = [24][32]byte{}
	for pcr := 17; pcr <= 22; pcr++ {
		for i := range c.pcrs[pcr] {
			c.pcrs[pcr][i] = 0xff
		}
	}
}

// values copies PCRs. The caller holds mu.
func (c *Chip) values(pcrs []int) tpm.PCRValues {
	v := tpm.PCRValues{}
	for _, pcr := range pcrs {
		v[pcr] = c.pcrs[pcr]
	}
	return v
}

// pcrDigest is the hash of PCRs in rising order. The caller holds mu.
func (c *Chip) pcrDigest(pcrs []int) [32]byte {
	h := sha256.New()
	for _, pcr := range pcrs {
		h.Write(c.pcrs[pcr][:])
	}
	return [32]byte(h.Sum(nil))
}

func checkPCRs(pcrs []int) error {
	for i, pcr := range pcrs {
		if pcr < 0 || pcr > 23 || i > 0 && pcrs[i-1] >= pcr {
			return fmt.Errorf("papertpm: %w: %v", tpm.ErrPCRs, pcrs)
		}
	}
	return nil
}

// checkSealing refuses what a tpm.TPM refuses to seal to.
func checkSealing(s *tpm.Sealing) error {
	switch {
	case s.Approval.IsZero() || s.Approval.Suite() != chancery.P256:
		return fmt.Errorf("papertpm: the approval key must be a P-256 key, not %v", s.Approval)
	case len(s.PCRs) == 0:
		return fmt.Errorf("papertpm: %w: none named", tpm.ErrPCRs)
	case slices.Contains(s.PCRs, 16) || slices.Contains(s.PCRs, 23):
		return fmt.Errorf("papertpm: %w", tpm.ErrResettablePCR)
	}
	return checkPCRs(s.PCRs)
}

// selection of the SHA-256 bank.
func selection(pcrs []int) tpm2.TPMLPCRSelection {
	numbers := make([]uint, len(pcrs))
	for i, pcr := range pcrs {
		numbers[i] = uint(pcr)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)},
	}}
}

package papertpm

import (
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

const epochHandle = 0x01800101

// counter is the epoch counter, once it was written.
type counter struct {
	authority
	value uint64
}

// epochArea is the public area of the epoch counter (docs/protocol.md section
// 4.9): written by policy only, the first time by anybody.
func (a authority) epochArea() tpm2.TPMSNVPublic {
	first := policyOf(tpm2.TPMAlgSHA256, tpm2.PolicyNVWritten{}, tpm2.PolicyCommandCode{Code: tpm2.TPMCCNVIncrement})
	later := a.authorized(reference("chancery-v1 increment", a.ak, nil))
	return tpm2.TPMSNVPublic{
		NVIndex: epochHandle,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PolicyWrite: true, NT: tpm2.TPMNTCounter, AuthRead: true, NoDA: true, Written: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policyOr(tpm2.TPMAlgSHA256, first, later)},
		DataSize:   8,
	}
}

// authority returns an approval key's, which the counter remembers. The caller
// holds mu.
func (c *Chip) authority(approval chancery.PublicKey, ak tpm.Name) authority {
	if c.epoch != nil && c.epoch.ak == ak && c.epoch.key.Equal(approval) {
		return c.epoch.authority
	}
	return newAuthority(approval, ak)
}

// Epoch returns the value of the epoch counter for this approval key.
func (c *Chip) Epoch(approval chancery.PublicKey) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readEpoch(c.authority(approval, c.ak.name))
}

// ApplyEpoch moves the epoch counter from the value to the next one, under the
// approval key's signature over tpm.Increment, and returns the new value. One
// that has worked already is no error.
func (c *Chip) ApplyEpoch(approval chancery.PublicKey, from uint64, signature chancery.Signature) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.authority(approval, c.ak.name)
	if err := approval.Verify(chancery.FleetID{}, a.increment(from), signature); err != nil {
		return 0, fmt.Errorf("papertpm: increment from epoch %d: %w", from, err)
	}
	current, err := c.readEpoch(a)
	if err != nil {
		return 0, err
	}
	if current == from+1 {
		return current, nil
	}
	if current != from {
		return 0, fmt.Errorf("papertpm: the increment is from epoch %d, but the counter is at %d", from, current)
	}
	c.epoch.value++
	return c.epoch.value, nil
}

// CertifyEpoch attests the value of the epoch counter (TPM 2.0 Part 3, section
// 31.16).
func (c *Chip) CertifyEpoch(qualifying [32]byte) (tpm.Attestation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == nil {
		return tpm.Attestation{}, fmt.Errorf("papertpm: epoch counter: %w", tpm2.TPMRCHandle)
	}
	return c.attest(tpm2.TPMSTAttestNV, tpm2.NewTPMUAttest(tpm2.TPMSTAttestNV, &tpm2.TPMSNVCertifyInfo{
		IndexName:  name2B(c.epoch.indexName),
		NVContents: tpm2.TPM2BData{Buffer: binary.BigEndian.AppendUint64(nil, c.epoch.value)},
	}), qualifying)
}

// ensureEpoch returns the counter's value and makes the counter if there is
// none. The caller holds mu.
func (c *Chip) ensureEpoch(a authority) (uint64, error) {
	if c.epoch == nil {
		c.epoch = &counter{authority: a, value: 1}
	}
	return c.readEpoch(a)
}

// readEpoch refuses the counter of another approval key. The caller holds mu.
func (c *Chip) readEpoch(a authority) (uint64, error) {
	switch {
	case c.epoch == nil:
		return 0, fmt.Errorf("papertpm: %w: there is none: %w", tpm.ErrIndex, tpm2.TPMRCHandle)
	case c.epoch.indexName != a.indexName:
		return 0, fmt.Errorf("papertpm: %w: Name %v, want %v", tpm.ErrIndex, c.epoch.indexName, a.indexName)
	}
	return c.epoch.value, nil
}

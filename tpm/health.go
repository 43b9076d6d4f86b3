package tpm

import (
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A Health is what may keep a chip from working, now or after a reboot.
type Health struct {
	OwnerAuth       bool // the owner hierarchy has a password
	EndorsementAuth bool // the endorsement hierarchy has one
	LockoutAuth     bool // TPM2_Clear and the reset of a lock-out take a password
	InLockout       bool
	Failures        uint32        // failed attempts that are counted
	MaxFailures     uint32        // with so many the chip locks
	Recovery        time.Duration // until one failed attempt is forgotten
	Clock           Facts         // resets, restarts, and whether the clock went back
}

// Attributes in TPM_PT_PERMANENT (TPM 2.0 Part 2, section 8.6).
const (
	ownerAuthSet       = 1 << 0
	endorsementAuthSet = 1 << 1
	lockoutAuthSet     = 1 << 2
	inLockout          = 1 << 9
)

// Health reads the chip's variable properties (TPM 2.0 Part 2, section 6.13)
// and clock.
func (t *TPM) Health() (h Health, err error) {
	end, err := t.begin()
	if err != nil {
		return h, err
	}
	defer end()
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTPermanent),
		PropertyCount: uint32(tpm2.TPMPTLockoutRecovery-tpm2.TPMPTPermanent) + 1,
	}.Execute(t.transport)
	if err != nil {
		return h, fmt.Errorf("tpm: read properties: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return h, fmt.Errorf("tpm: read properties: %w", err)
	}
	p := map[tpm2.TPMPT]uint32{}
	for _, v := range list.TPMProperty {
		p[v.Property] = v.Value
	}
	permanent := p[tpm2.TPMPTPermanent]
	h = Health{
		OwnerAuth: permanent&ownerAuthSet != 0, EndorsementAuth: permanent&endorsementAuthSet != 0,
		LockoutAuth: permanent&lockoutAuthSet != 0, InLockout: permanent&inLockout != 0,
		Failures: p[tpm2.TPMPTLockoutCounter], MaxFailures: p[tpm2.TPMPTMaxAuthFail],
		Recovery: time.Duration(p[tpm2.TPMPTLockoutInterval]) * time.Second,
	}
	now, err := tpm2.ReadClock{}.Execute(t.transport)
	if err != nil {
		return h, fmt.Errorf("tpm: read clock: %w", err)
	}
	c := now.CurrentTime.ClockInfo
	h.Clock = Facts{Clock: c.Clock, ResetCount: c.ResetCount, RestartCount: c.RestartCount, Safe: bool(c.Safe)}
	return h, nil
}

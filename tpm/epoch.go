package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
)

// ApplyEpoch moves the epoch counter from the value to the next one, under
// the approval key's signature over [Increment], and returns the new value.
// The order of an update is: fetch the approval for the new state and epoch,
// boot into it, then apply the epoch. An increment works once; one that has
// worked already, whose answer may have been lost, is no error.
func (t *TPM) ApplyEpoch(approval chancery.PublicKey, from uint64, signature chancery.Signature) (uint64, error) {
	end, err := t.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	ak, err := t.attestationKey()
	if err != nil {
		return 0, err
	}
	increment := Increment(approval, ak.Name, from)
	if err := approval.Verify(chancery.FleetID{}, increment, signature); err != nil {
		return 0, fmt.Errorf("tpm: increment from epoch %d: %w", from, err)
	}
	index := epochIndex(approval, ak.Name)
	current, err := t.settledEpoch(index)
	if err != nil {
		return 0, err
	}
	if current == from+1 {
		return current, nil
	}
	if current != from {
		return 0, fmt.Errorf("tpm: the increment is from epoch %d, but the counter is at %d", from, current)
	}
	s, err := t.bareSession()
	if err != nil {
		return 0, err
	}
	defer s.end()
	if err := t.policyNV(s, index.name(), opEq, from); err != nil {
		return 0, err
	}
	if err := t.policyCommandCode(s, tpm2.TPMCCNVIncrement); err != nil {
		return 0, err
	}
	if err := t.policyAuthorize(s, approval, increment, signature); err != nil {
		return 0, err
	}
	if err := t.increment(s, index, approval, ak.Name); err != nil {
		return 0, err
	}
	return t.settledEpoch(index)
}

// Epoch returns the value of the epoch counter for this approval key.
func (t *TPM) Epoch(approval chancery.PublicKey) (uint64, error) {
	end, err := t.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	ak, err := t.attestationKey()
	if err != nil {
		return 0, err
	}
	return t.readEpoch(epochIndex(approval, ak.Name))
}

// ensureEpoch returns the counter's value and makes the counter first if the
// chip has none. A counter that a crash left defined but never written is
// finished. A new counter starts above every value that any counter in this
// chip ever had, so values are not comparable between chips.
func (t *TPM) ensureEpoch(approval chancery.PublicKey, ak Name) (uint64, error) {
	index := epochIndex(approval, ak)
	name, err := t.ensureIndex(index)
	if err != nil {
		return 0, err
	}
	if name == index.unwritten().name() {
		if err := t.firstIncrement(index, approval, ak); err != nil {
			return 0, err
		}
	}
	return t.settledEpoch(index)
}

// firstIncrement takes the branch of the index's policy that is open to
// anybody and only once.
func (t *TPM) firstIncrement(index nvPublic, approval chancery.PublicKey, ak Name) error {
	s, err := t.bareSession()
	if err != nil {
		return err
	}
	defer s.end()
	_, err = tpm2.PolicyNVWritten{PolicySession: s.Handle()}.Execute(t.transport)
	if err := policyError("PolicyNvWritten", err); err != nil {
		return err
	}
	if err := t.policyCommandCode(s, tpm2.TPMCCNVIncrement); err != nil {
		return err
	}
	return t.increment(s, index.unwritten(), approval, ak)
}

// increment takes the OR of the index's policy and moves the counter. The
// index is given as it is now, written or not.
func (t *TPM) increment(s session, index nvPublic, approval chancery.PublicKey, ak Name) error {
	first, next := incrementBranches(approval, ak)
	if err := t.policyOR(s, first, next); err != nil {
		return err
	}
	_, err := tpm2.NVIncrement{
		AuthHandle: withAuth(epochHandle, index.name(), s),
		NVIndex:    named(epochHandle, index.name()),
	}.Execute(t.transport)
	if err != nil {
		return fmt.Errorf("tpm: increment epoch counter: %w", err)
	}
	return nil
}

// settledEpoch is readEpoch for those who decide by it for good.
func (t *TPM) settledEpoch(index nvPublic) (uint64, error) {
	return steady(func() (uint64, error) { return t.readEpoch(index) }, same[uint64])
}

// readEpoch reads the counter and refuses any other index in its place.
func (t *TPM) readEpoch(index nvPublic) (uint64, error) {
	v, err := t.readCounter(index, ErrIndex)
	if absent(err) {
		return 0, fmt.Errorf("%w: there is none: %w", ErrIndex, err)
	}
	return v, err
}

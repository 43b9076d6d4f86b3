package papertpm_test

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

var measurement = sha256.Sum256([]byte("a new boot loader"))

func signs(t testing.TB, chip *papertpm.Chip, file *tpm.KeyFile) error {
	t.Helper()
	key := must(chip.LoadKey(file))(t)
	signature, err := key.Sign(t.Context(), fleet, statement)
	if err != nil {
		return err
	}
	return key.PublicKey().Verify(fleet, statement, signature)
}

func wantSigns(t testing.TB, step string, chip *papertpm.Chip, file *tpm.KeyFile) {
	t.Helper()
	if err := signs(t, chip, file); err != nil {
		t.Errorf("%s: the key does not sign: %v", step, err)
	}
}

func wantSealed(t testing.TB, step string, chip *papertpm.Chip, file *tpm.KeyFile) {
	t.Helper()
	var sealed *tpm.SealedError
	if err := signs(t, chip, file); !errors.As(err, &sealed) {
		t.Errorf("%s: signing: %v, want a *SealedError", step, err)
	}
}

// TestSeal is the life of a sealed key, as package tpm tells it of a chip.
func TestSeal(t *testing.T) {
	chip, approver := newChip(t, papertpm.Options{}), newApprover(t)
	file := must(chip.CreateKey(approver.sealing()))(t)
	original, epoch := must(chip.PCRValues(tpm.DefaultPCRs))(t), file.Seal.Epoch
	extend := func() tpm.PCRValues {
		t.Helper()
		if err := chip.ExtendPCR(7, measurement); err != nil {
			t.Fatal(err)
		}
		return must(chip.PCRValues(tpm.DefaultPCRs))(t)
	}
	wantSigns(t, "as created", chip, file)

	changed := extend()
	var sealed *tpm.SealedError
	if err := signs(t, chip, file); !errors.As(err, &sealed) {
		t.Fatalf("after PCR 7 changed: %v, want a *SealedError", err)
	}
	if sealed.Values.Digest() != changed.Digest() || sealed.Epoch != epoch || sealed.Seal.Policy() != file.Seal.Policy() {
		t.Errorf("the error does not tell the state: %+v", sealed)
	}
	approver.approve(t, file, epoch, original)
	wantSealed(t, "approval of the old state only", chip, file)
	approver.approve(t, file, epoch, changed)
	wantSigns(t, "approval of the new state", chip, file)

	chip.Reset()
	wantSigns(t, "as created again after a reboot", chip, file)
	extend()
	wantSigns(t, "approved state after a reboot", chip, file)

	// Next epoch: approval first, then the increment.
	approver.approve(t, file, epoch+1, changed)
	increment := approver.sign(t, tpm.Increment(approver.key, file.Seal.AK, epoch))
	if got, err := chip.ApplyEpoch(approver.key, epoch, increment); err != nil || got != epoch+1 {
		t.Fatalf("epoch %d after the increment (%v), want %d", got, err, epoch+1)
	}
	wantSigns(t, "approved for the new epoch", chip, file)
	chip.Reset()
	wantSealed(t, "as created, in a later epoch", chip, file)
	extend()
	stale := *file
	stale.Approvals = stale.Approvals[1:]
	wantSealed(t, "approvals of the old epoch", chip, &stale)
	if got, err := chip.ApplyEpoch(approver.key, epoch, increment); err != nil || got != epoch+1 {
		t.Errorf("epoch %d after the same increment again (%v), want %d", got, err, epoch+1)
	}
	if _, err := chip.ApplyEpoch(approver.key, epoch+1, increment); err == nil {
		t.Error("an increment works from another epoch")
	}
	if got := must(chip.Epoch(approver.key))(t); got != epoch+1 {
		t.Errorf("epoch %d, want %d", got, epoch+1)
	}

	// A signature that is not the approval key's opens nothing.
	forged := *file
	forged.Approvals = []tpm.Approval{{Epoch: epoch + 1, PCRDigest: changed.Digest(), Signature: make(chancery.Signature, 64)}}
	if err := signs(t, chip, &forged); err == nil {
		t.Error("the key signs under a forged approval")
	}
}

// The chip counts reboots, and its clock does not go back.
func TestReset(t *testing.T) {
	chip := newChip(t, papertpm.Options{ResetCount: 4})
	ak := attestationKey(t, chip)
	var clock uint64
	for want := uint32(4); want < 7; want++ {
		a, values, err := chip.Quote(quoted, qualifying)
		if err != nil {
			t.Fatal(err)
		}
		facts := must(ak.VerifyQuote(a, values, qualifying))(t)
		if facts.ResetCount != want || facts.RestartCount != 0 || facts.Clock < clock {
			t.Errorf("facts %+v; want resetCount %d and a clock not below %d", facts, want, clock)
		}
		if values.Digest() != sha256.Sum256(make([]byte, 32*len(quoted))) {
			t.Errorf("PCRs %v after a reset", values)
		}
		if err := chip.ExtendPCR(7, measurement); err != nil {
			t.Fatal(err)
		}
		clock = facts.Clock
		chip.Reset()
	}
}

// What a chip refuses to seal to, or to do with the counter of another fleet.
func TestRefusals(t *testing.T) {
	approver := newApprover(t)
	chip := newChip(t, papertpm.Options{})
	sealing := func(pcrs ...int) *tpm.Sealing { return &tpm.Sealing{Approval: approver.key, PCRs: pcrs} }
	for _, test := range []struct {
		what    string
		sealing *tpm.Sealing
		want    error
	}{
		{"no PCRs", sealing(), tpm.ErrPCRs},
		{"falling PCRs", sealing(7, 4), tpm.ErrPCRs},
		{"PCR 24", sealing(24), tpm.ErrPCRs},
		{"a resettable PCR", sealing(7, 16), tpm.ErrResettablePCR},
	} {
		if _, err := chip.CreateKey(test.sealing); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
	}
	if _, err := chip.CreateKey(&tpm.Sealing{PCRs: []int{7}}); err == nil {
		t.Error("a key is sealed without approval key")
	}
	if _, err := chip.Epoch(approver.key); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("refused keys made a counter: %v", err)
	}
	must(chip.CreateKey(approver.sealing()))(t)
	if _, err := chip.CreateKey(newApprover(t).sealing()); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("a counter of two approval keys: %v", err)
	}
	for _, pcr := range []int{-1, 24} {
		if err := chip.ExtendPCR(pcr, measurement); !errors.Is(err, tpm.ErrPCRs) {
			t.Errorf("PCR %d: %v", pcr, err)
		}
	}
	if _, err := must(newMaker())(t).New(papertpm.Options{EK: 3}); err == nil {
		t.Error("an EK of no kind")
	}
	if _, err := must(newMaker())(t).New(papertpm.Options{Manufacturer: "FIVE5"}); err == nil {
		t.Error("a manufacturer of five letters")
	}
}

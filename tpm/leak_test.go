package tpm_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
)

// TestNothingLeaks has ten thousand operations fail, at any of their commands
// and by any fault, and looks whether something of them stays in the chip. An
// operation that a fault does not make fail does not count.
func TestNothingLeaks(t *testing.T) {
	const enough = 10000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	b := newBench(t)
	sealed, plain := createKey(t, b.owner, b.sealing()), createKey(t, b.owner, nil)
	// An approval that no increment ends.
	b.approve(t, sealed, 1<<40, must(b.owner.PCRValues([]int{7}))(t))
	increment := func() error {
		epoch, err := b.owner.Epoch(b.key)
		if err != nil {
			return err
		}
		_, err = b.owner.ApplyEpoch(b.key, epoch, b.sign(t, tpm.Increment(b.key, sealed.Seal.AK, epoch)))
		return err
	}
	ek := must(tpm.ParseEndorsementKey(must(b.owner.EK())(t).Public))(t)
	credential, encrypted, err := ek.MakeCredential(attestationKey(t, b.owner).Name(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	signWith := func(file *tpm.KeyFile) func() error {
		return func() error {
			key, err := b.owner.LoadKey(file)
			if err != nil {
				if key != nil {
					t.Error("an error comes with a key")
				}
				return err
			}
			_, err = key.Sign(t.Context(), fleet, statement)
			return err
		}
	}
	operations := []struct {
		name string
		run  func() error
	}{
		{"sign", signWith(sealed)},
		{"sign unsealed", signWith(plain)},
		{"load", func() error { _, err := b.owner.LoadKey(plain); return err }},
		{"certify creation", func() error { _, err := b.owner.CertifyCreation(sealed, [32]byte{}); return err }},
		{"certify epoch", func() error { _, err := b.owner.CertifyEpoch([32]byte{}); return err }},
		{"quote", func() error { _, _, err := b.owner.Quote([]int{0, 7}, [32]byte{}); return err }},
		{"activate", func() error { _, err := b.owner.Activate(credential, encrypted); return err }},
		{"increment", increment},
		{"create", func() error { _, err := b.owner.CreateKey(b.sealing()); return err }},
		{"EK", func() error { _, err := b.owner.EK(); return err }},
		{"PCRs", func() error { _, err := b.owner.PCRValues([]int{0, 7}); return err }},
	}
	codes := []tpm2.TPMRC{
		tpm2.TPMRCDisabled, tpm2.TPMRCValue, tpm2.TPMRCHandle, tpm2.TPMRCAuthFail, tpm2.TPMRCPCRChanged, tpm2.TPMRCPolicyFail,
		tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCLockout, tpm2.TPMRCFailure,
	}
	passing := []tpm2.TPMRC{tpm2.TPMRCNVRate, tpm2.TPMRCMemory, tpm2.TPMRCRetry}
	// Commands with an answer of 220 bits at least.
	long := []tpm2.TPMCC{
		tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCReadPublic, tpm2.TPMCCCreatePrimary,
		tpm2.TPMCCNVRead, tpm2.TPMCCNVReadPublic, tpm2.TPMCCSign, tpm2.TPMCCPCRRead,
	}
	fault := func() chip.Fault {
		f := chip.Fault{Skip: random.IntN(8), Times: 1 + random.IntN(3)}
		switch n := random.IntN(1000); {
		case n < 3:
			f.Kind = chip.CutBefore
		case n < 6:
			f.Kind = chip.CutAfter
		case n < 20:
			f.Kind, f.Delay = chip.Slow, time.Duration(1+random.IntN(1000))*time.Microsecond
		case n < 40:
			f.Kind, f.Code = chip.Return, passing[random.IntN(len(passing))]
		case n < 600:
			f.Kind, f.Code = chip.Return, codes[random.IntN(len(codes))]
		case n < 601: // a wrong size is waited for
			f.Kind, f.Bit = chip.Corrupt, 16+random.IntN(32)
		case n < 800: // every answer has these
			f.Kind, f.Bit = chip.Corrupt, []int{random.IntN(16), 48 + random.IntN(32), -1 - random.IntN(32)}[random.IntN(3)]
		default:
			f.Kind, f.Bit, f.Skip = chip.Corrupt, 80+random.IntN(140), random.IntN(3)
			f.Command = long[random.IntN(len(long))]
		}
		return f
	}
	failed := map[string]int{}
	total, reopened := 0, 0
	// A wrong size in an answer costs the whole limit: it is short from the
	// first command on.
	b.reopen(200 * time.Millisecond)
	for total < enough {
		operation := operations[random.IntN(len(operations))]
		for range 1 + random.IntN(3) {
			b.inject(fault())
		}
		err := operation.run()
		b.chip.Clear()
		if err == nil {
			continue
		}
		total++
		failed[operation.name]++
		if errors.Is(err, tpm.ErrClosed) || errors.Is(err, tpm.ErrTimeout) {
			reopened++
			b.reopen(b.limit)
		} else if total%50 == 0 {
			b.wantEmpty(fmt.Sprintf("after %d failures, the last was to %s: %v", total, operation.name, err))
		}
	}
	t.Logf("failed: %v; opened anew %d times", failed, reopened)
	b.reopen(time.Minute)
	b.wantEmpty("in the end")
	for _, operation := range operations {
		if err := operation.run(); err != nil {
			t.Errorf("%s, in the end: %v", operation.name, err)
		}
		if n := transients(t, b.owner); n != 0 {
			t.Errorf("%s, in the end: %d objects and sessions left in the chip", operation.name, n)
		}
	}
}

package chip_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
)

// These tests are of package tpm as the owner of a chip with faults. Each one
// ends with an owner who signs and leaves nothing in the chip.

// signature are the commands that a signature of a sealed key takes.
var signature = []tpm2.TPMCC{
	tpm2.TPMCCReadPublic, tpm2.TPMCCLoad, tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVRead, tpm2.TPMCCPCRRead,
	tpm2.TPMCCStartAuthSession, tpm2.TPMCCPolicyNV, tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyOR, tpm2.TPMCCSign,
}

// A chip that could not start a command is asked again. Any other refusal is
// told, with its code, and the next signature succeeds.
func TestOwnerRefused(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	for _, test := range []struct {
		code  tpm2.TPMRC
		again bool
	}{
		{tpm2.TPMRCRetry, true},
		{tpm2.TPMRCYielded, true},
		{tpm2.TPMRCTesting, true},
		{tpm2.TPMRCMemory, true},
		{tpm2.TPMRCObjectMemory, false},
		{tpm2.TPMRCSessionMemory, false},
		{tpm2.TPMRCLockout, false},
		{tpm2.TPMRCNVRate, true},
		{tpm2.TPMRCFailure, false},
	} {
		for _, command := range signature {
			step := fmt.Sprintf("%v of %v", test.code, command)
			owner := m.open()
			before := m.chip.Calls(command)
			check(t, m.chip.Inject(chip.Fault{Command: command, Kind: chip.Return, Code: test.code, Times: 1}))
			err := m.sign(owner)
			switch {
			case m.chip.Calls(command) == before:
				t.Errorf("%s: a signature does not take this command", step)
			case test.again && err != nil:
				t.Errorf("%s: %v", step, err)
			case !test.again && !errors.Is(err, test.code):
				t.Errorf("%s: signing: %v", step, err)
			}
			if err := m.sign(owner); err != nil {
				t.Errorf("%s: the next signature: %v", step, err)
			}
			check(t, owner.Close())
			wantEmpty(t, step, m.behind.Process)
			m.chip.Clear()
		}
	}
	m.wantSigns("in the end")
}

// An owner who is cut off at any command of its first use, before it or after
// it, is closed. The next one finishes what it began.
func TestOwnerCut(t *testing.T) {
	m := newMachine(t, chip.Model{})
	for _, kind := range []chip.Kind{chip.CutBefore, chip.CutAfter} {
		cuts := 0
		for cut := true; cut; cuts++ {
			m.wipe()
			step := fmt.Sprintf("%v command %d", kind, cuts)
			owner := m.open()
			check(t, m.chip.Inject(chip.Fault{Kind: kind, Skip: cuts, Times: 1}))
			err := m.join(owner)
			if cut = err != nil; cut {
				if _, err := owner.PCRValues(tpm.DefaultPCRs); !errors.Is(err, tpm.ErrClosed) {
					t.Errorf("%s: the next operation: %v, want %v", step, err, tpm.ErrClosed)
				}
			}
			m.chip.Clear()
			if err := owner.Close(); err != nil {
				t.Errorf("%s: closing: %v", step, err)
			}
			next := m.open()
			if err := m.join(next); err != nil {
				t.Errorf("%s: the next owner: %v", step, err)
			}
			check(t, next.Close())
			wantEmpty(t, step, m.behind.Process)
		}
		if cuts < 50 {
			t.Errorf("the first use took only %d commands", cuts)
		}
	}
	m.wantSigns("in the end")
}

// An increment whose answer was lost is in force, and is not made twice.
func TestOwnerCutAtIncrement(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	owner := m.open()
	before := must(owner.Epoch(m.approval))(t)
	check(t, m.chip.Inject(chip.Fault{Command: tpm2.TPMCCNVIncrement, Kind: chip.CutAfter, Times: 1}))
	if err := m.raise(owner, before); err == nil {
		t.Error("an increment without an answer succeeds")
	}
	owner.Close()
	owner = m.open()
	if err := m.raise(owner, before); err != nil {
		t.Errorf("an increment that is in force already: %v", err)
	}
	if now := must(owner.Epoch(m.approval))(t); now != before+1 {
		t.Errorf("the epoch is %d, it was %d", now, before)
	}
	var sealed *tpm.SealedError
	if err := m.sign(owner); !errors.As(err, &sealed) {
		t.Errorf("signing in an epoch that is over: %v, want a *SealedError", err)
	}
	check(t, owner.Close())
	wantEmpty(t, "after an increment", m.behind.Process)
}

// A chip that is slow, or that hangs for a while, is waited for.
func TestOwnerWaits(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	owner := m.open()
	check(t, m.chip.Inject(chip.Fault{Kind: chip.Slow, Delay: time.Millisecond}))
	check(t, m.sign(owner))
	m.chip.Clear()
	for _, command := range signature[2:] { // the first two are not part of every signature
		check(t, m.chip.Inject(chip.Fault{Command: command, Kind: chip.Hang, Times: 1}))
		before := m.chip.Calls(command)
		signed := make(chan error, 1)
		go func() { signed <- m.sign(owner) }()
		await(t, m.chip, command, before+1)
		m.chip.Clear()
		if err := <-signed; err != nil {
			t.Errorf("%v hung: %v", command, err)
		}
	}
	check(t, owner.Close())
	m.wantSigns("after it hung")
}

// A wrong bit in an answer is an error, or changes nothing: in no case is there
// a signature that does not verify. The chip is as good as before when it is
// opened anew.
func TestOwnerReadsWrongly(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	wrong := 0
	for _, command := range append(signature, tpm2.TPMCCFlushContext, tpm2.TPMCCGetCapability) {
		// Of the tag, of the response code and from the end. A wrong size would
		// be waited for.
		bits := []int{0, 15, 48, 60, 79, -1, -7, -30}
		switch command {
		case tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyOR, tpm2.TPMCCFlushContext: // answered with a header alone
		default:
			bits = append(bits, 80, 90, 111, 120, 140, -60) // handles are up to 111
		}
		for _, bit := range bits {
			step := fmt.Sprintf("bit %d of %v", bit, command)
			check(t, m.chip.Inject(chip.Fault{Command: command, Kind: chip.Corrupt, Bit: bit, Times: 1}))
			owner, err := tpm.Open(m.chip.Device())
			if err == nil {
				err = m.sign(owner)
				owner.Close()
			}
			if err != nil {
				wrong++
			}
			m.chip.Clear()
			m.wantSigns(step)
		}
	}
	if wrong < 50 {
		t.Errorf("only %d wrong bits were noticed", wrong)
	}
}

// Everything works on a chip that is busy half the time.
func TestOwnerOfBusyChip(t *testing.T) {
	m := newMachine(t, chip.Model{Busy: 0.5, Seed: 1})
	for round := range 3 {
		m.wipe()
		owner := m.open()
		if err := m.join(owner); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		check(t, m.raise(owner, must(owner.Epoch(m.approval))(t)))
		check(t, owner.Close())
		wantEmpty(t, fmt.Sprintf("round %d", round), m.behind.Process)
	}
}

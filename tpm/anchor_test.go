package tpm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func (b *bench) fail(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func wantAnchor(t testing.TB, step string, owner *tpm.TPM, want uint64) {
	t.Helper()
	if got, err := owner.Anchor(); err != nil || got != want {
		t.Fatalf("%s: %d, %v; want %d", step, got, err, want)
	}
}

// TestAnchor is the life of the counter: made once, moved one at a time, kept
// over power cuts, and never lower, whatever the chip's owner does.
func TestAnchor(t *testing.T) {
	process := tpmtest.New(t)
	owner := process.Open(t)
	if _, err := owner.Anchor(); !errors.Is(err, tpm.ErrNoAnchor) {
		t.Fatalf("a new chip: %v, want %v", err, tpm.ErrNoAnchor)
	}
	if err := owner.MoveAnchor(0); !errors.Is(err, tpm.ErrNoAnchor) {
		t.Fatalf("a new chip: %v, want %v", err, tpm.ErrNoAnchor)
	}
	first := must(owner.MakeAnchor())(t)
	if again := must(owner.MakeAnchor())(t); again != first {
		t.Errorf("made twice: %d, then %d", first, again)
	}
	wantAnchor(t, "made", owner, first)

	for name, from := range map[string]uint64{"behind": first - 2, "ahead": first + 1} {
		if err := owner.MoveAnchor(from); err == nil {
			t.Errorf("moved from %s", name)
		}
	}
	wantAnchor(t, "after refusals", owner, first)
	for range 2 { // the second is of a caller who did not hear of the first
		if err := owner.MoveAnchor(first); err != nil {
			t.Fatal(err)
		}
		wantAnchor(t, "moved", owner, first+1)
	}

	if err := errors.Join(process.Kill(), owner.Close(), process.Restart()); err != nil && !errors.Is(err, tpm.ErrClosed) {
		t.Log(err) // the owner's connection is gone
	}
	owner = process.Open(t)
	wantAnchor(t, "after the plug was pulled", owner, first+1)

	undefine(t, owner, tpm.AnchorHandle)
	if _, err := owner.Anchor(); !errors.Is(err, tpm.ErrNoAnchor) {
		t.Errorf("removed by the owner: %v, want %v", err, tpm.ErrNoAnchor)
	}
	if again := must(owner.MakeAnchor())(t); again <= first+1 {
		t.Errorf("made again: %d, want more than %d", again, first+1)
	}
}

// A counter is not taken for another index in its place, nor another for it.
func TestAnchorOfOthers(t *testing.T) {
	process := tpmtest.New(t)
	owner := process.Open(t)
	define := func(a tpm2.TPMANV) {
		t.Helper()
		must(tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: tpm.AnchorHandle, NameAlg: tpm2.TPMAlgSHA256, Attributes: a, DataSize: 8}),
		}.Execute(owner.Raw()))(t)
	}
	for name, attributes := range map[string]tpm2.TPMANV{
		"ordinary index":            {AuthWrite: true, AuthRead: true, NoDA: true},
		"counter of other ways":     {OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTCounter},
		"counter with a password's": {AuthWrite: true, AuthRead: true, NT: tpm2.TPMNTCounter},
	} {
		define(attributes)
		if _, err := owner.Anchor(); !errors.Is(err, tpm.ErrAnchorIndex) {
			t.Errorf("%s: %v, want %v", name, err, tpm.ErrAnchorIndex)
		}
		if _, err := owner.MakeAnchor(); !errors.Is(err, tpm.ErrAnchorIndex) {
			t.Errorf("%s: made: %v, want %v", name, err, tpm.ErrAnchorIndex)
		}
		if err := owner.MoveAnchor(1); !errors.Is(err, tpm.ErrAnchorIndex) {
			t.Errorf("%s: moved: %v, want %v", name, err, tpm.ErrAnchorIndex)
		}
		undefine(t, owner, tpm.AnchorHandle)
	}
}

// Whatever happens to the connection in the middle of a command, the counter is
// made, and moves by one.
func TestAnchorCut(t *testing.T) {
	for _, kind := range []chip.Kind{chip.CutBefore, chip.CutAfter} {
		for _, command := range []tpm2.TPMCC{tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVDefineSpace, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVRead} {
			b := newBench(t)
			cut := func() {
				b.fail(b.chip.Inject(chip.Fault{Command: command, Times: 1, Kind: kind}))
			}
			cut()
			if _, err := b.owner.MakeAnchor(); !errors.Is(err, tpm.ErrClosed) {
				t.Fatalf("%v %v: %v", kind, command, err)
			}
			b.reopen(time.Minute)
			made := must(b.owner.MakeAnchor())(t)
			if command == tpm2.TPMCCNVDefineSpace {
				continue // it moves without
			}
			cut()
			if err := b.owner.MoveAnchor(made); !errors.Is(err, tpm.ErrClosed) {
				t.Fatalf("%v %v: %v", kind, command, err)
			}
			b.reopen(time.Minute)
			b.fail(b.owner.MoveAnchor(made))
			wantAnchor(t, kind.String(), b.owner, made+1)
		}
	}
}

// A chip that limits its writes is asked again; one that is full or whose owner
// has a password says what to do.
func TestAnchorRefusals(t *testing.T) {
	b := newBench(t)
	b.fail(b.chip.Inject(chip.Fault{Command: tpm2.TPMCCNVDefineSpace, Times: 1, Kind: chip.Return, Code: tpm2.TPMRCNVSpace}))
	if _, err := b.owner.MakeAnchor(); !errors.Is(err, tpm.ErrNVSpace) {
		t.Errorf("full: %v, want %v", err, tpm.ErrNVSpace)
	}
	made := must(b.owner.MakeAnchor())(t)
	b.fail(b.chip.Inject(chip.Fault{Command: tpm2.TPMCCNVIncrement, Times: 2, Kind: chip.Return, Code: tpm2.TPMRCNVRate}))
	b.fail(b.owner.MoveAnchor(made))
	wantAnchor(t, "after two refusals for the rate", b.owner, made+1)

	take := func(owner *tpm.TPM) {
		must(tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("taken")},
		}.Execute(owner.Raw()))(t)
	}
	take(b.owner)
	b.fail(b.owner.MoveAnchor(made + 1)) // nothing that it needs from now on
	fresh := tpmtest.New(t).Open(t)
	take(fresh)
	if _, err := fresh.MakeAnchor(); !errors.Is(err, tpm.ErrOwnerAuth) {
		t.Errorf("an owner with a password: %v, want %v", err, tpm.ErrOwnerAuth)
	}
}

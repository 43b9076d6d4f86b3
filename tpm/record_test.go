package tpm_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
)

// The record is what was written last, over power cycles and whatever happens to
// a write.
func TestRecord(t *testing.T) {
	b := newBench(t)
	want := func(step string, want []byte) {
		t.Helper()
		if got, err := b.owner.Record(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %x, %v; want %x", step, got, err, want)
		}
	}
	if _, err := b.owner.Record(); !errors.Is(err, tpm.ErrNoRecord) {
		t.Fatalf("a new chip: %v, want %v", err, tpm.ErrNoRecord)
	}
	first, second := bytes.Repeat([]byte{1}, tpm.RecordSize), bytes.Repeat([]byte{2}, tpm.RecordSize)
	for _, size := range []int{0, tpm.RecordSize - 1, tpm.RecordSize + 1} {
		if err := b.owner.SetRecord(make([]byte, size)); err == nil {
			t.Errorf("a record of %d bytes", size)
		}
	}
	b.fail(b.chip.Inject(chip.Fault{Command: tpm2.TPMCCNVWrite, Times: 1, Kind: chip.CutBefore}))
	if err := b.owner.SetRecord(first); !errors.Is(err, tpm.ErrClosed) {
		t.Fatal(err)
	}
	b.reopen(time.Minute)
	if _, err := b.owner.Record(); !errors.Is(err, tpm.ErrNoRecord) {
		t.Fatalf("made and not written: %v, want %v", err, tpm.ErrNoRecord)
	}
	b.fail(b.owner.SetRecord(first))
	want("written", first)
	b.fail(b.chip.Inject(chip.Fault{Command: tpm2.TPMCCNVWrite, Times: 1, Kind: chip.CutAfter}))
	if err := b.owner.SetRecord(second); !errors.Is(err, tpm.ErrClosed) {
		t.Fatal(err)
	}
	b.reopen(time.Minute)
	want("written, and the answer was lost", second)
	b.close()
	b.fail(b.process.Restart())
	b.reopen(time.Minute)
	want("after a power cycle", second)

	undefine(t, b.owner, tpm.RecordHandle)
	defineNV(t, b.owner, tpm.RecordHandle, []byte("somebody else's"))
	if _, err := b.owner.Record(); !errors.Is(err, tpm.ErrRecordIndex) {
		t.Errorf("another index: %v, want %v", err, tpm.ErrRecordIndex)
	}
	if err := b.owner.SetRecord(first); !errors.Is(err, tpm.ErrRecordIndex) {
		t.Errorf("writing to another index: %v, want %v", err, tpm.ErrRecordIndex)
	}
}

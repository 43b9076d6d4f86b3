package tpm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// These tests are of a chip that goes wrong: see package simulator/chip.

// A bench is a chip with faults to come, and its owner.
type bench struct {
	*testing.T
	process *tpmtest.TPM
	chip    *chip.Chip
	owner   *tpm.TPM
	limit   time.Duration // of the owner's commands
	approver
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, process: tpmtest.New(t), approver: newApprover(t)}
	b.chip = must(chip.New("", b.process.Device(), chip.Model{}))(t)
	t.Cleanup(func() { b.chip.Close() })
	b.reopen(time.Minute)
	return b
}

// reopen replaces the owner.
func (b *bench) reopen(limit time.Duration) {
	b.Helper()
	b.close()
	b.limit = limit
	b.owner = must(tpm.OpenLimit(b.chip.Device(), limit))(b)
	b.Cleanup(b.close)
}

func (b *bench) close() {
	b.Helper()
	if b.owner != nil {
		if err := b.owner.Close(); err != nil {
			b.Errorf("closing: %v", err)
		}
		b.owner = nil
	}
}

// refuse has the chip refuse the next of these commands, once.
func (b *bench) refuse(command tpm2.TPMCC, code tpm2.TPMRC) {
	b.Helper()
	b.inject(chip.Fault{Command: command, Kind: chip.Return, Code: code, Times: 1})
}

func (b *bench) inject(f chip.Fault) {
	b.Helper()
	if err := b.chip.Inject(f); err != nil {
		b.Fatal(err)
	}
}

// wantEmpty checks that one more operation leaves the chip empty.
func (b *bench) wantEmpty(step string) {
	b.Helper()
	b.chip.Clear()
	_, err := b.owner.PCRValues([]int{7})
	if errors.Is(err, tpm.ErrClosed) || errors.Is(err, tpm.ErrTimeout) { // it failed at a flush, or the machine is slow
		defer b.reopen(b.limit)
		b.reopen(time.Minute)
		_, err = b.owner.PCRValues([]int{7})
	}
	if err != nil {
		b.Fatalf("%s: the next operation: %v", step, err)
	}
	if n := transients(b, b.owner); n != 0 {
		b.Fatalf("%s: %d objects and sessions left in the chip", step, n)
	}
}

func wantHint(t testing.TB, what string, err, want error) {
	t.Helper()
	var advised interface{ Hint() string }
	if !errors.Is(err, want) || !errors.As(err, &advised) || advised.Hint() == "" {
		t.Errorf("%s: %v, want %v with a hint", what, err, want)
	}
}

// What a flush does not remove is removed before the next operation, and is no
// failure of the operation that did its work.
func TestFlushFails(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, b.sealing())
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCNVRate, tpm2.TPMRCDisabled} {
		for range 4 {
			b.refuse(tpm2.TPMCCFlushContext, code)
			if key, err := b.owner.LoadKey(file); err != nil || key == nil {
				t.Fatalf("LoadKey: %v, %v", key, err)
			}
			key := must(b.owner.LoadKey(file))(t)
			b.inject(chip.Fault{Command: tpm2.TPMCCFlushContext, Kind: chip.Return, Code: code, Times: 2}) // key and session
			if _, err := key.Sign(t.Context(), fleet, statement); err != nil {
				t.Fatal(err)
			}
			wantSigns(t, "after a flush that failed", b.owner, file)
		}
		b.wantEmpty(code.Error())
	}
	// It is tried again until it works.
	b.inject(chip.Fault{Command: tpm2.TPMCCFlushContext, Kind: chip.Return, Code: tpm2.TPMRCDisabled, Times: 3})
	must(b.owner.LoadKey(file))(t)
	for range 2 {
		if _, err := b.owner.LoadKey(file); !errors.Is(err, tpm2.TPMRCDisabled) {
			t.Errorf("LoadKey with leftovers in the chip: %v", err)
		}
	}
	wantSigns(t, "in the end", b.owner, file)
	b.wantEmpty("in the end")
}

// An answer that is damaged has loaded its object, or started its session, all
// the same.
func TestDamagedHandle(t *testing.T) {
	b := newBench(t)
	occupy(t, b.owner, tpm.AKHandle) // so that keys are made anew
	file := createKey(t, b.owner, b.sealing())
	if err := b.owner.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	b.approve(t, file, file.Seal.Epoch, must(b.owner.PCRValues([]int{7}))(t))
	for _, command := range []tpm2.TPMCC{tpm2.TPMCCLoad, tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoadExternal, tpm2.TPMCCCreatePrimary} {
		for _, bit := range []int{0, 79, 80, 100, 109, 111, 130, -1} {
			for range 4 { // one more than there is room for
				b.inject(chip.Fault{Command: command, Kind: chip.Corrupt, Bit: bit, Times: 1})
				if key, err := b.owner.LoadKey(file); err != nil && key != nil {
					t.Error("an error comes with a key")
				} else if err == nil {
					key.Sign(t.Context(), fleet, statement)
				}
				b.owner.CertifyEpoch([32]byte{})
			}
			step := fmt.Sprintf("bit %d of %v", bit, command)
			b.wantEmpty(step)
			wantSigns(t, step, b.owner, file)
		}
	}
}

// A wrong bit does not make another endorsement key of the chip's.
func TestDamagedEK(t *testing.T) {
	b := newBench(t)
	want := must(b.owner.EK())(t)
	if want.Certificate == nil {
		t.Fatal("the chip has no certificate")
	}
	refused := 0
	for _, command := range []tpm2.TPMCC{tpm2.TPMCCNVRead, tpm2.TPMCCNVReadPublic, tpm2.TPMCCReadPublic, tpm2.TPMCCGetCapability, tpm2.TPMCCCreatePrimary} {
		for _, bit := range []int{0, 79, 150, 151, 230, 500, 700, 2000, 4001, -1, -9, -300} {
			for skip := range 3 {
				b.reopen(time.Minute)
				b.inject(chip.Fault{Command: command, Kind: chip.Corrupt, Bit: bit, Skip: skip, Times: 1})
				step := fmt.Sprintf("bit %d of %v %d", bit, command, skip)
				ek, err := b.owner.EK()
				b.chip.Clear()
				if errors.Is(err, tpm.ErrClosed) { // the bit was one of the size
					b.reopen(time.Minute)
				}
				if err != nil {
					refused++
					ek, err = b.owner.EK()
				}
				if err != nil || !bytes.Equal(ek.Public, want.Public) || !bytes.Equal(ek.Certificate, want.Certificate) || len(ek.Chain) != len(want.Chain) {
					t.Errorf("%s: another endorsement key, %v", step, err)
				}
			}
		}
	}
	if refused < 10 {
		t.Errorf("only %d wrong bits were noticed", refused)
	}
}

// A certificate that is over no key of this chip, or over none at all, is passed
// over, each time.
func TestForeignCertificate(t *testing.T) {
	b := newBench(t)
	want := must(b.owner.EK())(t)
	for _, certificate := range [][]byte{newTestCA(t).cert.Raw, make([]byte, 700)} {
		defineNV(t, b.owner, 0x01c0000a, certificate)
		for range 2 {
			b.reopen(time.Minute)
			if ek := must(b.owner.EK())(t); !bytes.Equal(ek.Public, want.Public) || !bytes.Equal(ek.Certificate, want.Certificate) {
				t.Error("another endorsement key")
			}
		}
		undefine(t, b.owner, 0x01c0000a)
	}
}

// A key that was made is one that signs, and can be proven.
func TestDamagedKey(t *testing.T) {
	b := newBench(t)
	refused := 0
	for bit := 80; bit < 8*700; bit += 97 {
		b.inject(chip.Fault{Command: tpm2.TPMCCCreate, Kind: chip.Corrupt, Bit: bit, Times: 1})
		file, err := b.owner.CreateKey(b.sealing())
		b.chip.Clear()
		if err != nil {
			refused++
			continue
		}
		wantSigns(t, fmt.Sprintf("bit %d", bit), b.owner, file)
		must(b.owner.CertifyCreation(file, [32]byte{}))(t)
	}
	if refused < 50 {
		t.Errorf("only %d wrong bits were noticed", refused)
	}
	b.wantEmpty("in the end")
}

// What is shown to the coordinator has no wrong bit.
func TestDamagedEvidence(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, b.sealing())
	ak := attestationKey(t, b.owner)
	for _, bit := range []int{300, 500, 1000, 1300, -1, -200, -300} {
		for command, attest := range map[tpm2.TPMCC]func() (tpm.Attestation, error){
			tpm2.TPMCCCertifyCreation: func() (tpm.Attestation, error) { return b.owner.CertifyCreation(file, [32]byte{}) },
			tpm2.TPMCCNVCertify:       func() (tpm.Attestation, error) { return b.owner.CertifyEpoch([32]byte{}) },
			tpm2.TPMCCQuote: func() (tpm.Attestation, error) {
				a, _, err := b.owner.Quote([]int{7}, [32]byte{})
				return a, err
			},
		} {
			b.inject(chip.Fault{Command: command, Kind: chip.Corrupt, Bit: bit, Times: 1})
			a, err := attest()
			if err == nil {
				t.Errorf("bit %d of %v: no error", bit, command)
			}
			if _, err := ak.VerifyQuote(a, nil, [32]byte{}); err == nil {
				t.Errorf("bit %d of %v: a quote", bit, command)
			}
		}
	}
	b.wantEmpty("in the end")
}

// within fails the test if f takes longer than limit.
func within(t testing.TB, what string, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %v", what, took)
	}
}

// await waits until the chip has had n of the commands.
func (b *bench) await(command tpm2.TPMCC, n uint64) {
	b.Helper()
	for end := time.Now().Add(10 * time.Second); b.chip.Calls(command) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("no %v came", command)
		}
	}
}

// Nobody has to wait for a chip that hangs.
func TestWaitingEnds(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, b.sealing())
	key := must(b.owner.LoadKey(file))(t)
	b.inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: chip.Hang})
	for _, who := range []string{"whose command hangs", "who waits for his turn"} {
		within(t, "the signature of one "+who, time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := key.Sign(ctx, fleet, statement); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the signature of one %s: %v", who, err)
			}
		})
	}
	// The abandoned signature is finished in the end, and the next one is as
	// good as any.
	b.chip.Clear()
	if _, err := key.Sign(t.Context(), fleet, statement); err != nil {
		t.Error(err)
	}

	b.inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: chip.Hang})
	before := b.chip.Calls(tpm2.TPMCCSign)
	ended := make(chan error, 2)
	go func() { _, err := key.Sign(t.Context(), fleet, statement); ended <- err }()
	b.await(tpm2.TPMCCSign, before+1)
	go func() { _, err := b.owner.EK(); ended <- err }()
	time.Sleep(50 * time.Millisecond)
	within(t, "Close", 5*time.Second, func() {
		if err := b.owner.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, tpm.ErrClosed) {
				t.Errorf("an operation that was cut off: %v", err)
			}
		}
	})
	b.chip.Clear()
	b.reopen(time.Minute)
	wantSigns(t, "after it hung", b.owner, file)
	b.wantEmpty("after it hung")
}

// Close lets a command end that is only slow.
func TestCloseWaits(t *testing.T) {
	b := newBench(t)
	key := must(b.owner.LoadKey(createKey(t, b.owner, nil)))(t)
	b.inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: chip.Slow, Delay: 500 * time.Millisecond})
	signed := make(chan error, 1)
	go func() { _, err := key.Sign(t.Context(), fleet, statement); signed <- err }()
	b.await(tpm2.TPMCCSign, 1)
	if err := errors.Join(b.owner.Close(), <-signed); err != nil {
		t.Error(err)
	}
}

// A chip that hangs when it is told to shut down is given up all the same.
func TestCloseHangs(t *testing.T) {
	b := newBench(t)
	b.inject(chip.Fault{Command: tpm2.TPMCCShutdown, Kind: chip.Hang})
	within(t, "Close", 5*time.Second, func() {
		if err := b.owner.Close(); !errors.Is(err, tpm.ErrTimeout) {
			t.Errorf("Close: %v", err)
		}
	})
	b.owner = nil
	b.chip.Clear()
	b.reopen(time.Minute)
}

// The first error after the connection has gone says that the TPM is closed.
func TestConnectionLost(t *testing.T) {
	for _, kind := range []chip.Kind{chip.CutBefore, chip.CutAfter} {
		b := newBench(t)
		file := createKey(t, b.owner, nil)
		key := must(b.owner.LoadKey(file))(t)
		b.inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: kind, Times: 1})
		for _, when := range []string{"the first", "the second"} {
			_, err := key.Sign(t.Context(), fleet, statement)
			wantHint(t, when+" error", err, tpm.ErrClosed)
			if text := fmt.Sprint(err); strings.Count(text, "closed") != 1 {
				t.Errorf("%s error: %s", when, text)
			}
		}
		b.reopen(time.Minute)
		wantSigns(t, "opened anew", b.owner, file)
		b.wantEmpty("opened anew")
	}
}

// An increment whose answer was lost is in force: applied again it succeeds, and
// moves nothing.
func TestIncrementAgain(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, b.sealing())
	from := file.Seal.Epoch
	increment := func(from uint64) (uint64, error) {
		return b.owner.ApplyEpoch(b.key, from, b.sign(t, tpm.Increment(b.key, file.Seal.AK, from)))
	}
	b.inject(chip.Fault{Command: tpm2.TPMCCNVIncrement, Kind: chip.CutAfter, Times: 1})
	if _, err := increment(from); !errors.Is(err, tpm.ErrClosed) {
		t.Fatalf("without an answer: %v", err)
	}
	b.reopen(time.Minute)
	for range 2 {
		if got, err := increment(from); err != nil || got != from+1 {
			t.Errorf("applied again: epoch %d, %v", got, err)
		}
	}
	// A wrong bit in the counter is neither an increment nor the lack of one.
	b.inject(chip.Fault{Command: tpm2.TPMCCNVRead, Kind: chip.Corrupt, Bit: -41, Times: 1}) // behind it are 5 bytes of the session
	if got, err := increment(from + 1); err != nil || got != from+2 {
		t.Errorf("the next one, read wrongly: epoch %d, %v", got, err)
	}
	if _, err := increment(from); err == nil {
		t.Error("an increment of long ago succeeds")
	}
	if now := must(b.owner.Epoch(b.key))(t); now != from+2 {
		t.Errorf("epoch %d, want %d", now, from+2)
	}
	forged := newApprover(t).sign(t, tpm.Increment(b.key, file.Seal.AK, from+1))
	if _, err := b.owner.ApplyEpoch(b.key, from+1, forged); !errors.Is(err, chancery.ErrSignature) {
		t.Errorf("a forged increment that was made already: %v", err)
	}
	b.wantEmpty("in the end")
}

// Refusals that pass are waited for; those that are about the chip have names.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, b.sealing())
	for _, test := range []struct {
		code tpm2.TPMRC
		want error
	}{
		{tpm2.TPMRCNVRate, nil}, {tpm2.TPMRCMemory, nil}, {tpm2.TPMRCNVUnavailable, nil}, {tpm2.TPMRCRetry, nil},
		{tpm2.TPMRCObjectMemory, tpm.ErrMemory}, {tpm2.TPMRCSessionMemory, tpm.ErrMemory},
		{tpm2.TPMRCObjectHandles, tpm.ErrMemory}, {tpm2.TPMRCSessionHandles, tpm.ErrMemory}, {tpm2.TPMRCContextGap, tpm.ErrMemory},
		{tpm2.TPMRCFailure, tpm.ErrFailure}, {tpm2.TPMRCLockout, tpm.ErrLockout},
	} {
		for _, command := range []tpm2.TPMCC{tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad, tpm2.TPMCCSign, tpm2.TPMCCNVRead, tpm2.TPMCCPolicyPCR} {
			key := must(b.owner.LoadKey(file))(t)
			step := fmt.Sprintf("%v of %v", test.code, command)
			b.inject(chip.Fault{Command: command, Kind: chip.Return, Code: test.code, Times: 1})
			_, err := key.Sign(t.Context(), fleet, statement)
			switch {
			case test.want == nil && err != nil:
				t.Errorf("%s: %v", step, err)
			case test.want != nil:
				wantHint(t, step, err, test.want)
				if !errors.Is(err, test.code) {
					t.Errorf("%s: the code is not in %v", step, err)
				}
			}
			wantSigns(t, step, b.owner, file)
		}
	}
	b.wantEmpty("in the end")
}

// A chip whose slots others have filled is an ordinary state.
func TestSlotsFull(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, nil)
	for range 3 {
		must(tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(b.owner.Raw()))(t)
	}
	b.owner.Forget()
	_, err := b.owner.LoadKey(file)
	wantHint(t, "with full slots", err, tpm.ErrMemory)
	wantSigns(t, "the next time", b.owner, file)
	b.wantEmpty("in the end")
}

// An attestation key that could not be made persistent at first is so later.
func TestAKPersistsLater(t *testing.T) {
	persistent := func(b *bench) bool {
		_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(tpm.AKHandle)}.Execute(b.owner.Raw())
		return err == nil
	}
	for what, fault := range map[string]chip.Fault{
		"refused": {Command: tpm2.TPMCCEvictControl, Kind: chip.Return, Code: tpm2.TPMRCNVSpace, Times: 1},
		"damaged": {Command: tpm2.TPMCCEvictControl, Kind: chip.Corrupt, Bit: 79, Times: 1},
	} {
		b := newBench(t)
		b.inject(fault)
		ak := must(b.owner.AK())(t)
		if is := persistent(b); is != (what == "damaged") {
			t.Errorf("%s: persistent: %v", what, is)
		}
		quote(t, b.owner)
		if !persistent(b) {
			t.Errorf("%s: not persistent after its next use", what)
		}
		before := b.chip.Calls(tpm2.TPMCCCreatePrimary)
		quote(t, b.owner)
		if b.chip.Calls(tpm2.TPMCCCreatePrimary) != before {
			t.Errorf("%s: it is made anew although it is persistent", what)
		}
		if again := must(b.owner.AK())(t); again.Name != ak.Name {
			t.Errorf("%s: another attestation key", what)
		}
		b.wantEmpty(what)
	}
}

// Only PCRs that changed are said to change.
func TestSignSaysWhy(t *testing.T) {
	b := newBench(t)
	for what, file := range map[string]*tpm.KeyFile{"sealed": createKey(t, b.owner, b.sealing()), "unsealed": createKey(t, b.owner, nil)} {
		for _, command := range []tpm2.TPMCC{tpm2.TPMCCSign, tpm2.TPMCCLoad} {
			key := must(b.owner.LoadKey(file))(t)
			before := b.chip.Calls(command)
			b.inject(chip.Fault{Command: command, Kind: chip.Return, Code: tpm2.TPMRCValue})
			_, err := key.Sign(t.Context(), fleet, statement)
			if !errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm.ErrUnstable) || b.chip.Calls(command) != before+1 {
				t.Errorf("%s: constant TPM_RC_VALUE of %v: %v", what, command, err)
			}
			b.chip.Clear()
		}
	}
	key := must(b.owner.LoadKey(createKey(t, b.owner, b.sealing())))(t)
	b.inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: chip.Return, Code: tpm2.TPMRCPCRChanged})
	if _, err := key.Sign(t.Context(), fleet, statement); !errors.Is(err, tpm.ErrUnstable) {
		t.Errorf("PCRs that change all the time: %v", err)
	}
	// Nor is a seal closed because of one wrong bit.
	b.chip.Clear()
	b.inject(chip.Fault{Command: tpm2.TPMCCPCRRead, Kind: chip.Corrupt, Bit: -1, Times: 1})
	if _, err := key.Sign(t.Context(), fleet, statement); err != nil {
		t.Errorf("PCRs that were read wrongly: %v", err)
	}
	b.wantEmpty("in the end")
}

// Nobody is advised to remove a key because of one wrong bit.
func TestDamagedSRK(t *testing.T) {
	b := newBench(t)
	file := createKey(t, b.owner, nil)
	for _, bit := range []int{100, 200, 600, 900, 1200, -1, -300} {
		b.reopen(time.Minute)
		b.inject(chip.Fault{Command: tpm2.TPMCCReadPublic, Kind: chip.Corrupt, Bit: bit, Times: 1})
		if _, err := b.owner.LoadKey(file); errors.Is(err, tpm.ErrSRK) || errors.Is(err, tpm.ErrForeignKey) {
			t.Errorf("bit %d: %v", bit, err)
		}
		wantSigns(t, "the next time", b.owner, file)
	}
	var advised interface{ Hint() string }
	if !errors.As(tpm.ErrSRK, &advised) || !strings.Contains(advised.Hint(), "Do not remove it from a node that is enrolled") {
		t.Error("the hint does not warn")
	}
}

// A chip that is busy when it is opened says so, and has no other owner.
func TestOpenBusyChip(t *testing.T) {
	b := newBench(t)
	b.close()
	b.inject(chip.Fault{Kind: chip.Return, Code: tpm2.TPMRCRetry})
	_, err := tpm.OpenLimit(b.chip.Device(), 200*time.Millisecond)
	wantHint(t, "Open", err, tpm.ErrTimeout)
	if errors.Is(err, tpm.ErrBusy) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("Open: %v", err)
	}
	b.chip.Clear()
	b.inject(chip.Fault{Kind: chip.Hang})
	if _, err := tpm.OpenLimit(b.chip.Device(), 200*time.Millisecond); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("Open of a silent chip: %v", err)
	}
}

// A chip that others wait for has another owner.
func TestOpenQueue(t *testing.T) {
	process := tpmtest.New(t)
	socket := strings.TrimPrefix(process.Device(), "swtpm:")
	var err error
	for range 100 {
		var conn net.Conn
		if conn, err = net.Dial("unix", socket); err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Skipf("the queue has no end: %v", err)
	}
	_, err = tpm.OpenLimit(process.Device(), 200*time.Millisecond)
	wantHint(t, "Open", err, tpm.ErrBusy)
}

// A key whose parent is not a primary key of the owner hierarchy is none that
// this package makes.
func TestForeignParent(t *testing.T) {
	b := newBench(t)
	raw, owner := b.owner.Raw(), b.owner
	file := createKey(t, owner, nil)
	ak := attestationKey(t, owner)
	for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement} {
		parent := must(tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(raw))(t)
		auth := tpm2.AuthHandle{Handle: parent.ObjectHandle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)}
		made := must(tpm2.Create{ParentHandle: auth, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](template(file.Public))}.Execute(raw))(t)
		loaded := must(tpm2.Load{ParentHandle: auth, InPrivate: made.OutPrivate, InPublic: made.OutPublic}.Execute(raw))(t)
		must(tpm2.FlushContext{FlushHandle: parent.ObjectHandle}.Execute(raw))(t)
		data := made.CreationData.Bytes()
		hash := sha256.Sum256(data)
		akName := ak.Name()
		rsp := must(tpm2.CertifyCreation{
			SignHandle:     tpm2.AuthHandle{Handle: tpm.AKHandle, Name: tpm2.TPM2BName{Buffer: akName[:]}, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:   tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name},
			QualifyingData: tpm2.TPM2BData{Buffer: make([]byte, 32)},
			CreationHash:   tpm2.TPM2BDigest{Buffer: hash[:]},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			CreationTicket: made.CreationTicket,
		}.Execute(raw))(t)
		must(tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(raw))(t)
		node := nodeKey(t, &tpm.KeyFile{Public: made.OutPublic.Bytes()})
		_, err := ak.VerifyCreation(tpm.Attestation{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}, node, data, [32]byte{})
		if hierarchy == tpm2.TPMRHOwner {
			if err != nil {
				t.Errorf("a parent of the owner hierarchy: %v", err)
			}
			continue
		}
		wantLink(t, "a parent of the endorsement hierarchy", err, tpm.LinkCreation, tpm.ErrAttestation)
	}
}

func quote(t testing.TB, chip *tpm.TPM) {
	t.Helper()
	if _, _, err := chip.Quote([]int{7}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
}

// template takes the point out of a TPMT_PUBLIC of a P-256 key.
func template(public []byte) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(public[:len(public)-68]), 0)
}

package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A busy chip refuses each command twice before it takes it.
func TestBusyChip(t *testing.T) {
	for _, code := range []tpm2.TPMRC{
		tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable, tpm2.TPMRCMemory,
	} {
		p := newProxy(t, tpmtest.New(t))
		refused := 0
		p.decide(func([]byte) ([]byte, bool) {
			if refused++; refused%3 != 0 {
				return refusal(uint32(code)), false
			}
			return nil, false
		})
		chip, err := tpm.Open(p.device)
		if err != nil {
			t.Fatal(err)
		}
		wantSigns(t, code.Error(), chip, createKey(t, chip, newApprover(t).sealing()))
		if err := chip.Close(); err != nil {
			t.Error(err)
		}
		if refused < 60 {
			t.Errorf("only %d commands passed the proxy", refused)
		}
	}
}

// A listener on the bus sees neither what is signed nor the secret that an
// activation recovers.
func TestListenerOnTheBus(t *testing.T) {
	p := newProxy(t, tpmtest.New(t))
	chip, err := tpm.Open(p.device)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	sealed, plain := createKey(t, chip, newApprover(t).sealing()), createKey(t, chip, nil)
	wantSigns(t, "sealed", chip, sealed)
	wantSigns(t, "unsealed", chip, plain)
	ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
	credential, encrypted, err := ek.MakeCredential(attestationKey(t, chip).Name(), []byte("activation's secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := chip.Activate(credential, encrypted); err != nil || string(got) != "activation's secret" {
		t.Fatalf("activated %q, %v", got, err)
	}
	wire := p.passed()
	if !bytes.Contains(wire, encrypted) || !bytes.Contains(wire, plain.Public) {
		t.Fatal("the listener does not hear the bus")
	}
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, statement))
	if bytes.Contains(wire, digest[:]) {
		t.Error("what was signed passed in the clear")
	}
	if bytes.Contains(wire, []byte("activation's secret")) {
		t.Error("the activated secret passed in the clear")
	}
}

// A chip that is busy for ever, or silent, is an error in time.
func TestHungChip(t *testing.T) {
	for what, judge := range map[string]func([]byte) ([]byte, bool){
		"silent":   func([]byte) ([]byte, bool) { return nil, true },
		"busy":     func([]byte) ([]byte, bool) { return refusal(uint32(tpm2.TPMRCRetry)), false },
		"nonsense": func([]byte) ([]byte, bool) { return []byte{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, false },
	} {
		t.Run(what, func(t *testing.T) {
			p := newProxy(t, tpmtest.New(t))
			chip, err := tpm.OpenLimit(p.device, 300*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			p.decide(judge)
			start := time.Now()
			_, err = chip.PCRValues([]int{7})
			if err == nil || what != "nonsense" && !errors.Is(err, tpm.ErrTimeout) {
				t.Errorf("a %s chip: %v, want %v", what, err, tpm.ErrTimeout)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the error came after %v", took)
			}
			if _, err := chip.PCRValues([]int{7}); !errors.Is(err, tpm.ErrClosed) {
				t.Errorf("the next operation: %v, want %v", err, tpm.ErrClosed)
			}
			// It is given up all the same, and can be opened anew.
			chip.Close()
			p.decide(nil)
			again, err := tpm.Open(p.device)
			if err != nil {
				t.Fatalf("opening it again: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOneOwner(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	start := time.Now()
	if _, err := tpm.Open(process.Device()); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("a second owner: %v, want %v", err, tpm.ErrBusy)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the second owner learnt it after %v", took)
	}
	if err := errors.Join(chip.Close(), chip.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := chip.EK(); !errors.Is(err, tpm.ErrClosed) {
		t.Errorf("using a closed TPM: %v, want %v", err, tpm.ErrClosed)
	}

	// A program that does not know the lock, such as tpm2-tools.
	conn, err := net.Dial("unix", strings.TrimPrefix(process.Device(), "swtpm:"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.OpenLimit(process.Device(), 300*time.Millisecond); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("a chip in another program's hands: %v, want %v", err, tpm.ErrBusy)
	}
	conn.Close()
	process.Open(t)
}

func TestOpenWhatIsNoTPM(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		device string
		want   error
	}{
		{"", tpm.ErrDevice},
		{dir, tpm.ErrDevice},
		{file, tpm.ErrDevice},
		{filepath.Join(dir, "missing"), tpm.ErrDevice},
		{"swtpm:" + file, tpm.ErrDevice},
		{"swtpm:" + filepath.Join(dir, "missing"), tpm.ErrDevice},
		{"/dev/null", nil}, // takes commands, answers nothing
		{"/dev/zero", nil}, // answers with a response of size 0
	} {
		chip, err := tpm.Open(test.device)
		if err == nil {
			chip.Close()
		}
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("Open(%q): %v, want %v", test.device, err, test.want)
		}
	}
}

// What a crashed owner left in an swtpm is flushed by the next one.
func TestLeftovers(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	for range 3 {
		must(tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(chip.Raw()))(t)
		if _, _, err := tpm2.PolicySession(chip.Raw(), tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
	}
	chip.Close()
	chip = process.Open(t)
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions of the last owner are in the chip", n)
	}
}

// TestNoLeaks lets every operation fail at its first, second, ... command,
// and counts what it left in the chip. So it also bounds how much is loaded.
func TestNoLeaks(t *testing.T) {
	for _, persistent := range []bool{true, false} {
		process := tpmtest.New(t)
		p := newProxy(t, process)
		chip, err := tpm.Open(p.device)
		if err != nil {
			t.Fatal(err)
		}
		defer chip.Close()
		if !persistent {
			occupy(t, chip, tpm.AKHandle)
		}
		approver := newApprover(t)
		file := createKey(t, chip, approver.sealing())
		plain := createKey(t, chip, nil)
		key, unsealed := must(chip.LoadKey(file))(t), must(chip.LoadKey(plain))(t)
		approved := *file
		ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
		credential, encrypted, err := ek.MakeCredential(attestationKey(t, chip).Name(), []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}

		operations := []struct {
			name string
			run  func() error
		}{
			{"sign", func() error { _, err := key.Sign(t.Context(), fleet, statement); return err }},
			{"sign unsealed", func() error { _, err := unsealed.Sign(t.Context(), fleet, statement); return err }},
			{"load", func() error { _, err := chip.LoadKey(file); return err }},
			{"create", func() error { _, err := chip.CreateKey(approver.sealing()); return err }},
			{"certify creation", func() error { _, err := chip.CertifyCreation(file, [32]byte{}); return err }},
			{"certify epoch", func() error { _, err := chip.CertifyEpoch([32]byte{}); return err }},
			{"quote", func() error { _, _, err := chip.Quote([]int{7}, [32]byte{}); return err }},
			{"activate", func() error { _, err := chip.Activate(credential, encrypted); return err }},
			{"increment", func() error {
				epoch, err := chip.Epoch(approver.key)
				if err != nil {
					return err
				}
				_, err = chip.ApplyEpoch(approver.key, epoch, approver.sign(t, tpm.Increment(approver.key, file.Seal.AK, epoch)))
				return err
			}},
			// From here on only branch B is open.
			{"extend", func() error { return chip.ExtendPCR(7, measurement) }},
			{"sign as approved", func() error {
				epoch, err := chip.Epoch(approver.key)
				if err != nil {
					return err
				}
				now, err := chip.PCRValues([]int{7})
				if err != nil {
					return err
				}
				approver.approve(t, &approved, epoch, now)
				k, err := chip.LoadKey(&approved)
				if err != nil {
					return err
				}
				_, err = k.Sign(t.Context(), fleet, statement)
				return err
			}},
		}
		failures := 0
		for _, operation := range operations {
			for n := 1; ; n++ {
				seen, hit := 0, false
				p.decide(func(command []byte) ([]byte, bool) {
					if commandCode(command) == uint32(tpm2.TPMCCFlushContext) {
						return nil, false
					}
					if seen++; seen != n {
						return nil, false
					}
					hit = true
					return refusal(uint32(tpm2.TPMRCDisabled)), false
				})
				err := operation.run()
				p.decide(nil)
				// A refused load may be none, so the next operation looks.
				if _, err := chip.PCRValues([]int{7}); err != nil {
					t.Fatal(err)
				}
				if !hit {
					if err != nil {
						t.Errorf("%s: %v", operation.name, err)
					}
					break
				}
				if failures++; err == nil {
					t.Errorf("%s: the failure of command %d passes unnoticed", operation.name, n)
				}
				if left := transients(t, chip); left != 0 {
					t.Fatalf("%s: %d objects and sessions left after the failure of command %d", operation.name, left, n)
				}
			}
		}
		if failures < 50 {
			t.Errorf("only %d failures were injected", failures)
		}
	}
}

// The same for a chip that sees its first owner: keys and counter are made,
// and making them is interrupted at every command.
func TestNoLeaksAtFirstUse(t *testing.T) {
	process := tpmtest.New(t)
	p := newProxy(t, process)
	approver := newApprover(t)
	for n, hit := 1, true; hit; n++ {
		chip, err := tpm.Open(p.device)
		if err != nil {
			t.Fatal(err)
		}
		hit = false
		seen := 0
		p.decide(func(command []byte) ([]byte, bool) {
			if commandCode(command) == uint32(tpm2.TPMCCFlushContext) {
				return nil, false
			}
			if seen++; seen != n {
				return nil, false
			}
			hit = true
			return refusal(uint32(tpm2.TPMRCDisabled)), false
		})
		_, errEK := chip.EK()
		_, errAK := chip.AK()
		file, errKey := chip.CreateKey(approver.sealing())
		p.decide(nil)
		if left := transients(t, chip); left != 0 {
			t.Fatalf("%d objects and sessions left after the failure of command %d", left, n)
		}
		if err := errors.Join(errEK, errAK, errKey); !hit && err != nil {
			t.Fatal(err)
		}
		if errKey == nil {
			wantSigns(t, "made despite a failure elsewhere", chip, file)
		}
		// What was interrupted is finished by whoever comes next.
		wantSigns(t, "made after a failure", chip, createKey(t, chip, approver.sealing()))
		undefine(t, chip, tpm.EpochHandle)
		evict(t, chip, tpm.SRKHandle)
		if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(tpm.AKHandle)}).Execute(chip.Raw()); err == nil {
			evict(t, chip, tpm.AKHandle)
		}
		if err := chip.Close(); err != nil {
			t.Error(err)
		}
		if !hit && n < 20 {
			t.Errorf("the first use took only %d commands", n)
		}
	}
}

// Two hundred refusals in a row leave room for the operation after them.
func TestManyRefusals(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	original := must(chip.PCRValues([]int{7}))(t)
	if err := chip.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	now := must(chip.PCRValues([]int{7}))(t)
	forged := *file
	forged.Approvals = []tpm.Approval{{Epoch: file.Seal.Epoch, PCRDigest: now.Digest(), Signature: approver.sign(t, must(file.Seal.Approve(file.Seal.Epoch, original))(t))}}
	for range 50 {
		wantSealed(t, "no approval", chip, file)
		if err := signs(t, chip, &forged); err == nil {
			t.Fatal("a forged approval opens the key")
		}
		if _, err := chip.Activate([]byte{1}, []byte{2}); err == nil {
			t.Fatal("nonsense is activated")
		}
		damaged := *file
		damaged.CreationTicket = append([]byte(nil), file.CreationTicket...)
		damaged.CreationTicket[len(damaged.CreationTicket)-1] ^= 1
		if _, err := chip.CertifyCreation(&damaged, [32]byte{}); err == nil {
			t.Fatal("a forged ticket is certified")
		}
	}
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions left in the chip", n)
	}
	approver.approve(t, file, file.Seal.Epoch, now)
	wantSigns(t, "approved at last", chip, file)
}

// One owner, many users: every operation is whole.
func TestConcurrentUse(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, newApprover(t).sealing())
	key := must(chip.LoadKey(file))(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := key.Sign(t.Context(), fleet, statement); err != nil {
					t.Error(err)
				}
				if _, _, err := chip.Quote([]int{7}, [32]byte{}); err != nil {
					t.Error(err)
				}
				if _, err := chip.CertifyCreation(file, [32]byte{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions left in the chip", n)
	}
}

// occupy puts somebody else's key at a handle.
func occupy(t *testing.T, chip *tpm.TPM, h tpm2.TPMHandle) {
	t.Helper()
	created := must(tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(chip.Raw()))(t)
	must(tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     tpm2.NamedHandle{Handle: created.ObjectHandle, Name: created.Name},
		PersistentHandle: h,
	}.Execute(chip.Raw()))(t)
	must(tpm2.FlushContext{FlushHandle: created.ObjectHandle}.Execute(chip.Raw()))(t)
}

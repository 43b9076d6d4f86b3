package tpm_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestKeyFile(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	sealed, plain := createKey(t, chip, approver.sealing()), createKey(t, chip, nil)
	values := must(chip.PCRValues([]int{7}))(t)
	approver.approve(t, sealed, sealed.Seal.Epoch, values)
	approver.approve(t, sealed, sealed.Seal.Epoch+1, values)

	for what, file := range map[string]*tpm.KeyFile{"sealed": sealed, "unsealed": plain} {
		t.Run(what, func(t *testing.T) {
			encoded := file.Marshal()
			read := must(tpm.ParseKeyFile(encoded))(t)
			if !bytes.Equal(read.Marshal(), encoded) {
				t.Error("the file has two encodings")
			}
			wantSigns(t, "read back", chip, read)
			for n := range encoded {
				if _, err := tpm.ParseKeyFile(encoded[:n]); !errors.Is(err, tpm.ErrKeyFile) {
					t.Errorf("its first %d bytes: %v, want %v", n, err, tpm.ErrKeyFile)
				}
			}
			if _, err := tpm.ParseKeyFile(append(bytes.Clone(encoded), 0)); !errors.Is(err, tpm.ErrKeyFile) {
				t.Errorf("a byte too many: %v, want %v", err, tpm.ErrKeyFile)
			}
			// Whatever byte is damaged, the key does not sign with another
			// meaning: reading fails, or loading, or the file is the same key
			// under the same seal and signs or refuses as that.
			for n := range encoded {
				damaged := bytes.Clone(encoded)
				damaged[n] ^= 0x10
				read, err := tpm.ParseKeyFile(damaged)
				if err != nil {
					continue
				}
				if !must(read.PublicKey())(t).Equal(must(file.PublicKey())(t)) {
					t.Errorf("byte %d changed gives another key", n)
				}
				if (read.Seal == nil) != (file.Seal == nil) || read.Seal != nil && read.Seal.Policy() != file.Seal.Policy() {
					t.Errorf("byte %d changed gives another seal", n)
				}
			}
		})
	}
	if _, err := tpm.ParseKeyFile(make([]byte, 9000)); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("9000 bytes: %v, want %v", err, tpm.ErrKeyFile)
	}
	if err := plain.AddApproval(1, values, nil); err == nil {
		t.Error("an approval is added to a key that is not sealed")
	}
	swapped := *sealed
	swapped.Seal = nil
	if _, err := chip.LoadKey(&swapped); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("a sealed key without its seal: %v, want %v", err, tpm.ErrKeyFile)
	}
}

// A file keeps a bounded number of approvals, the newest first.
func TestApprovalsAreBounded(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	for n := range 20 {
		approver.approve(t, file, file.Seal.Epoch, tpm.PCRValues{7: {byte(n)}})
	}
	if len(file.Approvals) != 16 || file.Approvals[0].PCRDigest != (tpm.PCRValues{7: {19}}).Digest() {
		t.Errorf("%d approvals, want the 16 newest", len(file.Approvals))
	}
	approver.approve(t, file, file.Seal.Epoch, tpm.PCRValues{7: {10}})
	if len(file.Approvals) != 16 || file.Approvals[0].PCRDigest != (tpm.PCRValues{7: {10}}).Digest() {
		t.Errorf("an approval that comes again is kept twice, or not first")
	}
	if _, err := tpm.ParseKeyFile(file.Marshal()); err != nil {
		t.Error(err)
	}
}

// A key that was loaded does not change with its file.
func TestLoadedKeyIsACopy(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, newApprover(t).sealing())
	key := must(chip.LoadKey(file))(t)
	file.Seal.PCRs[0] = 8
	file.Seal.Epoch++
	file.Private[0] ^= 1
	sig := must(key.Sign(t.Context(), fleet, statement))(t)
	if err := key.PublicKey().Verify(fleet, statement, sig); err != nil {
		t.Error(err)
	}
	if err := key.PublicKey().Verify(chancery.FleetID{2}, statement, sig); err == nil {
		t.Error("the signature verifies in another fleet")
	}
}

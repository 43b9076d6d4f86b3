package tpm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

var measurement = sha256.Sum256([]byte("a new boot loader"))

// TestSeal is the life of a sealed key: new boot states, approvals, a raised
// epoch, power cycles.
func TestSeal(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	original := must(chip.PCRValues(tpm.DefaultPCRs))(t)
	public := must(file.PublicKey())(t)
	epoch := file.Seal.Epoch
	reboot := func() {
		t.Helper()
		if err := errors.Join(chip.Close(), process.Restart()); err != nil {
			t.Fatal(err)
		}
		chip = process.Open(t)
	}
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
	if sealed.Values.Digest() != changed.Digest() || sealed.Epoch != epoch || sealed.Hint() == "" {
		t.Errorf("the error does not tell the state: %+v", sealed)
	}
	if must(sealed.Seal.Approve(epoch, changed))(t) != must(file.Seal.Approve(epoch, changed))(t) {
		t.Error("the error's seal is not the key's")
	}

	approver.approve(t, file, epoch, original)
	wantSealed(t, "approval of the old state only", chip, file)
	approver.approve(t, file, epoch, changed)
	wantSigns(t, "approval of the new state", chip, file)
	if !must(file.PublicKey())(t).Equal(public) {
		t.Error("another key signs")
	}

	// The same approval serves every later boot into that state.
	reboot()
	wantSigns(t, "as created again after a reboot", chip, file)
	extend()
	wantSigns(t, "approved state after a reboot", chip, file)

	// Next epoch: approval first, then the increment.
	approver.approve(t, file, epoch+1, changed)
	wantSigns(t, "approval of the next epoch, ahead of it", chip, file)
	increment := approver.sign(t, tpm.Increment(approver.key, file.Seal.AK, epoch))
	if got, err := chip.ApplyEpoch(approver.key, epoch, increment); err != nil || got != epoch+1 {
		t.Fatalf("epoch %d after the increment (%v), want %d", got, err, epoch+1)
	}
	wantSigns(t, "approved for the new epoch", chip, file)
	reboot()
	wantSealed(t, "as created, in a later epoch", chip, file)
	extend()
	wantSigns(t, "approved state in the new epoch after a reboot", chip, file)

	// Only old approvals: a disk restored from a backup.
	stale := *file
	stale.Approvals = stale.Approvals[1:]
	wantSealed(t, "approvals of the old epoch", chip, &stale)

	if got, err := chip.ApplyEpoch(approver.key, epoch, increment); err != nil || got != epoch+1 {
		t.Errorf("epoch %d after a replayed increment (%v), want %d", got, err, epoch+1)
	}
	if got := must(chip.Epoch(approver.key))(t); got != epoch+1 {
		t.Errorf("epoch %d after a replayed increment, want %d", got, epoch+1)
	}
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions left in the chip", n)
	}
}

// The policy that software computes is the one that a chip computes.
func TestPolicyAgreesWithChip(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	for _, pcrs := range [][]int{{7}, {0, 2, 4, 7, 11}, {22}} {
		sealing := approver.sealing()
		sealing.PCRs = pcrs
		file := createKey(t, chip, sealing)
		seal := *file.Seal
		wantA, wantB := seal.Branches()
		trial := func(steps func(s tpm2.Session)) [32]byte {
			t.Helper()
			s, done, err := tpm2.PolicySession(chip.Raw(), tpm2.TPMAlgSHA256, 16, tpm2.Trial())
			if err != nil {
				t.Fatal(err)
			}
			defer done()
			steps(s)
			rsp := must(tpm2.PolicyGetDigest{PolicySession: s.Handle()}.Execute(chip.Raw()))(t)
			return [32]byte(rsp.PolicyDigest.Buffer)
		}
		index := must(tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(tpm.EpochHandle)}.Execute(chip.Raw()))(t)
		if want := tpm.EpochArea(approver.key, seal.AK); !bytes.Equal(index.NVPublic.Bytes(), want) {
			t.Errorf("epoch counter %x, want %x", index.NVPublic.Bytes(), want)
		}
		a := trial(func(s tpm2.Session) {
			must(tpm2.PolicyNV{
				AuthHandle:    tpm2.AuthHandle{Handle: tpm.EpochHandle, Name: index.NVName, Auth: tpm2.PasswordAuth(nil)},
				NVIndex:       tpm2.NamedHandle{Handle: tpm.EpochHandle, Name: index.NVName},
				PolicySession: s.Handle(), Operation: tpm2.TPMEOUnsignedLE,
				OperandB: tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, seal.Epoch)},
			}.Execute(chip.Raw()))(t)
			var numbers []uint
			for _, n := range pcrs {
				numbers = append(numbers, uint(n))
			}
			// Without a digest the chip takes its own PCRs.
			must(tpm2.PolicyPCR{PolicySession: s.Handle(), Pcrs: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
				{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)},
			}}}.Execute(chip.Raw()))(t)
		})
		if a != wantA {
			t.Errorf("PCRs %v: branch A is %x in the chip, %x in software", pcrs, a, wantA)
		}
		b := trial(func(s tpm2.Session) {
			external := must(tpm2.LoadExternal{
				InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](tpm.ApprovalArea(approver.key)),
				Hierarchy: tpm2.TPMRHOwner,
			}.Execute(chip.Raw()))(t)
			must(tpm2.FlushContext{FlushHandle: external.ObjectHandle}.Execute(chip.Raw()))(t)
			ref := seal.Ref()
			must(tpm2.PolicyAuthorize{
				PolicySession: s.Handle(), KeySign: external.Name,
				ApprovedPolicy: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
				PolicyRef:      tpm2.TPM2BDigest{Buffer: ref[:]},
				CheckTicket:    tpm2.TPMTTKVerified{Tag: tpm2.TPMSTVerified, Hierarchy: tpm2.TPMRHOwner},
			}.Execute(chip.Raw()))(t)
		})
		if b != wantB {
			t.Errorf("PCRs %v: branch B is %x in the chip, %x in software", pcrs, b, wantB)
		}
		or := trial(func(s tpm2.Session) {
			must(tpm2.PolicyOr{PolicySession: s.Handle(), PHashList: tpm2.TPMLDigest{
				Digests: []tpm2.TPM2BDigest{{Buffer: wantA[:]}, {Buffer: wantB[:]}},
			}}.Execute(chip.Raw()))(t)
		})
		if or != seal.Policy() || nodeKey(t, file).Policy != or {
			t.Errorf("PCRs %v: authPolicy is %x in the chip, %x in software, %x in the key", pcrs, or, seal.Policy(), nodeKey(t, file).Policy)
		}
		wantSigns(t, "sealed to several PCRs", chip, file)
	}
}

// What is approved for one node is of no use to another, although approval
// key, counter and PCRs are the same.
func TestApprovalOfAnotherNode(t *testing.T) {
	approver := newApprover(t)
	one, two := tpmtest.New(t).Open(t), tpmtest.New(t).Open(t)
	fileOne, fileTwo := createKey(t, one, approver.sealing()), createKey(t, two, approver.sealing())
	if err := two.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	values := must(two.PCRValues(tpm.DefaultPCRs))(t)
	epoch := fileTwo.Seal.Epoch

	what := must(fileOne.Seal.Approve(epoch, values))(t)
	signature := approver.sign(t, what)
	if err := fileTwo.AddApproval(epoch, values, signature); !errors.Is(err, chancery.ErrSignature) {
		t.Errorf("adding another node's approval: %v, want %v", err, chancery.ErrSignature)
	}
	// Forced past the check, the chip refuses it.
	forced := *fileTwo
	forced.Approvals = []tpm.Approval{{Epoch: epoch, PCRDigest: values.Digest(), Signature: signature}}
	if err := signs(t, two, &forced); !errors.Is(err, tpm2.TPMRCSignature) {
		t.Errorf("another node's approval in the chip: %v, want TPM_RC_SIGNATURE", err)
	}

	// The same for increments: a replay on another chip would close it.
	increment := approver.sign(t, tpm.Increment(approver.key, fileOne.Seal.AK, fileOne.Seal.Epoch))
	if _, err := two.ApplyEpoch(approver.key, epoch, increment); !errors.Is(err, chancery.ErrSignature) {
		t.Errorf("another node's increment: %v, want %v", err, chancery.ErrSignature)
	}
	// An approval for an older enrolment of the same chip.
	sealing := approver.sealing()
	sealing.Nonce[0]++
	again := createKey(t, one, sealing)
	if err := again.AddApproval(epoch, values, signature); !errors.Is(err, chancery.ErrSignature) {
		t.Errorf("an older enrolment's approval: %v, want %v", err, chancery.ErrSignature)
	}
	for _, chip := range []*tpm.TPM{one, two} {
		if n := transients(t, chip); n != 0 {
			t.Errorf("%d objects and sessions left in a chip", n)
		}
	}
}

// forgedApprovals are refused by the chip even when the file holds them.
func TestForgedApprovals(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver, stranger := newApprover(t), newApprover(t)
	file := createKey(t, chip, approver.sealing())
	if err := chip.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	values := must(chip.PCRValues(tpm.DefaultPCRs))(t)
	what := must(file.Seal.Approve(file.Seal.Epoch, values))(t)
	lied := must(file.Seal.Approve(file.Seal.Epoch+1, values))(t)
	for _, test := range []struct {
		name      string
		epoch     uint64
		signature chancery.Signature
	}{
		{"zero", file.Seal.Epoch, make(chancery.Signature, 64)},
		{"another key's", file.Seal.Epoch, stranger.sign(t, what)},
		{"of another epoch", file.Seal.Epoch, approver.sign(t, lied)},
		{"of another policyRef", file.Seal.Epoch, approver.sign(t, chancery.PolicyApproval{Policy: what.Policy})},
	} {
		if err := file.AddApproval(test.epoch, values, test.signature); err == nil {
			t.Errorf("signature %s is added", test.name)
		}
		forced := *file
		forced.Approvals = []tpm.Approval{{Epoch: test.epoch, PCRDigest: values.Digest(), Signature: test.signature}}
		if err := signs(t, chip, &forced); !errors.Is(err, tpm2.TPMRCSignature) {
			t.Errorf("signature %s: %v, want TPM_RC_SIGNATURE", test.name, err)
		}
	}
	// A digest that claims the present PCRs for an approval of others.
	old := must(file.Seal.Approve(file.Seal.Epoch, tpm.PCRValues{7: {}}))(t)
	forced := *file
	forced.Approvals = []tpm.Approval{{Epoch: file.Seal.Epoch, PCRDigest: values.Digest(), Signature: approver.sign(t, old)}}
	if err := signs(t, chip, &forced); !errors.Is(err, tpm2.TPMRCSignature) {
		t.Errorf("approval of other PCRs: %v, want TPM_RC_SIGNATURE", err)
	}
	if _, err := file.Seal.Approve(1, tpm.PCRValues{8: {}}); err == nil {
		t.Error("an approval over other PCRs than the key's is computed")
	}
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions left in the chip", n)
	}
}

// Nothing but its policy opens a sealed key, and the policy opens it for
// nothing but signing.
func TestSealedKeyHasNoOtherDoor(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, newApprover(t).sealing())
	srk := must(tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(tpm.SRKHandle)}.Execute(chip.Raw()))(t)
	loaded := must(tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: tpm.SRKHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public),
	}.Execute(chip.Raw()))(t)
	defer tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(chip.Raw())
	sign := func(auth tpm2.Session) error {
		_, err := tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: auth},
			Digest:     tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(chip.Raw())
		return err
	}
	if err := sign(tpm2.PasswordAuth(nil)); !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
		t.Errorf("signing with the empty password: %v, want TPM_RC_AUTH_UNAVAILABLE", err)
	}
	s, done, err := tpm2.PolicySession(chip.Raw(), tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if err := sign(s); !errors.Is(err, tpm2.TPMRCPolicyFail) {
		t.Errorf("signing with an empty policy: %v, want TPM_RC_POLICY_FAIL", err)
	}
	_, err = tpm2.Certify{
		ObjectHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
		SignHandle:   tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
		InScheme:     tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(chip.Raw())
	if err == nil {
		t.Error("the key certifies itself without its policy")
	}
}

// The owner of the chip may remove the counter: a denial, never a rollback.
func TestCounterRemovedAndMadeAnew(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	values := must(chip.PCRValues(tpm.DefaultPCRs))(t)
	undefine(t, chip, tpm.EpochHandle)
	if err := signs(t, chip, file); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("without the counter: %v, want %v", err, tpm.ErrIndex)
	}
	// CertifyCreation needs neither counter nor approval.
	must(chip.CertifyCreation(file, [32]byte{}))(t)

	// Defining it again, as another enrolment would, starts above.
	createKey(t, chip, approver.sealing())
	now := must(chip.Epoch(approver.key))(t)
	if now <= file.Seal.Epoch {
		t.Fatalf("a new counter starts at %d, the removed one was at %d", now, file.Seal.Epoch)
	}
	wantSealed(t, "sealed below the new counter", chip, file)
	approver.approve(t, file, now, values)
	wantSigns(t, "the same key approved for the new counter", chip, file)

	// Another kind of index in its place.
	undefine(t, chip, tpm.EpochHandle)
	defineNV(t, chip, tpm.EpochHandle, binary.BigEndian.AppendUint64(nil, file.Seal.Epoch))
	if err := signs(t, chip, file); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("with an index that its owner can write: %v, want %v", err, tpm.ErrIndex)
	}
	if _, err := chip.CreateKey(approver.sealing()); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("sealing to such an index: %v, want %v", err, tpm.ErrIndex)
	}
}

// A counter that was defined before the machine lost power and never written
// is finished by the next enrolment.
func TestCounterHalfMade(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	ak := attestationKey(t, chip)
	area := tpm.EpochArea(approver.key, ak.Name())
	area[6] &^= 0x20 // TPMA_NV_WRITTEN
	must(tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.BytesAs2B[tpm2.TPMSNVPublic](area),
	}.Execute(chip.Raw()))(t)
	wantSigns(t, "counter finished", chip, createKey(t, chip, approver.sealing()))
	other := newApprover(t)
	if _, err := chip.CreateKey(other.sealing()); !errors.Is(err, tpm.ErrIndex) {
		t.Errorf("sealing under another approval key's counter: %v, want %v", err, tpm.ErrIndex)
	}
}

// Nobody moves the counter without the approval key.
func TestCounterMovesByApprovalOnly(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	index := must(tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(tpm.EpochHandle)}.Execute(chip.Raw()))(t)
	for what, auth := range map[string]tpm2.AuthHandle{
		"the empty password": {Handle: tpm.EpochHandle, Name: index.NVName, Auth: tpm2.PasswordAuth(nil)},
		"the owner":          {Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
	} {
		_, err := tpm2.NVIncrement{
			AuthHandle: auth, NVIndex: tpm2.NamedHandle{Handle: tpm.EpochHandle, Name: index.NVName},
		}.Execute(chip.Raw())
		if err == nil {
			t.Errorf("%s moves the counter", what)
		}
	}
	from := file.Seal.Epoch
	for what, signature := range map[string]chancery.Signature{
		"a stranger's":  newApprover(t).sign(t, tpm.Increment(approver.key, file.Seal.AK, from)),
		"a later one's": approver.sign(t, tpm.Increment(approver.key, file.Seal.AK, from+1)),
		"an approval":   approver.sign(t, must(file.Seal.Approve(from, tpm.PCRValues{7: {}}))(t)),
		"nothing":       nil,
	} {
		if _, err := chip.ApplyEpoch(approver.key, from, signature); err == nil {
			t.Errorf("signature %s moves the counter", what)
		}
	}
	if got := must(chip.Epoch(approver.key))(t); got != from {
		t.Errorf("the counter is at %d, want %d", got, from)
	}
}

// Any counted PCR that is extended in the middle of a policy session ends it;
// the operation is done again.
func TestPCRChangesWhileSigning(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	key := must(chip.LoadKey(createKey(t, chip, newApprover(t).sealing())))(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			if err := chip.ExtendPCR(10, measurement); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 20 {
		if _, err := key.Sign(t.Context(), fleet, statement); err != nil {
			t.Fatal(err)
		}
	}
	<-done
}

func TestSignHonoursContext(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	key := must(chip.LoadKey(createKey(t, chip, nil)))(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := key.Sign(ctx, fleet, statement); !errors.Is(err, context.Canceled) {
		t.Errorf("Sign after cancellation: %v", err)
	}
}

// The plug is pulled; the key, its seal and the counter survive, and the chip
// counts no failed attempt.
func TestPowerLoss(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	approver := newApprover(t)
	file := createKey(t, chip, approver.sealing())
	for range 5 {
		wantSigns(t, "before the loss of power", chip, file)
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := chip.PCRValues([]int{0}); err == nil {
			t.Fatal("a dead chip answers")
		}
		if _, err := chip.PCRValues([]int{0}); !errors.Is(err, tpm.ErrClosed) {
			t.Errorf("the second command to a dead chip: %v, want %v", err, tpm.ErrClosed)
		}
		chip.Close()
		if err := process.Restart(); err != nil {
			t.Fatal(err)
		}
		chip = process.Open(t)
		wantSigns(t, "after the loss of power", chip, file)
	}
	const lockoutCounter = 0x20e // TPM_PT_LOCKOUT_COUNTER
	rsp := must(tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: lockoutCounter, PropertyCount: 1}.Execute(chip.Raw()))(t)
	list := must(rsp.CapabilityData.Data.TPMProperties())(t)
	if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != lockoutCounter || list.TPMProperty[0].Value != 0 {
		t.Errorf("the chip counts failed attempts: %v", list.TPMProperty)
	}
}

// Endorsement keys are under dictionary attack protection: a chip that loses
// power after the use of one counts a failed attempt. The owner's own keys go
// on working in a chip that is locked out.
func TestLockout(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	file := createKey(t, chip, newApprover(t).sealing())
	ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
	credential, encrypted, err := ek.MakeCredential(attestationKey(t, chip).Name(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if _, err = chip.Activate(credential, encrypted); err != nil {
			break
		}
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
		chip.Close()
		if err := process.Restart(); err != nil {
			t.Fatal(err)
		}
		chip = process.Open(t)
	}
	if !errors.Is(err, tpm.ErrLockout) {
		t.Fatalf("activation after losses of power: %v, want %v", err, tpm.ErrLockout)
	}
	wantSigns(t, "locked out", chip, file)
	must(chip.CertifyCreation(file, [32]byte{}))(t)

	// Powered off in order, the same uses count nothing.
	must(tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}}.Execute(chip.Raw()))(t)
	chip.Close()
	chip = process.Open(t)
	for range 5 {
		if _, err := chip.Activate(credential, encrypted); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(chip.Close(), process.Restart()); err != nil {
			t.Fatal(err)
		}
		chip = process.Open(t)
	}
}

// A key file works in its own chip only, and not after TPM2_Clear.
func TestForeignKey(t *testing.T) {
	process := tpmtest.New(t)
	one, two := process.Open(t), tpmtest.New(t).Open(t)
	file := createKey(t, one, nil)
	if _, err := two.LoadKey(file); !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("loading another chip's key: %v, want %v", err, tpm.ErrForeignKey)
	}
	damaged := *file
	damaged.Private = bytes.Clone(file.Private)
	damaged.Private[40] ^= 1
	if _, err := one.LoadKey(&damaged); !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("loading a damaged key: %v, want %v", err, tpm.ErrForeignKey)
	}
	ak := attestationKey(t, one).Name()
	must(tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(one.Raw()))(t)
	one.Close()
	one = process.Open(t)
	if _, err := one.LoadKey(file); !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("loading a key after TPM2_Clear: %v, want %v", err, tpm.ErrForeignKey)
	}
	if again := attestationKey(t, one).Name(); again != ak {
		t.Error("TPM2_Clear changed the attestation key")
	}
}

// What the owner of the machine did before us gets its own error.
func TestOwner(t *testing.T) {
	setOwner := func(chip *tpm.TPM) {
		t.Helper()
		must(tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("taken")},
		}.Execute(chip.Raw()))(t)
	}
	t.Run("password before the first key", func(t *testing.T) {
		chip := tpmtest.New(t).Open(t)
		setOwner(chip)
		_, err := chip.CreateKey(nil)
		var advised interface{ Hint() string }
		if !errors.Is(err, tpm.ErrOwnerAuth) || !errors.As(err, &advised) || advised.Hint() == "" {
			t.Errorf("CreateKey: %v, want %v with a hint", err, tpm.ErrOwnerAuth)
		}
		// The attestation key needs no owner; it is only slower.
		must(chip.AK())(t)
		if n := transients(t, chip); n != 0 {
			t.Errorf("%d objects and sessions left in the chip", n)
		}
	})
	t.Run("password after enrolment", func(t *testing.T) {
		chip := tpmtest.New(t).Open(t)
		file := createKey(t, chip, newApprover(t).sealing())
		setOwner(chip)
		wantSigns(t, "with an owner's password", chip, file)
		must(chip.CertifyEpoch([32]byte{}))(t)
	})
	t.Run("another key at the storage root key's handle", func(t *testing.T) {
		chip := tpmtest.New(t).Open(t)
		created := must(tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(chip.Raw()))(t)
		must(tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: created.ObjectHandle, Name: created.Name},
			PersistentHandle: tpm.SRKHandle,
		}.Execute(chip.Raw()))(t)
		must(tpm2.FlushContext{FlushHandle: created.ObjectHandle}.Execute(chip.Raw()))(t)
		if _, err := chip.CreateKey(nil); !errors.Is(err, tpm.ErrSRK) {
			t.Errorf("CreateKey: %v, want %v", err, tpm.ErrSRK)
		}
	})
}

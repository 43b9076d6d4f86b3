package chip_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

var fleet = chancery.FleetID{1}

// statement is something for N:SK to sign.
var statement = chancery.PoP{NodeNonce: [32]byte{42}}

// A machine has a chip from a manufacturer, which its software uses through
// package tpm, and a coordinator that it trusts.
type machine struct {
	*testing.T
	behind   *tpmtest.TPM
	chip     *chip.Chip
	private  *ecdsa.PrivateKey // the fleet's approval key
	approval chancery.PublicKey
	key      *tpm.KeyFile // sealed; see enrol
}

func newMachine(t *testing.T, m chip.Model) *machine {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	behind := tpmtest.New(t)
	return &machine{
		T:        t,
		behind:   behind,
		chip:     newChip(t, behind.Process, m),
		private:  private,
		approval: must(chancery.NewPublicKey(&private.PublicKey))(t),
	}
}

// open takes the chip until the test ends, or until it is closed.
func (m *machine) open() *tpm.TPM {
	m.Helper()
	owner, err := tpm.Open(m.chip.Device())
	check(m, err)
	m.Cleanup(func() { owner.Close() })
	return owner
}

// enrol makes the key, without any fault.
func (m *machine) enrol() *machine {
	m.Helper()
	owner := m.open()
	m.key = must(owner.CreateKey(m.sealing()))(m)
	check(m, owner.Close())
	return m
}

func (m *machine) sealing() *tpm.Sealing {
	return &tpm.Sealing{Approval: m.approval, Nonce: [32]byte{7}, PCRs: tpm.DefaultPCRs}
}

// approve signs with the approval key.
func (m *machine) approve(what chancery.PolicyApproval) chancery.Signature {
	m.Helper()
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, what))
	r, s, err := ecdsa.Sign(rand.Reader, m.private, digest[:])
	check(m, err)
	return must(chancery.NewSignature(chancery.P256, r, s))(m)
}

// sign loads the key and signs with it.
func (m *machine) sign(owner *tpm.TPM) error {
	key, err := owner.LoadKey(m.key)
	if err != nil {
		return err
	}
	sig, err := key.Sign(m.Context(), fleet, statement)
	if err != nil {
		return err
	}
	return key.PublicKey().Verify(fleet, statement, sig)
}

// join does what the chip has to do in an enrolment, and signs.
func (m *machine) join(owner *tpm.TPM) error {
	ek, err := owner.EK()
	if err != nil {
		return err
	}
	ak, err := owner.AK()
	if err != nil {
		return err
	}
	if m.key, err = owner.CreateKey(m.sealing()); err != nil {
		return err
	}
	public, err := tpm.ParseEndorsementKey(ek.Public)
	if err != nil {
		return err
	}
	credential, encrypted, err := public.MakeCredential(ak.Name, []byte("the secret of this activation"))
	if err != nil {
		return err
	}
	if secret, err := owner.Activate(credential, encrypted); err != nil {
		return err
	} else if string(secret) != "the secret of this activation" {
		return fmt.Errorf("activated %q", secret)
	}
	if _, err := owner.CertifyCreation(m.key, [32]byte{}); err != nil {
		return err
	}
	if _, err := owner.CertifyEpoch([32]byte{}); err != nil {
		return err
	}
	if _, _, err := owner.Quote([]int{0, 7}, [32]byte{}); err != nil {
		return err
	}
	return m.sign(owner)
}

// raise moves the epoch counter from this value to the next.
func (m *machine) raise(owner *tpm.TPM, from uint64) error {
	increment := tpm.Increment(m.approval, m.key.Seal.AK, from)
	_, err := owner.ApplyEpoch(m.approval, from, m.approve(increment))
	return err
}

// wantSigns checks that the chip works for its next owner, and that he leaves
// nothing behind.
func (m *machine) wantSigns(step string) {
	m.Helper()
	owner, err := tpm.Open(m.chip.Device())
	if err != nil {
		m.Fatalf("%s: the chip does not open: %v", step, err)
	}
	if err := m.sign(owner); err != nil {
		m.Errorf("%s: the key does not sign: %v", step, err)
	}
	if err := owner.Close(); err != nil {
		m.Errorf("%s: %v", step, err)
	}
	wantEmpty(m, step, m.behind.Process)
}

// wipe takes what the first owner made out of the chip, so that the next one is
// the first again.
func (m *machine) wipe() {
	m.Helper()
	w := connect(m, m.behind.Device())
	defer w.Close()
	hierarchy := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	for _, h := range []tpm2.TPMHandle{0x81000001, 0x81010020} { // storage root key, attestation key
		rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(w)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue
		}
		check(m, err)
		key := tpm2.NamedHandle{Handle: h, Name: rsp.Name}
		must(tpm2.EvictControl{Auth: hierarchy, ObjectHandle: key, PersistentHandle: h}.Execute(w))(m)
	}
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(0x01800101)}.Execute(w) // epoch counter
	if errors.Is(err, tpm2.TPMRCHandle) {
		return
	}
	check(m, err)
	index := tpm2.NamedHandle{Handle: 0x01800101, Name: rsp.NVName}
	must(tpm2.NVUndefineSpace{AuthHandle: hierarchy, NVIndex: index}.Execute(w))(m)
}

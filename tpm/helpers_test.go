package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

var fleet = chancery.FleetID{1}

// statement is something for N:SK to sign.
var statement = chancery.PoP{NodeNonce: [32]byte{42}}

// approver is the fleet's approval key, in software.
type approver struct {
	private *ecdsa.PrivateKey
	key     chancery.PublicKey
}

func newApprover(t testing.TB) approver {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return approver{private, key}
}

func (a approver) sign(t testing.TB, what chancery.PolicyApproval) chancery.Signature {
	t.Helper()
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, what))
	r, s, err := ecdsa.Sign(rand.Reader, a.private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := chancery.NewSignature(chancery.P256, r, s)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// approve adds an approval for the epoch and values to the file.
func (a approver) approve(t testing.TB, file *tpm.KeyFile, epoch uint64, values tpm.PCRValues) {
	t.Helper()
	what, err := file.Seal.Approve(epoch, values)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.AddApproval(epoch, values, a.sign(t, what)); err != nil {
		t.Fatal(err)
	}
}

// sealing is to PCR 7 and this approver.
func (a approver) sealing() *tpm.Sealing {
	return &tpm.Sealing{Approval: a.key, Nonce: [32]byte{7}, PCRs: tpm.DefaultPCRs}
}

func createKey(t testing.TB, chip *tpm.TPM, sealing *tpm.Sealing) *tpm.KeyFile {
	t.Helper()
	file, err := chip.CreateKey(sealing)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// signs loads the key anew and signs with it.
func signs(t testing.TB, chip *tpm.TPM, file *tpm.KeyFile) error {
	t.Helper()
	key, err := chip.LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign(t.Context(), fleet, statement)
	if err != nil {
		return err
	}
	return key.PublicKey().Verify(fleet, statement, sig)
}

// wantSigns and wantSealed name the step of a scenario that they check.
func wantSigns(t testing.TB, step string, chip *tpm.TPM, file *tpm.KeyFile) {
	t.Helper()
	if err := signs(t, chip, file); err != nil {
		t.Errorf("%s: the key does not sign: %v", step, err)
	}
}

func wantSealed(t testing.TB, step string, chip *tpm.TPM, file *tpm.KeyFile) {
	t.Helper()
	var sealed *tpm.SealedError
	if err := signs(t, chip, file); !errors.As(err, &sealed) {
		t.Errorf("%s: signing: %v, want a *SealedError", step, err)
	}
}

func attestationKey(t testing.TB, chip *tpm.TPM) tpm.AttestationKey {
	t.Helper()
	ak, err := chip.AK()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm.ParseAttestationKey(ak.Public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func nodeKey(t testing.TB, file *tpm.KeyFile) tpm.NodeKey {
	t.Helper()
	public, err := file.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm.ParseNodeKey(file.Public, public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// must is for calls whose failure is a broken test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// transients counts what is loaded in the chip: objects and sessions.
func transients(t testing.TB, chip *tpm.TPM) int {
	t.Helper()
	count := 0
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(chip.Raw())
		if err != nil {
			t.Fatal(err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		count += len(list.Handle)
	}
	return count
}

// wantLink checks that an error is an *EvidenceError at the link, for the
// reason.
func wantLink(t testing.TB, what string, err error, link string, reason error) {
	t.Helper()
	var e *tpm.EvidenceError
	if !errors.As(err, &e) || e.Link != link || reason != nil && !errors.Is(err, reason) {
		t.Errorf("%s: %v; want link %q, reason %v", what, err, link, reason)
	}
}

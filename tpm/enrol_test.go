package tpm_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// TestEnrolment is the TPM's part of docs/protocol.md section 4, with the
// node's steps on the left and the coordinator's indented.
func TestEnrolment(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	approver := newApprover(t)

	info := chip.Info()
	if !info.Simulator || info.Manufacturer != "IBM" {
		t.Errorf("an swtpm calls itself %v", info)
	}
	ek := must(chip.EK())(t)
	ak := must(chip.AK())(t)
	file := createKey(t, chip, approver.sealing())

	{
		certificate := must(tpm.ParseEKCertificate(ek.Certificate))(t)
		if err := certificate.Verify(ek.Chain, tpmtest.Roots(t), time.Now()); err != nil {
			t.Error(err)
		}
		if certificate.Manufacturer == "" || certificate.Model == "" || certificate.Version == "" {
			t.Errorf("EK certificate describes no chip: %+v", certificate)
		}
		if err := certificate.Matches(must(tpm.ParseEndorsementKey(ek.Public))(t)); err != nil {
			t.Error(err)
		}
	}

	akKey := must(tpm.ParseAttestationKey(ak.Public))(t)
	secret := make([]byte, 32)
	rand.Read(secret)
	credential, encrypted, err := must(tpm.ParseEndorsementKey(ek.Public))(t).MakeCredential(akKey.Name(), secret)
	if err != nil {
		t.Fatal(err)
	}

	got, err := chip.Activate(credential, encrypted)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("activated %x (%v), want %x", got, err, secret)
	}
	qualifying := [32]byte{1, 2, 3}
	creation := must(chip.CertifyCreation(file, qualifying))(t)
	counter := must(chip.CertifyEpoch(qualifying))(t)
	quote, values, err := chip.Quote([]int{0, 2, 4, 7}, qualifying)
	if err != nil {
		t.Fatal(err)
	}

	{
		public, err := file.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		node := must(tpm.ParseNodeKey(file.Public, public))(t)
		made := must(akKey.VerifyCreation(creation, node, file.CreationData, qualifying))(t)
		epoch, _, err := akKey.VerifyEpoch(counter, approver.key, qualifying)
		if err != nil {
			t.Fatal(err)
		}
		err = node.CheckSeal(tpm.Seal{
			Sealing: tpm.Sealing{Approval: approver.key, Nonce: approver.sealing().Nonce, PCRs: made.PCRs},
			AK:      akKey.Name(), Epoch: epoch, PCRDigest: made.PCRDigest,
		})
		if err != nil {
			t.Error(err)
		}
		facts := must(akKey.VerifyQuote(quote, values, qualifying))(t)
		if facts.ResetCount != made.ResetCount || facts.Firmware != info.Firmware || facts.Clock < made.Clock {
			t.Errorf("quote's facts %+v do not continue creation's %+v (firmware %#x)", facts, made.Facts, info.Firmware)
		}
	}
	wantSigns(t, "enrolled", chip, file)
	if n := transients(t, chip); n != 0 {
		t.Errorf("the enrolment left %d objects and sessions in the chip", n)
	}
}

// An unsealed key goes the same way, without counter and policy.
func TestEnrolmentUnsealed(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, nil)
	node := nodeKey(t, file)
	if node.Sealed {
		t.Error("the key is sealed")
	}
	creation := must(chip.CertifyCreation(file, [32]byte{9}))(t)
	made := must(attestationKey(t, chip).VerifyCreation(creation, node, file.CreationData, [32]byte{9}))(t)
	if len(made.PCRs) != 0 {
		t.Errorf("creation data record PCRs %v", made.PCRs)
	}
	wantSigns(t, "unsealed", chip, file)
	if _, err := chip.CertifyEpoch([32]byte{9}); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("there is an epoch counter: %v", err)
	}
	wantLink(t, "unsealed key as sealed", node.CheckSeal(tpm.Seal{Sealing: *newApprover(t).sealing()}), tpm.LinkSealing, tpm.ErrPolicy)
}

// Keys of the chip itself do not depend on who opens it or how often.
func TestIdentityIsStable(t *testing.T) {
	process := tpmtest.New(t)
	chip := process.Open(t)
	ek, ak := must(chip.EK())(t), must(chip.AK())(t)
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	if err := process.Restart(); err != nil {
		t.Fatal(err)
	}
	chip = process.Open(t)
	if again := must(chip.EK())(t); !bytes.Equal(again.Public, ek.Public) || !bytes.Equal(again.Certificate, ek.Certificate) {
		t.Error("another endorsement key after a power cycle")
	}
	if again := must(chip.AK())(t); again.Name != ak.Name {
		t.Error("another attestation key after a power cycle")
	}

	// Without its persistent copy the attestation key is made anew, the same.
	evict(t, chip, tpm.AKHandle)
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	chip = process.Open(t)
	if again := must(chip.AK())(t); again.Name != ak.Name {
		t.Error("another attestation key after its eviction")
	}
}

func evict(t *testing.T, chip *tpm.TPM, h tpm2.TPMHandle) {
	t.Helper()
	public, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     tpm2.NamedHandle{Handle: h, Name: public.Name},
		PersistentHandle: h,
	}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
}

// undefine removes an NV index by the owner.
func undefine(t *testing.T, chip *tpm.TPM, index tpm2.TPMHandle) {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
}

// A credential is of use to the chip with this EK and this AK only, for each
// kind of endorsement key. swtpm has no certificate for P-256, so removing
// those of P-384 and RSA makes the node fall back step by step.
func TestCredential(t *testing.T) {
	process := tpmtest.New(t)
	stranger := attestationKey(t, tpmtest.New(t).Open(t))
	for _, test := range []struct {
		template string
		remove   tpm2.TPMHandle // certificate to remove afterwards
	}{
		{"H-3 (ECC P-384)", 0x01c00016},
		{"L-1 (RSA 2048)", 0x01c00002},
		{"L-2 (ECC P-256)", 0},
	} {
		t.Run(test.template, func(t *testing.T) {
			chip := process.Open(t)
			defer chip.Close()
			ek := must(chip.EK())(t)
			key := must(tpm.ParseEndorsementKey(ek.Public))(t)
			if key.Template() != test.template || (ek.Certificate == nil) != (test.remove == 0) {
				t.Fatalf("EK is %s, certificate of %d bytes", key.Template(), len(ek.Certificate))
			}
			if !bytes.Equal(ek.SPKI, key.SPKI()) {
				t.Error("the node's and the coordinator's SPKI differ")
			}
			ak := attestationKey(t, chip)
			credential, encrypted, err := key.MakeCredential(ak.Name(), []byte("a secret"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := chip.Activate(credential, encrypted); err != nil || string(got) != "a secret" {
				t.Errorf("activated %q, %v", got, err)
			}
			flipped := bytes.Clone(credential)
			flipped[len(flipped)-1] ^= 1
			if _, err := chip.Activate(flipped, encrypted); !errors.Is(err, tpm2.TPMRCIntegrity) {
				t.Errorf("a flipped bit: %v, want TPM_RC_INTEGRITY", err)
			}
			credential, encrypted, err = key.MakeCredential(stranger.Name(), []byte("a secret"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := chip.Activate(credential, encrypted); !errors.Is(err, tpm2.TPMRCIntegrity) {
				t.Errorf("a credential for another AK: %v, want TPM_RC_INTEGRITY", err)
			}
			if _, _, err := key.MakeCredential(ak.Name(), make([]byte, 33)); err == nil {
				t.Error("a credential of 33 bytes is made")
			}
			if n := transients(t, chip); n != 0 {
				t.Errorf("%d objects and sessions left in the chip", n)
			}
			if test.remove != 0 {
				undefinePlatform(t, chip, test.remove)
			}
		})
	}
}

// A credential for another chip is refused; only how, depends on the kind of its
// endorsement key.
func TestForeignCredential(t *testing.T) {
	one, two := tpmtest.New(t), tpmtest.New(t)
	for _, test := range []struct {
		remove tpm2.TPMHandle // certificate to remove before
		want   []error
	}{
		{0, []error{tpm2.TPMRCIntegrity}},
		{0x01c00016, []error{tpm2.TPMRCValue, tpm2.TPMRCFailure}},
		{0x01c00002, []error{tpm2.TPMRCIntegrity}},
	} {
		mine, other := must(tpm.Open(one.Device()))(t), must(tpm.Open(two.Device()))(t)
		if test.remove != 0 {
			undefinePlatform(t, mine, test.remove)
			undefinePlatform(t, other, test.remove)
		}
		ek := must(tpm.ParseEndorsementKey(must(other.EK())(t).Public))(t)
		credential, encrypted, err := ek.MakeCredential(attestationKey(t, mine).Name(), []byte("a secret"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = mine.Activate(credential, encrypted)
		if !slices.ContainsFunc(test.want, func(want error) bool { return errors.Is(err, want) }) || errors.Is(err, tpm.ErrFailure) {
			t.Errorf("%s: %v", ek.Template(), err)
		}
		if err := errors.Join(mine.Close(), other.Close()); err != nil {
			t.Error(err)
		}
	}
}

// undefinePlatform removes an index that the manufacturer defined; the
// platform hierarchy of a simulator is open.
func undefinePlatform(t *testing.T, chip *tpm.TPM, index tpm2.TPMHandle) {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
}

// Some chips carry their issuers' certificates in NV, cut at arbitrary places.
func TestChainInNV(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	ca := newTestCA(t)
	chain := append(bytes.Clone(ca.cert.Raw), newTestCA(t).cert.Raw...)
	defineNV(t, chip, 0x01c00100, chain[:300])
	defineNV(t, chip, 0x01c00101, append(bytes.Clone(chain[300:]), 0xff, 0xff))
	ek := must(chip.EK())(t)
	if len(ek.Chain) != 2 || !bytes.Equal(append(bytes.Clone(ek.Chain[0]), ek.Chain[1]...), chain) {
		t.Errorf("%d certificates in the chain, want the 2 that were written", len(ek.Chain))
	}
}

func defineNV(t *testing.T, chip *tpm.TPM, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: owner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true},
		}),
	}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVWrite{
		AuthHandle: owner,
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data},
	}.Execute(chip.Raw())
	if err != nil {
		t.Fatal(err)
	}
}

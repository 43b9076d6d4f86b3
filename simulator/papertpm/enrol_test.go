package papertpm_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// evidence is everything that a chip says in an enrolment.
type evidence struct {
	ek                       tpm.EK
	ak                       tpm.AK
	file                     *tpm.KeyFile
	creation, quote, counter tpm.Attestation
	values                   tpm.PCRValues
}

func collect(t testing.TB, chip applicant, sealing *tpm.Sealing) evidence {
	t.Helper()
	e := evidence{ek: must(chip.EK())(t), ak: must(chip.AK())(t), file: must(chip.CreateKey(sealing))(t)}
	e.creation = must(chip.CertifyCreation(e.file, qualifying))(t)
	if sealing != nil {
		e.counter = must(chip.CertifyEpoch(qualifying))(t)
	}
	var err error
	if e.quote, e.values, err = chip.Quote(quoted, qualifying); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEnrolment has package tpm judge all that a paper chip says, for each kind
// of endorsement key.
func TestEnrolment(t *testing.T) {
	approver := newApprover(t)
	for _, kind := range kinds {
		for what, sealing := range map[string]*tpm.Sealing{"sealed": approver.sealing(), "unsealed": nil} {
			t.Run(kind.String()+"/"+what, func(t *testing.T) {
				chip := newChip(t, papertpm.Options{EK: kind, Manufacturer: "IFX", Vendor: "SLB9672", Firmware: 15<<48 | 22<<32, ResetCount: 9})
				e := collect(t, chip, sealing)
				judge(t, chip, kind, approver, e)

				key := must(chip.LoadKey(must(tpm.ParseKeyFile(e.file.Marshal()))(t)))(t)
				signature := must(key.Sign(t.Context(), fleet, statement))(t)
				if err := key.PublicKey().Verify(fleet, statement, signature); err != nil || !key.PublicKey().Equal(nodeKey(t, e.file).Key) {
					t.Errorf("N:SK's signature: %v", err)
				}
			})
		}
	}
}

// judge is the coordinator.
func judge(t *testing.T, chip *papertpm.Chip, kind papertpm.Kind, approver approver, e evidence) {
	t.Helper()
	ek := must(tpm.ParseEndorsementKey(e.ek.Public))(t)
	if ek.Template() != kind.String() || !bytes.Equal(ek.SPKI(), e.ek.SPKI) {
		t.Errorf("EK is %s, want %s", ek.Template(), kind)
	}
	certificate := must(tpm.ParseEKCertificate(e.ek.Certificate))(t)
	if err := errors.Join(certificate.Verify(e.ek.Chain, must(newMaker())(t).Roots(), time.Now()), certificate.Matches(ek)); err != nil {
		t.Error(err)
	}
	if certificate.Manufacturer != "id:49465800" || certificate.Model != "SLB9672" || certificate.Version != "id:000F0016" {
		t.Errorf("the certificate describes %q, %q, %q", certificate.Manufacturer, certificate.Model, certificate.Version)
	}

	ak := must(tpm.ParseAttestationKey(e.ak.Public))(t)
	if ak.Name() != e.ak.Name {
		t.Errorf("AK's Name %v, computed %v", e.ak.Name, ak.Name())
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	credential, encrypted, err := ek.MakeCredential(ak.Name(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := chip.Activate(credential, encrypted); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("activated %x (%v), want %x", got, err, secret)
	}

	node := nodeKey(t, e.file)
	made := must(ak.VerifyCreation(e.creation, node, e.file.CreationData, qualifying))(t)
	facts := must(ak.VerifyQuote(e.quote, e.values, qualifying))(t)
	if made.ResetCount != 9 || facts.ResetCount != 9 || !facts.Safe || facts.Clock < made.Clock || facts.Firmware != chip.Info().Firmware {
		t.Errorf("facts of creation %+v, of quote %+v", made.Facts, facts)
	}
	if !node.Sealed {
		if len(made.PCRs) != 0 {
			t.Errorf("creation data record PCRs %v", made.PCRs)
		}
		wantLink(t, "unsealed key as sealed", node.CheckSeal(tpm.Seal{Sealing: *approver.sealing()}), tpm.LinkSealing, tpm.ErrPolicy)
		return
	}
	epoch, _, err := ak.VerifyEpoch(e.counter, approver.key, qualifying)
	if err != nil || epoch != 1 {
		t.Errorf("epoch %d (%v), want 1", epoch, err)
	}
	seal := tpm.Seal{Sealing: *approver.sealing(), AK: ak.Name(), Epoch: epoch, PCRDigest: made.PCRDigest}
	seal.PCRs = made.PCRs
	if err := node.CheckSeal(seal); err != nil {
		t.Error(err)
	}
	if node.Policy != seal.Policy() || e.file.Seal.Policy() != seal.Policy() {
		t.Error("the policy is not package tpm's")
	}
}

// TestForgedEvidence presents what a dishonest node could, to see that a paper
// chip's evidence is refused for the reasons for which a chip's is.
func TestForgedEvidence(t *testing.T) {
	approver := newApprover(t)
	chip, other := newChip(t, papertpm.Options{}), newChip(t, papertpm.Options{})
	e, o := collect(t, chip, approver.sealing()), collect(t, other, approver.sealing())
	ak, node := attestationKey(t, chip), nodeKey(t, e.file)

	creation := func(a tpm.Attestation, n tpm.NodeKey, data []byte, q [32]byte) error {
		_, err := ak.VerifyCreation(a, n, data, q)
		return err
	}
	quote := func(a tpm.Attestation, v tpm.PCRValues, q [32]byte) error {
		_, err := ak.VerifyQuote(a, v, q)
		return err
	}
	counter := func(a tpm.Attestation, q [32]byte) error {
		_, _, err := ak.VerifyEpoch(a, approver.key, q)
		return err
	}
	data := e.file.CreationData
	for _, test := range []struct {
		what   string
		err    error
		link   string
		reason error
	}{
		{"creation for another nonce", creation(e.creation, node, data, [32]byte{}), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation of another key", creation(e.creation, nodeKey(t, o.file), data, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation with other data", creation(e.creation, node, o.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation by another chip", creation(o.creation, nodeKey(t, o.file), o.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestSignature},
		{"quote as creation", creation(e.quote, node, data, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"quote for another nonce", quote(e.quote, e.values, [32]byte{}), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote of other values", quote(e.quote, tpm.PCRValues{0: {1}, 2: {}, 4: {}, 7: {}}, qualifying), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote of fewer PCRs", quote(e.quote, tpm.PCRValues{7: {}}, qualifying), tpm.LinkQuote, tpm.ErrAttestation},
		{"counter for another nonce", counter(e.counter, [32]byte{}), tpm.LinkEpoch, tpm.ErrAttestation},
		{"counter of another chip", counter(o.counter, qualifying), tpm.LinkEpoch, tpm.ErrAttestSignature},
	} {
		wantLink(t, test.what, test.err, test.link, test.reason)
	}
	for i := range e.creation.Attest {
		forged := tpm.Attestation{Attest: bytes.Clone(e.creation.Attest), Signature: e.creation.Signature}
		forged.Attest[i] ^= 1
		if creation(forged, node, data, qualifying) == nil {
			t.Fatalf("an attestation with byte %d changed verifies", i)
		}
	}
}

// TestForeignFiles gives a chip key files that it did not write.
func TestForeignFiles(t *testing.T) {
	approver := newApprover(t)
	chip, other := newChip(t, papertpm.Options{}), newChip(t, papertpm.Options{})
	file, foreign := must(chip.CreateKey(approver.sealing()))(t), must(other.CreateKey(approver.sealing()))(t)
	for _, test := range []struct {
		what    string
		change  func(*tpm.KeyFile)
		load    error
		certify error
	}{
		{"another chip's", func(f *tpm.KeyFile) { *f = *foreign }, tpm.ErrForeignKey, tpm.ErrForeignKey},
		{"another public area", func(f *tpm.KeyFile) { f.Public, f.Seal = foreign.Public, foreign.Seal }, tpm.ErrForeignKey, tpm.ErrForeignKey},
		{"private area cut", func(f *tpm.KeyFile) { f.Private = f.Private[:40] }, tpm.ErrForeignKey, tpm.ErrForeignKey},
		{"private area flipped", func(f *tpm.KeyFile) { f.Private[60] ^= 1 }, tpm.ErrForeignKey, tpm.ErrForeignKey},
		{"no private area", func(f *tpm.KeyFile) { f.Private = nil }, tpm.ErrForeignKey, tpm.ErrForeignKey},
		{"no creation data", func(f *tpm.KeyFile) { f.CreationData = nil }, tpm.ErrKeyFile, tpm.ErrKeyFile},
		{"no ticket", func(f *tpm.KeyFile) { f.CreationTicket = nil }, nil, tpm.ErrKeyFile},
		{"another chip's ticket", func(f *tpm.KeyFile) { f.CreationTicket = foreign.CreationTicket }, nil, tpm2.TPMRCTicket},
		{"another seal", func(f *tpm.KeyFile) { f.Seal.Epoch++ }, tpm.ErrKeyFile, nil},
		{"no seal", func(f *tpm.KeyFile) { f.Seal = nil }, tpm.ErrKeyFile, nil},
		{"seal without approval key", func(f *tpm.KeyFile) { f.Seal.Approval = chancery.PublicKey{} }, tpm.ErrKeyFile, nil},
		{"seal to a PCR that is none", func(f *tpm.KeyFile) { f.Seal.PCRs = []int{99} }, tpm.ErrPCRs, nil},
	} {
		changed := must(tpm.ParseKeyFile(file.Marshal()))(t)
		test.change(changed)
		if _, err := chip.LoadKey(changed); !errors.Is(err, test.load) {
			t.Errorf("%s: load: %v, want %v", test.what, err, test.load)
		}
		if _, err := chip.CertifyCreation(changed, qualifying); !errors.Is(err, test.certify) {
			t.Errorf("%s: certify creation: %v, want %v", test.what, err, test.certify)
		}
	}
	if _, err := newChip(t, papertpm.Options{}).CertifyEpoch(qualifying); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("a new chip has an epoch counter: %v", err)
	}
}

// TestConcurrency makes and uses chips from several goroutines, and one chip
// from all of them; for the race detector.
func TestConcurrency(t *testing.T) {
	shared, sealing := newChip(t, papertpm.Options{}), newApprover(t).sealing()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for _, chip := range []*papertpm.Chip{newChip(t, papertpm.Options{EK: kinds[i%len(kinds)]}), shared} {
				e := collect(t, chip, sealing)
				wantSigns(t, "among others", chip, e.file)
			}
			shared.Reset()
		})
	}
}

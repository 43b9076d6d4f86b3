package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// evidenceOf is everything that one chip says in an enrolment.
type evidenceOf struct {
	chip                     *tpm.TPM
	ak                       tpm.AttestationKey
	file                     *tpm.KeyFile
	node                     tpm.NodeKey
	creation, quote, counter tpm.Attestation
	values                   tpm.PCRValues
}

func collect(t *testing.T, a approver, qualifying [32]byte) evidenceOf {
	t.Helper()
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, a.sealing())
	e := evidenceOf{chip: chip, ak: attestationKey(t, chip), file: file, node: nodeKey(t, file)}
	e.creation = must(chip.CertifyCreation(file, qualifying))(t)
	e.counter = must(chip.CertifyEpoch(qualifying))(t)
	var err error
	if e.quote, e.values, err = chip.Quote([]int{4, 7}, qualifying); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestForgedEvidence presents, at each link, what a dishonest node could.
func TestForgedEvidence(t *testing.T) {
	approver, qualifying := newApprover(t), [32]byte{5}
	e, other := collect(t, approver, qualifying), collect(t, approver, qualifying)

	creation := func(ak tpm.AttestationKey, a tpm.Attestation, n tpm.NodeKey, data []byte, q [32]byte) error {
		_, err := ak.VerifyCreation(a, n, data, q)
		return err
	}
	quote := func(ak tpm.AttestationKey, a tpm.Attestation, v tpm.PCRValues, q [32]byte) error {
		_, err := ak.VerifyQuote(a, v, q)
		return err
	}
	counter := func(ak tpm.AttestationKey, a tpm.Attestation, by approverKey, q [32]byte) error {
		_, _, err := ak.VerifyEpoch(a, by.key, q)
		return err
	}
	mine := approverKey(approver)
	if err := creation(e.ak, e.creation, e.node, e.file.CreationData, qualifying); err != nil {
		t.Fatal(err)
	}
	if err := quote(e.ak, e.quote, e.values, qualifying); err != nil {
		t.Fatal(err)
	}
	if err := counter(e.ak, e.counter, mine, qualifying); err != nil {
		t.Fatal(err)
	}

	stale, lied := qualifying, tpm.PCRValues{4: e.values[4], 7: measurement}
	stale[31]++
	data := bytes.Clone(e.file.CreationData)
	data[len(data)-1] ^= 1
	for _, test := range []struct {
		what   string
		err    error
		link   string
		reason error
	}{
		{"creation for another nonce", creation(e.ak, e.creation, e.node, e.file.CreationData, stale), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation of another key", creation(e.ak, e.creation, other.node, e.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation with other data", creation(e.ak, e.creation, e.node, data, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation without data", creation(e.ak, e.creation, e.node, nil, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"creation by another chip", creation(e.ak, other.creation, other.node, other.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestSignature},
		{"quote as creation", creation(e.ak, e.quote, e.node, e.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"counter as creation", creation(e.ak, e.counter, e.node, e.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestation},
		{"no attestation key", creation(tpm.AttestationKey{}, e.creation, e.node, e.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrAttestSignature},
		{"nothing", creation(e.ak, tpm.Attestation{}, e.node, e.file.CreationData, qualifying), tpm.LinkCreation, tpm.ErrMalformed},

		{"quote for another nonce", quote(e.ak, e.quote, e.values, stale), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote of other values", quote(e.ak, e.quote, lied, qualifying), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote of fewer PCRs", quote(e.ak, e.quote, tpm.PCRValues{7: e.values[7]}, qualifying), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote of other PCRs", quote(e.ak, e.quote, tpm.PCRValues{5: e.values[4], 7: e.values[7]}, qualifying), tpm.LinkQuote, tpm.ErrAttestation},
		{"quote by another chip", quote(e.ak, other.quote, other.values, qualifying), tpm.LinkQuote, tpm.ErrAttestSignature},
		{"creation as quote", quote(e.ak, e.creation, e.values, qualifying), tpm.LinkQuote, tpm.ErrAttestation},

		{"counter for another nonce", counter(e.ak, e.counter, mine, stale), tpm.LinkEpoch, tpm.ErrAttestation},
		{"counter of another approval key", counter(e.ak, e.counter, approverKey(newApprover(t)), qualifying), tpm.LinkEpoch, tpm.ErrAttestation},
		{"counter without approval key", counter(e.ak, e.counter, approverKey{}, qualifying), tpm.LinkEpoch, tpm.ErrAttribute},
		{"counter of another chip", counter(e.ak, other.counter, mine, qualifying), tpm.LinkEpoch, tpm.ErrAttestSignature},
		{"quote as counter", counter(e.ak, e.quote, mine, qualifying), tpm.LinkEpoch, tpm.ErrAttestation},
	} {
		wantLink(t, test.what, test.err, test.link, test.reason)
	}

	// Every single bit of an attestation and of its signature counts.
	for i := range e.quote.Attest {
		forged := tpm.Attestation{Attest: bytes.Clone(e.quote.Attest), Signature: e.quote.Signature}
		forged.Attest[i] ^= 1
		if quote(e.ak, forged, e.values, qualifying) == nil {
			t.Fatalf("a quote with byte %d changed verifies", i)
		}
	}
	for i := range e.quote.Signature {
		forged := tpm.Attestation{Attest: e.quote.Attest, Signature: bytes.Clone(e.quote.Signature)}
		forged.Signature[i] ^= 1
		if quote(e.ak, forged, e.values, qualifying) == nil {
			t.Fatalf("a quote with signature byte %d changed verifies", i)
		}
	}
	longer := tpm.Attestation{Attest: e.quote.Attest, Signature: append(bytes.Clone(e.quote.Signature), 0)}
	wantLink(t, "a byte after the signature", quote(e.ak, longer, e.values, qualifying), tpm.LinkQuote, tpm.ErrMalformed)
	wantLink(t, "endless attestation", quote(e.ak, tpm.Attestation{Attest: make([]byte, 2000)}, e.values, qualifying), tpm.LinkQuote, tpm.ErrMalformed)
}

// approverKey is an approver of whom only the public key matters.
type approverKey approver

// N:SK signs anything, so nothing that it signed may pass for an attestation:
// not under its own public area, and not under the attestation key's.
func TestAttestationByTheNodeKey(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, nil)
	node := nodeKey(t, file)
	_, err := tpm.ParseAttestationKey(file.Public)
	wantLink(t, "N:PK as attestation key", err, tpm.LinkAK, tpm.ErrAttribute)

	// The chip lets an unsealed N certify itself; that is N's word only.
	srk := must(tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(tpm.SRKHandle)}.Execute(chip.Raw()))(t)
	loaded := must(tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: tpm.SRKHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public),
	}.Execute(chip.Raw()))(t)
	defer tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(chip.Raw())
	hash := sha256.Sum256(file.CreationData)
	ticket := must(tpm2.Unmarshal[tpm2.TPMTTKCreation](file.CreationTicket))(t)
	qualifying := [32]byte{3}
	rsp := must(tpm2.CertifyCreation{
		SignHandle:     tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:   tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
		CreationHash:   tpm2.TPM2BDigest{Buffer: hash[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		CreationTicket: *ticket,
	}.Execute(chip.Raw()))(t)
	own := tpm.Attestation{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
	_, err = attestationKey(t, chip).VerifyCreation(own, node, file.CreationData, qualifying)
	wantLink(t, "attestation by N", err, tpm.LinkCreation, tpm.ErrAttestSignature)
}

// TestAttributes flips every bit of the attributes of N:PK and of the
// attestation key.
func TestAttributes(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	for what, file := range map[string]*tpm.KeyFile{"sealed": createKey(t, chip, newApprover(t).sealing()), "unsealed": createKey(t, chip, nil)} {
		key := must(file.PublicKey())(t)
		for bit := range 32 {
			_, err := tpm.ParseNodeKey(flip(file.Public, bit), key)
			wantLink(t, what, err, tpm.LinkNodeKey, tpm.ErrAttribute)
		}
		for n := range file.Public {
			if _, err := tpm.ParseNodeKey(file.Public[:n], key); err == nil {
				t.Errorf("%s: the first %d bytes of a public area pass", what, n)
			}
		}
		_, err := tpm.ParseNodeKey(append(bytes.Clone(file.Public), 0), key)
		wantLink(t, "a byte too many", err, tpm.LinkNodeKey, tpm.ErrMalformed)
		_, err = tpm.ParseNodeKey(file.Public, newApprover(t).key)
		wantLink(t, "another key's area", err, tpm.LinkNodeKey, tpm.ErrAttribute)
	}
	ak := must(chip.AK())(t)
	for bit := range 32 {
		_, err := tpm.ParseAttestationKey(flip(ak.Public, bit))
		wantLink(t, "attestation key", err, tpm.LinkAK, tpm.ErrAttribute)
	}
	ek := must(chip.EK())(t)
	for bit := range 32 {
		_, err := tpm.ParseEndorsementKey(flip(ek.Public, bit))
		wantLink(t, "endorsement key", err, tpm.LinkEK, tpm.ErrAttribute)
	}
	_, err := tpm.ParseEndorsementKey(ak.Public)
	wantLink(t, "attestation key as endorsement key", err, tpm.LinkEK, tpm.ErrAttribute)
	_, err = tpm.ParseEndorsementKey(ek.Public[:len(ek.Public)-1])
	wantLink(t, "endorsement key cut short", err, tpm.LinkEK, tpm.ErrMalformed)
	bent := bytes.Clone(ek.Public)
	bent[len(bent)-1] ^= 1
	_, err = tpm.ParseEndorsementKey(bent)
	wantLink(t, "endorsement key off the curve", err, tpm.LinkEK, tpm.ErrMalformed)
}

// flip changes a bit of objectAttributes, bytes 4 to 7 of a TPMT_PUBLIC.
func flip(public []byte, bit int) []byte {
	b := bytes.Clone(public)
	b[7-bit/8] ^= 1 << (bit % 8)
	return b
}

// A sealed key under another policy than the coordinator computes is refused,
// whichever part differs.
func TestCheckSeal(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, newApprover(t).sealing())
	node := nodeKey(t, file)
	if err := node.CheckSeal(*file.Seal); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*tpm.Seal){
		"approval key": func(s *tpm.Seal) { s.Approval = newApprover(t).key },
		"nonce":        func(s *tpm.Seal) { s.Nonce[31]++ },
		"AK":           func(s *tpm.Seal) { s.AK[33]++ },
		"epoch":        func(s *tpm.Seal) { s.Epoch++ },
		"PCRs":         func(s *tpm.Seal) { s.PCRs = []int{8} },
		"PCR digest":   func(s *tpm.Seal) { s.PCRDigest[0]++ },
	} {
		seal := *file.Seal
		change(&seal)
		wantLink(t, what, node.CheckSeal(seal), tpm.LinkSealing, tpm.ErrPolicy)
	}
	seal := *file.Seal
	seal.PCRs = nil
	wantLink(t, "no PCRs", node.CheckSeal(seal), tpm.LinkSealing, nil)
}

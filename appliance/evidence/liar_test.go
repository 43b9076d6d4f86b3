package evidence_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// A liar is a node whose owner talks to the chip without package tpm, and so
// gives N:SK whatever policy he likes. The chip attests what is true: that it
// made this key, in this state, and where its counter is. Here the attestation
// key is software; what it attests is composed as a chip composes it.
type liar struct {
	*papertpm.Chip
	t     testing.TB
	key   *ecdsa.PrivateKey
	index tpm.Name // of the epoch counter
	epoch uint64
}

// newLiar is a machine with a key that is created in the state of its PCRs, as
// made tells, and under the policy of the seal that it claims.
func (w *world) newLiar(epoch uint64, made, claimed []int, edit func(*tpm.Seal)) *machine {
	w.t.Helper()
	m := w.machine(papertpm.Options{}, true)
	c := m.chip.(*papertpm.Chip)
	l := &liar{Chip: c, t: w.t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(w.t), epoch: epoch}
	m.chip = l

	area := must(tpm2.Unmarshal[tpm2.TPMTPublic](m.ak.Public))(w.t)
	area.Unique = coordinates(&l.key.PublicKey)
	m.ak = tpm.AK{Public: tpm2.Marshal(area)}
	m.ak.Name = must(tpm.ParseAttestationKey(m.ak.Public))(w.t).Name()
	// The counter's Name is that of an NV index under the policy of both keys;
	// the chip's own attestation has it for another AK, so it is computed anew.
	l.index = counterName(w.t, w.approval, m.ak.Name)

	seal := *m.file.Seal
	seal.AK, seal.Epoch, seal.PCRs = m.ak.Name, epoch, claimed
	seal.PCRDigest = must(c.PCRValues(claimed))(w.t).Digest()
	if edit != nil {
		edit(&seal)
	}
	nsk := must(fleet.NewKey())(w.t)
	policy := seal.Policy()
	area = must(tpm2.Unmarshal[tpm2.TPMTPublic](m.file.Public))(w.t)
	area.Unique, area.AuthPolicy.Buffer = coordinates(nsk.PublicKey().ECDSA()), policy[:]
	data := must(tpm2.Unmarshal[tpm2.TPMSCreationData](m.file.CreationData))(w.t)
	digest := must(c.PCRValues(made))(w.t).Digest()
	data.PCRSelect, data.PCRDigest.Buffer = selection(made), digest[:]
	m.file = &tpm.KeyFile{Public: tpm2.Marshal(area), CreationData: tpm2.Marshal(data), Seal: &seal}
	m.nsk = nsk
	return m
}

func coordinates(k *ecdsa.PublicKey) tpm2.TPMUPublicID {
	point, _ := k.Bytes()
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
}

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	var numbers []uint
	for _, n := range pcrs {
		numbers = append(numbers, uint(n))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)}}}
}

// nameOf is the Name of what has this public area (TPM 2.0 Part 1, section 16).
func nameOf(area []byte) tpm.Name {
	sum := sha256.Sum256(area)
	return tpm.Name(append([]byte{0, 0x0b}, sum[:]...))
}

// counterName is nvName of docs/protocol.md section 4.9, line by line.
func counterName(t testing.TB, approval *fleet.Key, ak tpm.Name) tpm.Name {
	point, err := approval.PublicKey().ECDSA().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	h := func(parts ...[]byte) []byte {
		s := sha256.New()
		for _, p := range parts {
			s.Write(p)
		}
		return s.Sum(nil)
	}
	zeros, sized := make([]byte, 32), []byte{0, 0x22}
	area := append([]byte{0, 0x23, 0, 0x0b, 0, 4, 0, 0x40, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0x20}, point[1:33]...)
	area = append(append(area, 0, 0x20), point[33:]...)
	approvalName := nameOf(area)
	incrementRef := h([]byte("chancery-v1 increment"), sized, ak[:])
	first := h(h(zeros, []byte{0, 0, 1, 0x8f, 0}), []byte{0, 0, 1, 0x6c}, []byte{0, 0, 1, 0x34})
	later := h(h(zeros, []byte{0, 0, 1, 0x6a}, approvalName[:]), incrementRef)
	policy := h(zeros, []byte{0, 0, 1, 0x71}, first, later)
	nv := append([]byte{0x01, 0x80, 0x01, 0x01, 0, 0x0b, 0x22, 0x04, 0x00, 0x18, 0, 0x20}, policy...)
	return nameOf(append(nv, 0, 8))
}

func (l *liar) CertifyCreation(file *tpm.KeyFile, qualifying [32]byte) (tpm.Attestation, error) {
	name, hash := nameOf(file.Public), sha256.Sum256(file.CreationData)
	return l.attest(tpm2.TPMSTAttestCreation, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{
		ObjectName: tpm2.TPM2BName{Buffer: name[:]}, CreationHash: tpm2.TPM2BDigest{Buffer: hash[:]},
	}), qualifying), nil
}

func (l *liar) CertifyEpoch(qualifying [32]byte) (tpm.Attestation, error) {
	return l.attest(tpm2.TPMSTAttestNV, tpm2.NewTPMUAttest(tpm2.TPMSTAttestNV, &tpm2.TPMSNVCertifyInfo{
		IndexName: tpm2.TPM2BName{Buffer: l.index[:]}, NVContents: tpm2.TPM2BData{Buffer: binary.BigEndian.AppendUint64(nil, l.epoch)},
	}), qualifying), nil
}

// Activate returns whatever: the credential is for the liar's own key, and that
// it was activated is the coordinator's word anyway.
func (l *liar) Activate(_, _ []byte) ([]byte, error) { return nil, nil }

func (l *liar) attest(kind tpm2.TPMST, what tpm2.TPMUAttest, qualifying [32]byte) tpm.Attestation {
	l.t.Helper()
	area := must(tpm2.Unmarshal[tpm2.TPMTPublic](must(l.AK())(l.t).Public))(l.t)
	area.Unique = coordinates(&l.key.PublicKey)
	ak := nameOf(tpm2.Marshal(area))
	signer := nameOf(append(tpm2.HandleName(tpm2.TPMRHEndorsement).Buffer, ak[:]...))
	attest := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: kind, QualifiedSigner: tpm2.TPM2BName{Buffer: signer[:]},
		ExtraData: tpm2.TPM2BData{Buffer: qualifying[:]}, ClockInfo: tpm2.TPMSClockInfo{Safe: true}, Attested: what,
	})
	digest := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, l.key, digest[:])
	if err != nil {
		l.t.Fatal(err)
	}
	return tpm.Attestation{Attest: attest, Signature: tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})}
}

// A key under a policy that is not the one of its creation would sign in states
// in which it must not. What the node claims agrees with the key, so it passes
// the first look; what the chip attests does not agree.
func TestLyingSeal(t *testing.T) {
	w := newWorld(t)
	next := func(s *tpm.Seal) { s.PCRDigest[0] ^= 1 }
	ahead := func(s *tpm.Seal) { s.Epoch += 1000 }
	behind := func(s *tpm.Seal) { s.Epoch-- }
	for _, test := range []struct {
		what          string
		made, claimed []int
		edit          func(*tpm.Seal)
		enrol, renew  bool // whether it holds
	}{
		{"the truth", []int{7}, []int{7}, nil, true, true},
		{"of several PCRs", []int{0, 7, 11}, []int{0, 7, 11}, nil, true, true},
		{"an epoch to come", []int{7}, []int{7}, ahead, false, false},
		{"an epoch that is past", []int{7}, []int{7}, behind, false, true}, // proven when it was enrolled
		{"a state to come", []int{7}, []int{7}, next, false, false},
		{"other PCRs", []int{7}, []int{8}, nil, false, false},
		{"fewer PCRs", []int{0, 7}, []int{7}, nil, false, false},
		{"more PCRs", []int{7}, []int{0, 7}, nil, false, false},
	} {
		m := w.newLiar(5, test.made, test.claimed, test.edit)
		for renewal, holds := range map[bool]bool{false: test.enrol, true: test.renew} {
			r := m.record(exchange{renewal: renewal})
			r.Submission.Activation = r.Activation
			what := test.what
			if renewal {
				what += ", at a renewal"
			}
			if holds {
				wantHolds(t, what, r.Verify(w.trust()), bare...)
			} else {
				wantBroken(t, what, r.Verify(w.trust()), tpm.LinkSealing)
			}
		}
	}
	// Of a counter that somebody else may move, nothing follows.
	m := w.newLiar(5, []int{7}, []int{7}, nil)
	m.chip.(*liar).index = counterName(t, must(fleet.NewKey())(t), m.ak.Name)
	r := m.record(exchange{})
	r.Submission.Activation = r.Activation
	wantBroken(t, "a counter of another approval key", r.Verify(w.trust()), tpm.LinkEpoch)
	_, err := judge(w, r)
	wantLink(t, "a counter of another approval key", err, tpm.LinkEpoch, tpm.ErrAttestation)
}

package chancery

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// A testWitness is a cosigner that signs whatever it is given.
type testWitness struct {
	id  merkle.TrustAnchorID
	key softKey
}

func newTestWitness(id string) testWitness { return testWitness{caID(id), newKey("witness " + id)} }

func (tw testWitness) trusted() WitnessKey { return WitnessKey{tw.id, tw.key.PublicKey()} }

// sign is the witness's signature over a subtree, under an ID.
func (tw testWitness) sign(id merkle.TrustAnchorID, l *testLog, sub merkle.Subtree, root merkle.Hash) merkle.SubtreeSignature {
	m := merkle.CosignedMessage{Cosigner: id, Log: merkle.LogID(l.ca, l.log), Subtree: sub, Hash: root}
	return merkle.SubtreeSignature{Cosigner: id, Signature: tw.key.signRaw(m.Marshal())}
}

// witnessed is nc with further signatures, in the order that the draft wants.
func (w *world) witnessed(nc *Certificate, signatures ...merkle.SubtreeSignature) []byte {
	w.t.Helper()
	return w.rewrite(nc, func(_ *merkle.Serial, p *merkle.Proof) {
		p.Signatures = append(p.Signatures, signatures...)
		slices.SortFunc(p.Signatures, func(a, b merkle.SubtreeSignature) int { return a.Cosigner.Compare(b.Cosigner) })
	})
}

func TestWitnesses(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		w.enroll("first")
	}
	batch := w.issue(w.subject("edge-1"), w.subject("edge-2")) // [4, 6)
	nc, l := batch[0], w.currentLog()
	sub := nc.mtc.Proof.Subtree
	root, err := l.tree.Subtree(sub)
	if err != nil {
		t.Fatal(err)
	}
	// IDs that sort before and after the CA's.
	one, two, three := newTestWitness("32473.9"), newTestWitness("32473.1.1.1"), newTestWitness("32473.1.7")
	good := func(tw testWitness) merkle.SubtreeSignature { return tw.sign(tw.id, l, sub, root) }
	other := merkle.Subtree{End: l.tree.Size()}
	otherRoot, err := l.tree.Subtree(other)
	if err != nil {
		t.Fatal(err)
	}
	timed := merkle.CosignedMessage{Cosigner: one.id, Timestamp: uint64(w.now.Unix()), Log: merkle.LogID(l.ca, l.log), Subtree: sub, Hash: root}
	impostor := testWitness{one.id, newKey("stranger")}
	log2 := &testLog{logRef: logRef{l.ca, 2}}
	all := []WitnessKey{one.trusted(), two.trusted(), three.trusted()}
	type sigs = []merkle.SubtreeSignature

	for _, test := range []struct {
		name       string
		witnesses  []WitnessKey
		quorum     int
		signatures sigs
		signed     int // -1: passes
	}{
		{"none wanted, none there", nil, 0, nil, -1},
		{"none wanted, some there", all, 0, sigs{good(one), good(two)}, -1},
		{"none wanted, a wrong one there", all, 0, sigs{impostor.sign(one.id, l, sub, root)}, -1},
		{"one of three", all, 1, sigs{good(two)}, -1},
		{"two of three", all, 2, sigs{good(three), good(one)}, -1},
		{"all", all, 3, sigs{good(one), good(two), good(three)}, -1},
		{"one wrong, and enough others", all, 2, sigs{impostor.sign(one.id, l, sub, root), good(two), good(three)}, -1},
		{"an unknown cosigner besides", all[:1], 1, sigs{good(one), good(two)}, -1},

		{"none there", all, 1, nil, 0},
		{"too few", all, 2, sigs{good(two)}, 1},
		{"an unknown cosigner only", all[:1], 1, sigs{good(two)}, 0},
		{"more wanted than there are", all, 4, sigs{good(one), good(two), good(three)}, 3},
		{"wanted of nobody", nil, 1, sigs{good(one)}, 0},
		{"another key under its ID", all[:1], 1, sigs{impostor.sign(one.id, l, sub, root)}, 0},
		{"its key under another ID", []WitnessKey{{two.id, one.key.PublicKey()}}, 1, sigs{{Cosigner: two.id, Signature: good(one).Signature}}, 0},
		{"over another subtree", all[:1], 1, sigs{one.sign(one.id, l, other, otherRoot)}, 0},
		{"over another root", all[:1], 1, sigs{one.sign(one.id, l, sub, merkle.Hash{1})}, 0},
		{"over another log", all[:1], 1, sigs{one.sign(one.id, log2, sub, root)}, 0},
		{"over a checkpoint", all[:1], 1, sigs{{Cosigner: one.id, Signature: one.key.signRaw(timed.Marshal())}}, 0},
		{"nothing as a signature", all[:1], 1, sigs{{Cosigner: one.id}}, 0},
		{"the CA's signature", all[:1], 1, sigs{{Cosigner: one.id, Signature: nc.mtc.Proof.Signatures[0].Signature}}, 0},

		{"one witness listed twice", []WitnessKey{one.trusted(), one.trusted()}, 2, sigs{good(one)}, 1},
		{"one key under two IDs", []WitnessKey{one.trusted(), {two.id, one.key.PublicKey()}}, 2, sigs{good(one), one.sign(two.id, l, sub, root)}, 1},
		{"one ID with two keys", []WitnessKey{one.trusted(), {one.id, two.key.PublicKey()}}, 2, sigs{good(one)}, 1},
		{"the CA as its own witness", []WitnessKey{{l.ca, w.ca().PublicKey()}}, 1, nil, 0},
		{"the CA's key under another ID", []WitnessKey{{one.id, w.ca().PublicKey()}}, 1, sigs{testWitness{one.id, w.ca()}.sign(one.id, l, sub, root)}, 0},
		{"a witness without a key", []WitnessKey{{ID: one.id}}, 1, sigs{good(one)}, 0},
		{"a witness without an ID", []WitnessKey{{Key: one.key.PublicKey()}}, 1, sigs{good(one)}, 0},
		{"an ID that cannot be signed under", []WitnessKey{{one.id.Append(slices.Repeat([]uint32{99}, 120)...), one.key.PublicKey()}}, 1, sigs{good(one)}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			der := w.witnessed(nc, test.signatures...)
			parsed, err := ParseCertificate(der)
			if err != nil {
				t.Fatalf("it does not parse: %v", err)
			}
			if !bytes.Equal(parsed.Raw(), der) {
				t.Error("it comes back as something else")
			}
			policy := Policy{Witnesses: test.witnesses, Quorum: test.quorum}
			_, err = NewVerifier(w.trust()).Verify([][]byte{der}, "", NodeID{}, policy, w.now)
			if test.signed < 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, CheckNC, ErrWitness)
			if e, ok := errors.AsType[*WitnessError](err); !ok || e.Signed != test.signed || e.Quorum != test.quorum {
				t.Errorf("%+v, want %d signed", e, test.signed)
			}
		})
	}

	// The error names who did what.
	der := w.witnessed(nc, impostor.sign(one.id, l, sub, root), good(three))
	_, err = NewVerifier(w.trust()).Verify([][]byte{der}, "", NodeID{}, Policy{Witnesses: all, Quorum: 2}, w.now)
	const want = "edge-1 refused by the n-c check: too few witnesses signed the certificate's subtree: 1, want 2; 32473.1.1.1 did not sign; the signature of 32473.9 does not verify"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	// Out of order, or one cosigner twice, is no encoding of a certificate.
	for what, order := range map[string][]merkle.SubtreeSignature{
		"after the CA's":   {nc.mtc.Proof.Signatures[0], {Cosigner: caID("32473.1"), Signature: []byte{1}}},
		"one twice":        {nc.mtc.Proof.Signatures[0], good(two), good(two)},
		"one with another": {nc.mtc.Proof.Signatures[0], good(two), impostor.sign(two.id, l, sub, root)},
	} {
		p := nc.mtc.Proof
		p.Signatures = order
		if b, err := p.Marshal(); !errors.Is(err, merkle.ErrMalformed) {
			t.Errorf("%s: %x, %v", what, b, err)
		}
	}
}

// A witness's signature is verified once a batch, as the CA's is. What the cache
// knows of one key counts for no other, and no certificate but those of the
// subtree.
func TestWitnessCache(t *testing.T) {
	w := newWorld(t)
	batch := w.issue(w.subject("edge-1"), w.subject("edge-2"), w.subject("edge-3"))
	l, sub := w.currentLog(), batch[0].mtc.Proof.Subtree
	root, err := l.tree.Subtree(sub)
	if err != nil {
		t.Fatal(err)
	}
	one, two := newTestWitness("32473.9"), newTestWitness("32473.8")
	v := NewVerifier(w.trust())
	verify := func(der []byte, policy Policy) (uint64, error) {
		before := verifications.Load()
		_, err := v.Verify([][]byte{der}, "", NodeID{}, policy, w.now)
		return verifications.Load() - before, err
	}
	policy := Policy{Witnesses: []WitnessKey{one.trusted(), two.trusted()}, Quorum: 1}
	for i, nc := range batch {
		want := uint64(1) // N:S
		if i == 0 {
			want = 3
		}
		if spent, err := verify(w.witnessed(nc, one.sign(one.id, l, sub, root)), policy); err != nil || spent != want {
			t.Errorf("certificate %d of the batch: %d signatures, want %d; %v", i, spent, want, err)
		}
	}
	// That the witness saw the subtree is known, whichever certificate said so.
	if _, err := verify(batch[1].Raw(), policy); err != nil {
		t.Error(err)
	}
	policy.Quorum = 2
	_, err = verify(batch[1].Raw(), policy)
	refused(t, err, CheckNC, ErrWitness)
	policy = Policy{Witnesses: []WitnessKey{{one.id, two.key.PublicKey()}}, Quorum: 1}
	_, err = verify(batch[1].Raw(), policy)
	refused(t, err, CheckNC, ErrWitness)
	policy = Policy{Witnesses: []WitnessKey{{two.id, one.key.PublicKey()}}, Quorum: 1}
	_, err = verify(batch[1].Raw(), policy)
	refused(t, err, CheckNC, ErrWitness)
	_, err = verify(w.enroll("edge-4").nc.Raw(), Policy{Witnesses: []WitnessKey{one.trusted()}, Quorum: 1})
	refused(t, err, CheckNC, ErrWitness)
	w.check()
}

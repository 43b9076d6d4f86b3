package chancery

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A question is what a node that enrols knows when CA:N:S comes.
type question struct {
	*world
	key    softKey
	akName []byte
	nonce  [32]byte
}

func newQuestion(t *testing.T) question {
	return question{newWorld(t), nodeKey("edge-1"), append([]byte{0, 11}, make([]byte, 32)...), [32]byte{1, 2, 3}}
}

// answer is the good CA:N:S, unsigned and outside of any tree.
func (q question) answer() *CANS {
	k := q.key.PublicKey()
	return &CANS{
		NodeKey: k, NodeID: NewNodeID(q.fleet(), k), AKName: q.akName,
		EKDigest: [32]byte{4}, NodeNonce: q.nonce, CoordinatorNonce: [32]byte{5}, IntakeID: IntakeID{6},
		Issued: q.now, Expires: q.now.Add(MaxCANSLife),
	}
}

// sign makes one batch of the answers.
func (q question) sign(key softKey, answers ...*CANS) {
	q.t.Helper()
	tree, err := BatchCANS(answers)
	if err != nil {
		q.t.Fatal(err)
	}
	sig := key.must(q.fleet(), tree)
	for _, a := range answers {
		a.Signature = sig
	}
}

func (q question) verify(a *CANS) error {
	return a.Verify(q.fleet(), q.ca().PublicKey(), q.key.PublicKey(), q.akName, q.nonce, q.now)
}

func TestGoodCoordinator(t *testing.T) {
	q := newQuestion(t)
	for _, size := range []int{1, 2, 3, 5, 8, 100} {
		answers := make([]*CANS, size)
		for i := range answers {
			answers[i] = q.answer()
			answers[i].IntakeID[15] = byte(i)
		}
		q.sign(q.ca(), answers...)
		for i, a := range answers {
			parsed, err := ParseCANS(a.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			if err := q.verify(parsed); err != nil {
				t.Errorf("%d of %d: %v", i, size, err)
			}
			if parsed.Hash() != a.Hash() {
				t.Errorf("%d of %d: the hash changes on the way", i, size)
			}
		}
	}
	for _, n := range []int{0, maxCANSBatch + 1} {
		if _, err := BatchCANS(make([]*CANS, n)); err == nil {
			t.Errorf("a batch of %d", n)
		}
	}
}

// The node stops before its TPM does anything for the other end.
func TestNotOurCoordinator(t *testing.T) {
	other := nodeKey("edge-2").PublicKey()
	for _, test := range []struct {
		name string
		// before changes what is signed, after what was signed.
		before, after func(q question, a *CANS)
		also          error
	}{
		{name: "another node's key", before: func(q question, a *CANS) {
			a.NodeKey, a.NodeID = other, NewNodeID(q.fleet(), other)
		}},
		{name: "another node's key under our id", before: func(q question, a *CANS) { a.NodeKey = other }},
		{name: "another node's id", before: func(q question, a *CANS) { a.NodeID = NewNodeID(q.fleet(), other) }},
		{name: "id in another fleet", before: func(q question, a *CANS) { a.NodeID = NewNodeID(FleetID{1}, a.NodeKey) }},
		{name: "another attestation key", before: func(q question, a *CANS) { a.AKName = []byte{0, 11, 1} }},
		{name: "no attestation key", before: func(q question, a *CANS) { a.AKName = nil }},
		{name: "wrong nonce", before: func(q question, a *CANS) { a.NodeNonce[31] ^= 1 }},
		{name: "stale", before: func(q question, a *CANS) { a.Issued, a.Expires = q.now.Add(-time.Hour), q.now.Add(-time.Second) }},
		{name: "longer than 10 minutes", before: func(q question, a *CANS) { a.Expires = a.Issued.Add(MaxCANSLife + time.Second) }},
		{name: "expires before it was issued", before: func(q question, a *CANS) { a.Issued = a.Expires.Add(time.Second) }},
		{name: "from the future", before: func(q question, a *CANS) {
			a.Issued = q.now.Add(maxSkew + time.Second)
			a.Expires = a.Issued.Add(time.Minute)
		}},
		{name: "signed by another key", after: func(q question, a *CANS) { q.sign(newKey("stranger"), a) }, also: ErrSignature},
		{name: "signed by the approval key", after: func(q question, a *CANS) { q.sign(newKey("approval"), a) }, also: ErrSignature},
		{name: "signed in another fleet", after: func(q question, a *CANS) {
			tree, _ := BatchCANS([]*CANS{a})
			a.Signature = q.ca().must(FleetID{1}, tree)
		}, also: ErrSignature},
		{name: "signature of an N:S by CA:SK", after: func(q question, a *CANS) {
			a.Signature = q.ca().must(q.fleet(), &NS{Fleet: q.fleet(), NodeKey: a.NodeKey})
		}, also: ErrSignature},
		{name: "high s", after: func(q question, a *CANS) { a.Signature = twin(P256, a.Signature) }, also: ErrHighS},
		{name: "no signature", after: func(q question, a *CANS) { a.Signature = nil }, also: ErrSigLength},
		{name: "nonce changed after signing", after: func(q question, a *CANS) { a.CoordinatorNonce[0] ^= 1 }, also: ErrSignature},
		{name: "another place in the tree", after: func(q question, a *CANS) { a.Index, a.Size = 1, 2 }},
		{name: "larger tree", after: func(q question, a *CANS) { a.Size++ }},
		{name: "no tree", after: func(q question, a *CANS) { a.Size = 0 }},
		{name: "extra hash", after: func(q question, a *CANS) { a.Proof = append(a.Proof, [32]byte{}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := newQuestion(t)
			a := q.answer()
			if test.before != nil {
				test.before(q, a)
			}
			q.sign(q.ca(), a)
			if test.after != nil {
				test.after(q, a)
			}
			err := q.verify(a)
			if !errors.Is(err, ErrNotOurCoordinator) || test.also != nil && !errors.Is(err, test.also) {
				t.Errorf("got %v, want ErrNotOurCoordinator and %v", err, test.also)
			}
		})
	}
}

// In a batch, one node's proof does not serve another answer.
func TestCANSProofIsForItsOwnAnswer(t *testing.T) {
	q := newQuestion(t)
	batch := []*CANS{q.answer(), q.answer(), q.answer()}
	for i, a := range batch {
		a.IntakeID[0] = byte(10 + i)
	}
	q.sign(q.ca(), batch...)
	for i, a := range batch {
		for j, b := range batch {
			if i == j {
				continue
			}
			forged := *a
			forged.Index, forged.Proof = b.Index, b.Proof
			if err := q.verify(&forged); !errors.Is(err, ErrNotOurCoordinator) {
				t.Errorf("answer %d with the proof of %d: %v", i, j, err)
			}
		}
		for name, proof := range map[string]int{"missing": len(a.Proof) - 1, "none": 0} {
			forged := *a
			forged.Proof = a.Proof[:proof]
			if err := q.verify(&forged); !errors.Is(err, ErrNotOurCoordinator) {
				t.Errorf("answer %d, %s hash: %v", i, name, err)
			}
		}
	}
}

func TestParseCANSBounds(t *testing.T) {
	q := newQuestion(t)
	for name, change := range map[string]func(a *CANS){
		"index at size":  func(a *CANS) { a.Index, a.Size = 1, 1 },
		"size 0":         func(a *CANS) { a.Size = 0 },
		"size too large": func(a *CANS) { a.Size = maxCANSBatch + 1 },
		"33 hashes":      func(a *CANS) { a.Proof = make([]merkle.Hash, 33) },
		"no signature":   func(a *CANS) { a.Signature = nil },
		"no key":         func(a *CANS) { a.NodeKey = PublicKey{} },
	} {
		a := q.answer()
		q.sign(q.ca(), a)
		change(a)
		if _, err := ParseCANS(a.Marshal()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// N:S at enrolment (section 4, step 6).
func TestNSVerify(t *testing.T) {
	q := newQuestion(t)
	a := q.answer()
	good := NS{Fleet: q.fleet(), NodeKey: q.key.PublicKey(), CANSHash: a.Hash(), Created: q.now, Name: "edge-1"}
	good.Signature = q.key.must(q.fleet(), &good)
	for _, test := range []struct {
		name   string
		change func(n *NS)
		want   error
	}{
		{"good", func(*NS) {}, nil},
		{"high s", func(n *NS) { n.Signature = twin(P256, n.Signature) }, ErrHighS},
		{"fleet swap", func(n *NS) { n.Fleet = FleetID{1}; n.Signature = q.key.must(n.Fleet, n) }, ErrFleet},
		{"fleet swap inside", func(n *NS) { n.Signature = q.key.must(FleetID{1}, n) }, ErrSignature},
		{"for another CA:N:S", func(n *NS) { n.CANSHash[0] ^= 1 }, ErrSignature},
		{"another name", func(n *NS) { n.Name = "edge-2" }, ErrSignature},
		{"another time", func(n *NS) { n.Created = n.Created.Add(time.Second) }, ErrSignature},
		{"by another node", func(n *NS) { n.Signature = nodeKey("edge-2").must(q.fleet(), n) }, ErrSignature},
		{"for another node's key", func(n *NS) { n.NodeKey = nodeKey("edge-2").PublicKey() }, ErrSignature},
		{"of a key of another suite", func(n *NS) { n.NodeKey = newKey384("edge-1").PublicKey() }, ErrSigLength},
		{"no key", func(n *NS) { n.NodeKey = PublicKey{} }, ErrSignature},
		{"proof of possession as N:S", func(n *NS) { n.Signature = q.key.must(q.fleet(), PoP{NodeKey: n.NodeKey}) }, ErrSignature},
	} {
		n := good
		n.Signature = bytes.Clone(good.Signature)
		test.change(&n)
		if err := n.Verify(q.fleet()); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	parsed, err := ParseNS(good.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Verify(q.fleet()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "Edge", "a..b", strings.Repeat("a", 64)} {
		n := good
		n.Name = name
		if _, err := ParseNS(n.Marshal()); !errors.Is(err, ErrName) {
			t.Errorf("name %q: %v, want ErrName", name, err)
		}
	}
}

// The proof of possession holds on one TLS connection only.
func TestPoPIsBoundToItsConnection(t *testing.T) {
	k := nodeKey("edge-1")
	pop := PoP{NodeKey: k.PublicKey(), AKName: []byte("ak"), EKDigest: [32]byte{1}, NodeNonce: [32]byte{2}, Exporter: [32]byte{3}}
	fleet := FleetID{9}
	sig := k.must(fleet, pop)
	if err := pop.NodeKey.Verify(fleet, pop, sig); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *PoP){
		"another connection":      func(p *PoP) { p.Exporter[31] ^= 1 },
		"another attestation key": func(p *PoP) { p.AKName = []byte("AK") },
		"another EK":              func(p *PoP) { p.EKDigest[0] ^= 1 },
		"another nonce":           func(p *PoP) { p.NodeNonce[0] ^= 1 },
		"another key":             func(p *PoP) { p.NodeKey = nodeKey("edge-2").PublicKey() },
	} {
		other := pop
		other.AKName = slices.Clone(pop.AKName)
		change(&other)
		if err := pop.NodeKey.Verify(fleet, other, sig); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

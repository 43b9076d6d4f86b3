package chancery

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A breakage spoils one thing about a peer without touching the others.
type breakage struct {
	check  Check
	reason error
	spend  uint64 // signatures verified until it is found
	// Each may be nil. They apply to what goes into the log, to the
	// certificate message, and to the question that the verifier is asked.
	subject func(w *world, s *Subject)
	certs   func(w *world, n *node) [][]byte
	ask     func(w *world, n *node, q *ask)
}

type ask struct {
	want   string
	self   NodeID
	policy Policy
}

// breakages are one for each check, in the order of the checks.
var breakages = []breakage{
	{CheckParse, merkle.ErrMalformed, 0, nil, func(w *world, n *node) [][]byte {
		return [][]byte{n.certificate, append(bytes.Clone(n.nc.Raw()), 0)}
	}, nil},
	{CheckCRL, ErrRevoked, 0, nil, nil, func(w *world, n *node, q *ask) {
		w.revoke(n.nc)
		w.publish()
	}},
	{CheckNS, ErrSignature, 1, func(w *world, s *Subject) {
		s.NS.Signature = newKey("stranger").must(w.fleet(), s.ns(w.fleet()))
	}, nil, nil},
	{CheckNC, ErrCASignature, 2, nil, func(w *world, n *node) [][]byte {
		der := w.rewrite(n.nc, func(_ *merkle.Serial, p *merkle.Proof) {
			l := w.currentLog()
			p.Signatures[0].Signature = w.signSubtree(newKey("stranger"), l, p.Subtree).ASN1()
		})
		return [][]byte{n.certificate, der}
	}, nil},
	{CheckSession, ErrSignature, 3, nil, nil, func(w *world, n *node, q *ask) {
		s := SessionTBS{sessionTBS(n.nc, [16]byte{0x40}, w.now, w.now.Add(time.Hour), n.session.PublicKey())}
		n.certificate = s.Certificate(P256, newKey("stranger").must(w.fleet(), s))
	}},
	{CheckName, ErrWrongPeer, 3, nil, nil, func(w *world, n *node, q *ask) { q.want = "somebody-else" }},
	{CheckSelf, ErrSelf, 3, nil, nil, func(w *world, n *node, q *ask) { q.self = n.nc.NodeID(w.fleet()) }},
	{CheckPolicy, ErrRole, 3, nil, nil, func(w *world, n *node, q *ask) { q.policy.Roles = []string{"edge", "admin"} }},
}

// The order of the checks is part of the protocol: a peer that is broken in
// two ways is refused by the earlier check, and not a signature is verified
// beyond those that come before it. Above all, none for a revoked peer.
func TestOrderOfChecks(t *testing.T) {
	for i := range breakages {
		for j := i; j < len(breakages); j++ {
			first, second := breakages[i], breakages[j]
			t.Run(fmt.Sprintf("%s before %s", first.check, second.check), func(t *testing.T) {
				w := newWorld(t)
				both := []breakage{second, first}
				if i == j {
					both = both[:1]
				}
				s := w.subject("edge-1")
				for _, b := range both {
					if b.subject != nil {
						b.subject(w, s)
					}
				}
				n := w.newSession(w.issue(s)[0])
				q := ask{want: "edge-1"}
				for _, b := range both {
					if b.ask != nil {
						b.ask(w, n, &q)
					}
				}
				certs := n.certs()
				for _, b := range both {
					if b.certs == nil {
						continue
					}
					broken := b.certs(w, n)
					if b.check == CheckParse { // on top of what the other did
						broken[1] = append(bytes.Clone(certs[1]), 0)
					}
					certs = broken
				}
				before := verifications.Load()
				_, err := NewVerifier(w.trust()).Verify(certs, q.want, q.self, q.policy, w.now)
				spent := verifications.Load() - before
				refused(t, err, first.check, first.reason)
				if spent != first.spend {
					t.Errorf("%d signatures verified, want %d", spent, first.spend)
				}
			})
		}
	}
}

// Attack: a revoked node presents the twin (r, n-s) of a signature, so that a
// list of signatures would miss it. The CRL goes by the serial number, which
// no signature can change, and comes before any signature is looked at.
func TestRevokedAndMalleated(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	malleated := w.rewrite(n.nc, func(_ *merkle.Serial, p *merkle.Proof) {
		sig, err := NewSignatureASN1(P256, p.Signatures[0].Signature)
		if err != nil {
			t.Fatal(err)
		}
		p.Signatures[0].Signature = twin(P256, sig).ASN1()
	})
	if bytes.Equal(malleated, n.nc.Raw()) {
		t.Fatal("nothing was malleated")
	}
	// The draft accepts either half, so before it is revoked it passes: the
	// attack would work if anything were named by a signature.
	if err := w.judge([][]byte{n.certificate, malleated}); err != nil {
		t.Fatal(err)
	}
	w.revoke(n.nc)
	w.publish()
	for name, der := range map[string][]byte{"as issued": n.nc.Raw(), "malleated": malleated} {
		before := verifications.Load()
		err := w.judge([][]byte{n.certificate, der})
		refused(t, err, CheckCRL, ErrRevoked)
		if spent := verifications.Load() - before; spent != 0 {
			t.Errorf("%s: %d signatures verified for a revoked peer", name, spent)
		}
	}
	w.check()
}

// N:S with high s is not an encoding of anything, so it is refused with the
// parse; it would change the log entry besides.
func TestHighSOfNSAtConnect(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	at := bytes.Index(n.nc.Raw(), n.nc.NS.Signature)
	der := bytes.Clone(n.nc.Raw())
	copy(der[at:], twin(P256, n.nc.NS.Signature))
	refused(t, w.judge([][]byte{n.certificate, der}), CheckParse, ErrHighS)
}

func TestVerifyNC(t *testing.T) {
	w := newWorld(t)
	w.enroll("first")
	batch := w.issue(w.subject("edge-1"), w.subject("edge-2"), w.subject("edge-3"), w.subject("edge-4"))
	nc := batch[1]
	l := w.currentLog()
	type proof = merkle.Proof
	strangerSigns := merkle.SubtreeSignature{Cosigner: caID("32473.1.7"), Signature: w.signSubtree(newKey("witness"), l, nc.mtc.Proof.Subtree).ASN1()}
	for _, test := range []struct {
		name   string
		change func(s *merkle.Serial, p *proof)
		want   error // nil: passes
	}{
		{"as issued", func(*merkle.Serial, *proof) {}, nil},
		{"signature of CA:SK is missing", func(_ *merkle.Serial, p *proof) { p.Signatures = nil }, ErrCASignature},
		{"only another cosigner", func(_ *merkle.Serial, p *proof) { p.Signatures = []merkle.SubtreeSignature{strangerSigns} }, ErrCASignature},
		{"an unknown cosigner besides", func(_ *merkle.Serial, p *proof) { p.Signatures = append(p.Signatures, strangerSigns) }, nil},
		{"another key signs as CA:SK", func(_ *merkle.Serial, p *proof) { p.Signatures[0].Signature = strangerSigns.Signature }, ErrCASignature},
		{"the node signs as CA:SK", func(_ *merkle.Serial, p *proof) {
			p.Signatures[0].Signature = w.signSubtree(nodeKey("edge-2"), l, p.Subtree).ASN1()
		}, ErrCASignature},
		{"CA:SK's checkpoint over the same tree", func(_ *merkle.Serial, p *proof) {
			root, _ := l.tree.Subtree(p.Subtree)
			c := NewCheckpoint(l.ca, l.log, p.Subtree.End, root, w.now)
			p.Signatures[0].Signature = w.ca().must(w.fleet(), c).ASN1()
		}, ErrCASignature},
		{"CA:S as signature", func(_ *merkle.Serial, p *proof) {
			p.Signatures[0].Signature = w.pointer().Current().CAS.ASN1()
		}, ErrCASignature},
		{"r || s instead of DER", func(_ *merkle.Serial, p *proof) {
			sig, _ := NewSignatureASN1(P256, p.Signatures[0].Signature)
			p.Signatures[0].Signature = sig
		}, ErrCASignature},
		{"wrong index", func(s *merkle.Serial, _ *proof) { *s-- }, ErrCASignature},
		{"index beyond the subtree", func(s *merkle.Serial, p *proof) { *s += 100 }, merkle.ErrProof},
		{"smaller subtree", func(_ *merkle.Serial, p *proof) { p.Subtree.End-- }, merkle.ErrProof},
		{"larger subtree", func(_ *merkle.Serial, p *proof) { p.Subtree.End += 4 }, merkle.ErrProof},
		{"invalid subtree", func(_ *merkle.Serial, p *proof) { p.Subtree.Start++ }, merkle.ErrProof},
		{"hash changed", func(_ *merkle.Serial, p *proof) { p.Inclusion[0][0] ^= 1 }, ErrCASignature},
		{"extra hash", func(_ *merkle.Serial, p *proof) { p.Inclusion = append(p.Inclusion, merkle.Hash{}) }, merkle.ErrProof},
		{"missing hash", func(_ *merkle.Serial, p *proof) { p.Inclusion = p.Inclusion[1:] }, merkle.ErrProof},
		{"hashes in another order", func(_ *merkle.Serial, p *proof) { slices.Reverse(p.Inclusion) }, ErrCASignature},
		{"another certificate's proof", func(_ *merkle.Serial, p *proof) { *p = batch[0].mtc.Proof }, ErrCASignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := w.judge([][]byte{w.rewrite(nc, test.change)})
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, CheckNC, test.want)
		})
	}
}

// An inner node of the tree, dressed up as a log entry, has another hash than
// as a node: leaves and nodes are hashed under different prefixes.
func TestNodeAsLeaf(t *testing.T) {
	w := newWorld(t)
	batch := w.issue(w.subject("edge-1"), w.subject("edge-2"), w.subject("edge-3"), w.subject("edge-4"))
	l := w.currentLog()
	left, err := l.tree.Subtree(merkle.Subtree{End: 2})
	if err != nil {
		t.Fatal(err)
	}
	a, b := batch[0].mtc.EntryHash(), batch[1].mtc.EntryHash()
	if asLeaf := merkle.HashLeaf(append(a[:], b[:]...)); asLeaf == left {
		t.Error("two leaves hash as one entry")
	}
	// And a proof that stops below the root, as if a node were the leaf:
	for cut := range batch[0].mtc.Proof.Inclusion {
		der := w.rewrite(batch[0], func(_ *merkle.Serial, p *merkle.Proof) { p.Inclusion = p.Inclusion[cut+1:] })
		refused(t, w.judge([][]byte{der}), CheckNC, merkle.ErrProof)
		der = w.rewrite(batch[0], func(_ *merkle.Serial, p *merkle.Proof) {
			p.Inclusion = p.Inclusion[cut+1:]
			p.Subtree.End = p.Subtree.Start + 1<<len(p.Inclusion)
		})
		refused(t, w.judge([][]byte{der}), CheckNC, ErrCASignature)
	}
}

// A leaf of another node does not certify this one: the subtree is signed,
// the entry is not in it.
func TestSwappedLeaf(t *testing.T) {
	w := newWorld(t)
	good := w.enroll("edge-1")
	forged := w.subject("edge-1", func(s *Subject) {
		s.Roles = []string{"admin"}
		s.NS.Signature = good.nc.NS.Signature
	})
	nc, err := NewCertificate(forged, good.nc.CA, good.nc.Serial, good.nc.mtc.Proof)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, w.judge([][]byte{nc.Raw()}), CheckNC, ErrCASignature)

	// Another key under the good certificate's name and N:S.
	forged = w.subject("edge-1", func(s *Subject) { s.NodeKey = nodeKey("thief").PublicKey() })
	if nc, err = NewCertificate(forged, good.nc.CA, good.nc.Serial, good.nc.mtc.Proof); err != nil {
		t.Fatal(err)
	}
	refused(t, w.judge([][]byte{nc.Raw()}), CheckNS, ErrSignature)
}

// Attack: the serial number of a revoked certificate is rewritten to another
// log, where the index is not revoked. The verifier has the subtree in its
// cache; the log is part of what it remembers.
func TestSerialRewrittenToAnotherLog(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	w.point(func(p *Pointer) { p.Keys[0].Logs = []uint16{1, 2} })
	for range 3 { // log 2 is as long, and has certificates of its own
		w.enroll("edge-2")
	}
	w.publish()
	v := NewVerifier(w.trust())
	if _, err := v.Verify(n.certs(), "", NodeID{}, Policy{}, w.now); err != nil {
		t.Fatal(err)
	}
	if len(v.subtrees) != 1 {
		t.Fatalf("%d subtrees in the cache", len(v.subtrees))
	}
	w.revoke(n.nc)
	if _, err := v.UpdateCRL(w.publish().Marshal(), w.now); err != nil {
		t.Fatal(err)
	}
	verify := func(log uint16) error {
		der := w.rewrite(n.nc, func(s *merkle.Serial, _ *merkle.Proof) { *s = serial(log, s.Index()) })
		_, err := v.Verify([][]byte{n.certificate, der}, "", NodeID{}, Policy{}, w.now)
		return err
	}
	refused(t, verify(1), CheckCRL, ErrRevoked)
	refused(t, verify(2), CheckNC, ErrCASignature)
	before := verifications.Load()
	refused(t, verify(3), CheckCRL, ErrUnknownLog)
	if spent := verifications.Load() - before; spent != 0 {
		t.Errorf("%d signatures verified for a log that nobody lists", spent)
	}
	w.check()
}

// Of a batch, only the first certificate costs a signature of CA:SK.
func TestSubtreeCache(t *testing.T) {
	w := newWorld(t)
	batch := w.issue(w.subject("edge-1"), w.subject("edge-2"), w.subject("edge-3"))
	v := NewVerifier(w.trust())
	for i, nc := range batch {
		before := verifications.Load()
		if _, err := v.Verify([][]byte{nc.Raw()}, "", NodeID{}, Policy{}, w.now); err != nil {
			t.Fatal(err)
		}
		want := uint64(1) // N:S
		if i == 0 {
			want = 2
		}
		if spent := verifications.Load() - before; spent != want {
			t.Errorf("certificate %d of the batch: %d signatures, want %d", i, spent, want)
		}
	}
	// A failure is not remembered as a success.
	forged := w.rewrite(batch[0], func(_ *merkle.Serial, p *merkle.Proof) { p.Inclusion[0][0] ^= 1 })
	for range 2 {
		_, err := v.Verify([][]byte{forged}, "", NodeID{}, Policy{}, w.now)
		refused(t, err, CheckNC, ErrCASignature)
	}
	// It is bounded.
	for i := range maxSubtrees + 10 {
		v.subtrees[subtreeKey{log: uint16(i), root: merkle.Hash{byte(i), byte(i >> 8)}}] = true
		if i == maxSubtrees {
			break
		}
	}
	if _, err := v.Verify([][]byte{w.enroll("edge-4").nc.Raw()}, "", NodeID{}, Policy{}, w.now); err != nil || len(v.subtrees) > maxSubtrees {
		t.Errorf("%d subtrees after an overflow, %v", len(v.subtrees), err)
	}
}

func TestPeerOfAnotherFleet(t *testing.T) {
	ours, theirs := newWorld(t), newNamedWorld(t, "other ")
	n := theirs.enroll("edge-1")
	if err := theirs.judge(n.certs()); err != nil {
		t.Fatal(err)
	}
	// The same CA id and log number, the same node key, even.
	refused(t, ours.judge(n.certs()), CheckNS, ErrSignature)
}

func TestVerifyClaims(t *testing.T) {
	week := 7 * 24 * time.Hour
	for _, test := range []struct {
		name   string
		change func(w *world, s *Subject)
		now    time.Duration // after epoch
		check  Check
		want   error
	}{
		{"good", nil, 0, "", nil},
		{"begins within the tolerance", func(w *world, s *Subject) { s.NotBefore = w.now.Add(clockTolerance) }, 0, "", nil},
		{"not yet valid", func(w *world, s *Subject) { s.NotBefore = w.now.Add(clockTolerance + time.Second) }, 0, CheckNC, ErrNotValidNow},
		{"last second", nil, week, "", nil},
		{"expired", nil, week + time.Second, CheckNC, ErrNotValidNow},
		{"lives too long", func(w *world, s *Subject) { s.NotAfter = s.NotBefore.Add(week + time.Second) }, 0, CheckNC, ErrLife},
		{"trust domain is not the fleet's", func(w *world, s *Subject) { s.TrustDomain = "other.example" }, 0, CheckNC, ErrNotNC},
		{"P-384 key", func(w *world, s *Subject) {
			k := newKey384("edge-1")
			s.NodeKey = k.PublicKey()
			s.NS.Signature = k.must(w.fleet(), s.ns(w.fleet()))
		}, 0, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.subject("edge-1")
			if test.change != nil {
				test.change(w, s)
			}
			nc := w.issue(s)[0]
			w.now = w.now.Add(test.now)
			w.publish()
			err := w.judge([][]byte{nc.Raw()})
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, test.check, test.want)
		})
	}
}

// The suite floor of the pointer record holds for nodes and for old CA keys.
func TestSuiteFloor(t *testing.T) {
	w := newWorld(t)
	strong := newKey384("edge-2")
	weakNode := w.enroll("edge-1").nc
	weakCA := w.issue(w.subject("edge-2", func(s *Subject) {
		s.NodeKey = strong.PublicKey()
		s.NS.Signature = strong.must(w.fleet(), s.ns(w.fleet()))
	}))[0]
	for name, test := range map[string]struct {
		nc *Certificate
		ca PublicKey
	}{
		"node key": {weakNode, newKey384("ca").PublicKey()},
		"CA key":   {weakCA, w.ca().PublicKey()},
	} {
		p := *w.pointer()
		p.Keys = slices.Clone(p.Keys)
		p.Keys[0].Key, p.MinSuite = test.ca, P384
		_, err := NewVerifier(Trust{&p, w.crl()}).Verify([][]byte{test.nc.Raw()}, "", NodeID{}, Policy{}, w.now)
		t.Run(name, func(t *testing.T) { refused(t, err, CheckNC, ErrSuiteFloor) })
	}
}

// What a CA key certified is judged by the state of the key.
func TestCAKeyStates(t *testing.T) {
	for _, test := range []struct {
		state CAKeyState
		check Check
		want  error
	}{
		{CAKeyRetired, "", nil},
		{CAKeyRevoked, CheckNC, ErrCARevoked},
	} {
		w := newWorld(t)
		old := w.enroll("edge-1")
		w.rollOver()
		w.point(func(p *Pointer) { p.Keys[1].State = test.state })
		current := w.enroll("edge-2")
		w.publish()
		if err := w.judge(current.certs()); err != nil {
			t.Errorf("%s: certificate of the current key: %v", test.state, err)
		}
		err := w.judge(old.certs())
		if test.want == nil {
			if err != nil {
				t.Errorf("%s: %v", test.state, err)
			}
			w.check()
			continue
		}
		refused(t, err, test.check, test.want)
	}

	// A key that is announced signs nothing yet, though its owner has it.
	w := newWorld(t)
	w.point(func(p *Pointer) { p.Keys = append(p.Keys, w.caKey(w.keys[1], CAKeyNext, "32473.1.2")) })
	early := newWorld(t)
	early.rollOver()
	n := early.enroll("edge-1")
	early.publish()
	p := w.pointer()
	_, err := NewVerifier(Trust{p, early.crl()}).Verify(n.certs(), "", NodeID{}, Policy{}, w.now)
	refused(t, err, CheckNC, ErrUnknownCA)

	// And the id of a key that no longer is listed leads nowhere.
	_, err = NewVerifier(Trust{w.pointers[0], early.crl()}).Verify(n.certs(), "", NodeID{}, Policy{}, w.now)
	refused(t, err, CheckCRL, ErrUnknownCA)
}

func TestCertificateMessage(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	for name, test := range map[string]struct {
		certs [][]byte
		want  error
	}{
		"none":                     {nil, ErrNoNC},
		"three":                    {append(n.certs(), n.nc.Raw()), errTooMany},
		"session certificate only": {n.certs()[:1], merkle.ErrNotMTC},
		"reversed":                 {[][]byte{n.nc.Raw(), n.certificate}, merkle.ErrNotMTC},
		"empty bytes":              {[][]byte{{}}, merkle.ErrMalformed},
		"over-long":                {[][]byte{make([]byte, merkle.MaxCertificateSize+1)}, merkle.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) { refused(t, w.judge(test.certs), CheckParse, test.want) })
	}
	for _, certs := range [][][]byte{n.certs(), {n.nc.Raw()}} {
		if err := w.judge(certs); err != nil {
			t.Errorf("%d certificates: %v", len(certs), err)
		}
	}
}

func TestPolicy(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name   string
		policy Policy
		peer   Assurance
		want   error
	}{
		{"asks nothing", Policy{}, Assurance{}, nil},
		{"role that is granted", Policy{Roles: []string{"edge"}}, Assurance{}, nil},
		{"all roles", Policy{Roles: []string{"storage", "edge"}}, Assurance{}, nil},
		{"role that is not", Policy{Roles: []string{"edge", "admin"}}, Assurance{}, ErrRole},
		{"part of a role", Policy{Roles: []string{"edg"}}, Assurance{}, ErrRole},
		{"assurance reached", Policy{MinAssurance: AssuranceEK}, Assurance{Level: AssuranceEK}, nil},
		{"assurance exceeded", Policy{MinAssurance: AssuranceTPM}, Assurance{Level: AssuranceQuote}, nil},
		{"assurance too low", Policy{MinAssurance: AssuranceEK}, Assurance{Level: AssuranceTPM}, ErrAssurance},
		{"simulator allowed", Policy{MinAssurance: AssuranceEK}, Assurance{Level: AssuranceEK, Simulator: true}, nil},
		{"simulator refused", Policy{RefuseSimulator: true}, Assurance{Level: AssuranceQuote, Simulator: true}, ErrSimulator},
		{"real chip where simulators are refused", Policy{RefuseSimulator: true}, Assurance{Level: AssuranceQuote}, nil},
	} {
		nc := w.issue(w.subject("edge-1", func(s *Subject) { s.Assurance = test.peer }))[0]
		_, err := NewVerifier(w.trust()).Verify([][]byte{nc.Raw()}, "", NodeID{}, test.policy, w.now)
		if test.want == nil && err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if test.want != nil {
			refused(t, err, CheckPolicy, test.want)
		}
	}
}

func TestPeer(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	p, err := NewVerifier(w.trust()).Verify(n.certs(), "edge-1", NodeID{1}, Policy{}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "edge-1" || p.NodeID != NewNodeID(w.fleet(), n.key.PublicKey()) || !p.Until.Equal(n.nc.NotAfter) || p.Certificate.Serial != n.nc.Serial {
		t.Errorf("peer is %+v", p)
	}
	_, err = NewVerifier(w.trust()).Verify(n.certs(), "edge-2", NodeID{}, Policy{}, w.now)
	var r *RefusedError
	if !errors.As(err, &r) || r.Peer != "edge-1" {
		t.Errorf("refusal does not name the peer: %v", err)
	}
}

// A list that is absent, stale or below the floor lets nobody in, and the
// grace only those who were good before.
func TestCRLOfTheVerifier(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	w.publish()
	id := n.nc.NodeID(w.fleet())
	known := func(is NodeID) func(NodeID) bool { return func(n NodeID) bool { return n == is } }
	crl := w.crl()
	end := crl.head.NextUpdate
	floor := *w.pointer()
	floor.MinCRL = crl.head.Number + 1
	for _, test := range []struct {
		name   string
		trust  Trust
		policy Policy
		now    time.Time
		want   error
	}{
		{"fresh", w.trust(), Policy{}, w.now, nil},
		{"absent", Trust{w.pointer(), nil}, Policy{}, w.now, ErrCRLMissing},
		{"below the floor of a newer pointer record", Trust{&floor, crl}, Policy{}, w.now, ErrCRLFloor},
		{"last moment", w.trust(), Policy{}, end, nil},
		{"expired", w.trust(), Policy{}, end.Add(time.Second), ErrCRLStale},
		{"in grace, known", w.trust(), Policy{Grace: time.Minute, Known: known(id)}, end.Add(time.Minute), nil},
		{"in grace, unknown", w.trust(), Policy{Grace: time.Minute, Known: known(NodeID{1})}, end.Add(time.Minute), ErrCRLStale},
		{"in grace, nobody is known", w.trust(), Policy{Grace: time.Minute}, end.Add(time.Minute), ErrCRLStale},
		{"known, without grace", w.trust(), Policy{Known: known(id)}, end.Add(time.Second), ErrCRLStale},
		{"known, after the grace", w.trust(), Policy{Grace: time.Minute, Known: known(id)}, end.Add(time.Minute + time.Second), ErrCRLStale},
	} {
		v := NewVerifier(test.trust)
		_, err := v.Verify(n.certs()[1:], "", NodeID{}, test.policy, test.now)
		if test.want == nil && err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if test.want != nil {
			refused(t, err, CheckCRL, test.want)
		}
	}
	// Grace never outweighs the list itself.
	w.revoke(n.nc)
	w.publish()
	_, err := NewVerifier(w.trust()).Verify(n.certs(), "", NodeID{}, Policy{Grace: time.Hour, Known: known(id)}, end.Add(time.Minute))
	refused(t, err, CheckCRL, ErrRevoked)
}

// A clock that is set back does not bring expired certificates back: the
// signed list shows that later times have been.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	w.now = n.nc.NotAfter.Add(time.Second)
	w.publish()
	v := NewVerifier(w.trust())
	_, err := v.Verify(n.certs()[1:], "", NodeID{}, Policy{}, epoch)
	refused(t, err, CheckNC, ErrNotValidNow)
	refused(t, v.Recheck(&Peer{Name: "edge-1", Certificate: n.nc, Until: n.nc.NotAfter}, Policy{}, epoch), CheckNC, ErrNotValidNow)
}

// Live sessions are looked up again whenever the trust changes.
func TestRecheck(t *testing.T) {
	w := newWorld(t)
	n, other := w.enroll("edge-1"), w.enroll("edge-2")
	v := NewVerifier(w.trust())
	peer, err := v.Verify(n.certs(), "", NodeID{}, Policy{}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	before := verifications.Load()
	if err := v.Recheck(peer, Policy{}, w.now); err != nil {
		t.Fatal(err)
	}
	if spent := verifications.Load() - before; spent != 0 {
		t.Errorf("%d signatures verified again", spent)
	}
	update := func() {
		t.Helper()
		if _, err := v.UpdateCRL(w.publish().Marshal(), w.now); err != nil {
			t.Fatal(err)
		}
	}
	w.revoke(other.nc)
	update()
	if err := v.Recheck(peer, Policy{}, w.now); err != nil {
		t.Errorf("somebody else was revoked: %v", err)
	}
	refused(t, v.Recheck(peer, Policy{}, w.now.Add(2*time.Hour)), CheckCRL, ErrCRLStale)

	w.rollOver()
	w.point(func(p *Pointer) { p.Keys[1].State = CAKeyRevoked })
	if err := v.UpdatePointer(w.pointer(), w.now); err != nil {
		t.Fatal(err)
	}
	refused(t, v.Recheck(peer, Policy{}, w.now), CheckNC, ErrCARevoked)

	w.revoke(n.nc)
	update()
	refused(t, v.Recheck(peer, Policy{}, w.now), CheckCRL, ErrRevoked)
}

func TestVerifierUpdates(t *testing.T) {
	w := newWorld(t)
	v := NewVerifier(Trust{Pointer: w.pointer()})
	if v.Fleet() != w.fleet() {
		t.Error("verifier of another fleet")
	}
	first := w.crl()
	delta, err := w.publish().Delta(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.UpdateCRL(delta, w.now); !errors.Is(err, ErrCRLGap) {
		t.Errorf("delta before any list: %v", err)
	}
	if _, err := v.UpdateCRL(first.Marshal(), w.now); err != nil {
		t.Error(err)
	}
	if c, err := v.UpdateCRL(delta, w.now); err != nil || v.Trust().CRL != c || c.head.Number != 2 {
		t.Errorf("delta: %v", err)
	}
	if _, err := v.UpdateCRL(first.Marshal(), w.now); !errors.Is(err, ErrCRLRollback) || v.Trust().CRL.head.Number != 2 {
		t.Errorf("rollback: %v", err)
	}
	impostor := newNamedWorld(t, "impostor ")
	if err := v.UpdatePointer(impostor.pointer(), w.now); !errors.Is(err, ErrPin) || v.Trust().Pointer != w.pointer() {
		t.Errorf("pointer record of another fleet: %v", err)
	}
	if _, err := v.UpdateCRL(impostor.crl().Marshal(), w.now); !errors.Is(err, ErrSignature) {
		t.Errorf("CRL of another fleet: %v", err)
	}
}

// Judging goes on while lists and records are replaced (run with -race).
func TestVerifierConcurrently(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	v := NewVerifier(w.trust())
	var lists [][]byte
	for range 20 {
		lists = append(lists, w.publish().Marshal())
	}
	records := []*Pointer{w.point(func(*Pointer) {}), w.point(func(*Pointer) {})}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, b := range lists {
				if _, err := v.UpdateCRL(b, w.now); err != nil && !errors.Is(err, ErrCRLRollback) {
					t.Error(err)
				}
				if _, err := v.Verify(n.certs(), "edge-1", NodeID{}, Policy{}, w.now); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for _, p := range records {
				if err := v.UpdatePointer(p, w.now); err != nil && !errors.Is(err, ErrPointerRollback) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := v.Trust(); got.CRL.head.Number != w.crl().head.Number || got.Pointer.Seq != w.pointer().Seq {
		t.Errorf("ends with CRL %d and pointer record %d", got.CRL.head.Number, got.Pointer.Seq)
	}
}

// A fork of the CRL stops new sessions until an operator has cleared it; live
// ones go on.
func TestSuspendedVerifierRefusesEverybody(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	v := NewVerifier(w.trust())
	peer, err := v.Verify(n.certs(), "edge-1", NodeID{}, Policy{}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	v.Suspend(ErrCRLFork)
	_, err = v.Verify(n.certs(), "edge-1", NodeID{}, Policy{}, w.now)
	refused(t, err, CheckCRL, ErrCRLFork)
	if err := v.Recheck(peer, Policy{}, w.now); err != nil {
		t.Errorf("live session: %v", err)
	}
	v.Suspend(nil)
	if _, err = v.Verify(n.certs(), "edge-1", NodeID{}, Policy{}, w.now); err != nil {
		t.Errorf("lifted: %v", err)
	}
}

// A clock that was set back does not make newer lists and records ones from the
// future: the list held knows better (docs/protocol.md section 6.3).
func TestUpdatesWithTheClockSetBack(t *testing.T) {
	w := revocations(t)
	v := NewVerifier(Trust{Pointer: w.pointer(), CRL: w.crls[1]})
	behind := w.now.Add(-72 * time.Hour)
	if _, err := NewVerifier(Trust{Pointer: w.pointer()}).UpdateCRL(w.crl().Marshal(), behind); !errors.Is(err, ErrCRLFuture) {
		t.Errorf("without a list: %v, want %v", err, ErrCRLFuture)
	}
	if _, err := v.UpdateCRL(w.crl().Marshal(), behind); err != nil {
		t.Errorf("list: %v", err)
	}
	next := *w.pointer()
	next.Seq, next.Previous = next.Seq+1, w.pointer().Hash()
	next.Issued = w.now
	next.Signature = w.ca().must(next.FleetID(), &next)
	if err := v.UpdatePointer(&next, behind); err != nil {
		t.Errorf("record: %v", err)
	}
	far := w.resign(w.crl(), func(h *CRLHead) {
		h.Number, h.Previous = h.Number+1, w.crl().head.Hash()
		h.ThisUpdate = w.crl().head.ThisUpdate.Add(maxSkew + time.Second)
		h.NextUpdate = h.ThisUpdate.Add(time.Hour)
	})
	if _, err := v.UpdateCRL(far.Marshal(), behind); !errors.Is(err, ErrCRLFuture) {
		t.Errorf("a list more than a day ahead of the one held: %v, want %v", err, ErrCRLFuture)
	}
}

package lint_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

var epoch = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

// A world is a CA whose key is in memory, and what it may certify.
type world struct {
	t       testing.TB
	ca      *fleet.Key
	pointer *chancery.Pointer
	rules   lint.Rules
	now     time.Time
	nodes   int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ca: newKey(t), now: epoch}
	w.pointer = appliancetest.Pointer(t, w.ca, newKey(t).PublicKey(), epoch)
	w.rules = lint.RulesOf(w.pointer)
	return w
}

func newKey(t testing.TB) *fleet.Key {
	t.Helper()
	k, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) linter() *lint.Linter {
	w.t.Helper()
	l, err := lint.New(w.rules)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// newNodeKey returns a key on the curve, and a signature of it.
func newNodeKey(t testing.TB, suite chancery.Suite) (chancery.PublicKey, chancery.Signature) {
	t.Helper()
	curve := map[chancery.Suite]elliptic.Curve{chancery.P256: elliptic.P256(), chancery.P384: elliptic.P384()}[suite]
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("N:S"))
	der, err := ecdsa.SignASN1(rand.Reader, private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := chancery.NewSignatureASN1(suite, der)
	if err != nil {
		t.Fatal(err)
	}
	return public, sig
}

// subject returns a node that may be certified.
func (w *world) subject(changes ...func(*chancery.Subject)) *chancery.Subject {
	w.t.Helper()
	w.nodes++
	s := &chancery.Subject{
		Name: fmt.Sprintf("edge-%d", w.nodes), TrustDomain: w.rules.TrustDomain, NotBefore: w.now, NotAfter: w.now.Add(w.rules.MaxLife),
		NS:        chancery.DetachedNS{CANSHash: sha256.Sum256([]byte("CA:N:S")), Created: w.now.Add(-time.Minute)},
		Roles:     []string{"db", "web"},
		Assurance: chancery.Assurance{Level: chancery.AssuranceEK, EKDigest: sha256.Sum256([]byte("EK"))},
	}
	s.NodeKey, s.NS.Signature = newNodeKey(w.t, chancery.P256)
	for _, c := range changes {
		c(s)
	}
	if w.rules.DNSSuffix != "" {
		s.DNSNames = []string{s.Name + "." + w.rules.DNSSuffix}
	}
	return s
}

func (w *world) fields(s *chancery.Subject) merkle.EntryFields {
	w.t.Helper()
	f, err := s.Fields(w.rules.CA)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// candidate is the subject on its way into the log.
func (w *world) candidate(s *chancery.Subject) *lint.Candidate {
	w.t.Helper()
	entry, err := merkle.MarshalEntry(w.fields(s))
	if err != nil {
		w.t.Fatal(err)
	}
	return &lint.Candidate{Entry: entry, SPKI: s.NodeKey.SPKI(), Serial: serial(w.t, w.rules.Log, 41), Name: s.Name, Now: w.now}
}

func serial(t testing.TB, log uint16, index uint64) merkle.Serial {
	t.Helper()
	s, err := merkle.NewSerial(log, index)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// issue certifies the subjects as one batch of a new log, behind so many
// other entries.
func (w *world) issue(before int, subjects ...*chancery.Subject) []*chancery.Certificate {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	linter := w.linter()
	var tree merkle.Tree
	for range before {
		tree.Append(merkle.HashLeaf(merkle.NullEntry()))
	}
	for _, s := range subjects {
		c := w.candidate(s)
		must(linter.Check(c, stranger))
		tree.Append(merkle.HashLeaf(c.Entry))
	}
	batch := merkle.Smallest(uint64(before), tree.Size())
	root, err := tree.Subtree(batch)
	must(err)
	sig, err := w.ca.Sign(context.Background(), w.pointer.FleetID(), chancery.NewSubtree(w.rules.CA, w.rules.Log, batch, root))
	must(err)
	list := make([]*chancery.Certificate, len(subjects))
	for i, s := range subjects {
		at := serial(w.t, w.rules.Log, uint64(before+i))
		path, err := tree.Inclusion(at.Index(), batch)
		must(err)
		list[i], err = chancery.NewCertificate(s, w.rules.CA, at, merkle.Proof{Subtree: batch, Inclusion: path,
			Signatures: []merkle.SubtreeSignature{{Cosigner: w.rules.CA, Signature: sig.ASN1()}}})
		must(err)
	}
	return list
}

// stranger is the holder of keys that were never certified.
func stranger([]byte) (string, error) { return "", nil }

// A kind is one of the forms that an N:C can have.
type kind struct {
	name   string
	rules  func(*lint.Rules)
	now    time.Time
	change func(testing.TB, *chancery.Subject)
}

var kinds = []kind{
	{name: "plain"},
	{name: "with a DNS name", rules: func(r *lint.Rules) { r.DNSSuffix = "nodes.fleet.example" }},
	{name: "without roles", change: func(_ testing.TB, s *chancery.Subject) { s.Roles = nil }},
	{name: "with dots in its name", rules: func(r *lint.Rules) { r.DNSSuffix = "xn--flotte-4xa.example" }, change: func(_ testing.TB, s *chancery.Subject) { s.Name = "rack-7.row-2" }},
	{name: "as long as can be", rules: func(r *lint.Rules) {
		r.TrustDomain = strings.Repeat(strings.Repeat("t", 62)+".", 4) + "example"
		r.TrustDomain = r.TrustDomain[len(r.TrustDomain)-255:]
		r.DNSSuffix = strings.Repeat(strings.Repeat("s", 60)+".", 3) + "ab.cd"
	}, change: func(_ testing.TB, s *chancery.Subject) {
		s.Name, s.Roles = strings.Repeat("n", 63), nil
		for i := range chancery.MaxRoles {
			s.Roles = append(s.Roles, fmt.Sprintf("%s%02d", strings.Repeat("r", 61), i))
		}
	}},
	{name: "P-384", change: func(t testing.TB, s *chancery.Subject) { s.NodeKey, s.NS.Signature = newNodeKey(t, chancery.P384) }},
	{name: "of a simulator", change: func(_ testing.TB, s *chancery.Subject) {
		s.Assurance.Simulator, s.Assurance.Level = true, chancery.AssuranceQuote
	}},
	{name: "of no chip", change: func(_ testing.TB, s *chancery.Subject) { s.Assurance = chancery.Assurance{} }},
	{name: "into 2050", now: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC)},
	{name: "of 2050", now: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)},
	{name: "of the last log", rules: func(r *lint.Rules) { r.Log = 1<<16 - 1 }},
}

// of returns a world of the kind and a subject in it.
func (k *kind) of(t testing.TB) (*world, *chancery.Subject) {
	t.Helper()
	w := newWorld(t)
	if k.rules != nil {
		k.rules(&w.rules)
	}
	if !k.now.IsZero() {
		w.now = k.now
	}
	return w, w.subject(func(s *chancery.Subject) {
		if k.change != nil {
			k.change(t, s)
		}
	})
}

// locate returns where in the entry the part is, which is there once.
func locate(t testing.TB, entry, part []byte) int {
	t.Helper()
	s, p := string(entry), string(part)
	if strings.Count(s, p) != 1 {
		t.Fatalf("%x is in the entry %d times", part, strings.Count(s, p))
	}
	return strings.Index(s, p)
}

// edited returns a copy of the candidate with another entry.
func edited(c *lint.Candidate, entry []byte) *lint.Candidate {
	e := *c
	e.Entry = slices.Clone(entry)
	return &e
}

package lint_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/merkle"
)

// agree has both ways of looking at it judge a candidate, and says whether it
// is good.
func agree(t interface {
	Helper()
	Fatalf(string, ...any)
}, l *lint.Linter, r *lint.Rules, c *lint.Candidate) bool {
	t.Helper()
	err, other := l.Check(c, stranger), second(r, c)
	if (err == nil) != (other == nil) {
		t.Fatalf("%v, and looked at in the other way: %v\nentry %x", err, other, c.Entry)
	}
	if err != nil && rule(err) == "" {
		t.Fatalf("an error without a rule: %v", err)
	}
	return err == nil
}

// free returns which bytes of an entry are the node's or the authority's to
// choose. All others follow from the rules and from the candidate.
func free(t testing.TB, c *lint.Candidate, s *chancery.Subject) []bool {
	t.Helper()
	list := make([]bool, len(c.Entry))
	mark := func(from, n int) {
		for i := range n {
			list[from+i] = true
		}
	}
	// Of the validity: digits, but for the last of notBefore's year and day.
	at := bytes.IndexByte(c.Entry[20:], 'Z') + 20
	mark(at-12, 12)
	mark(at+1+2, 14)
	ns := locate(t, c.Entry, s.NS.CANSHash[:])
	mark(ns, 32+8)
	mark(ns+41, len(s.NS.Signature))
	for _, role := range s.Roles {
		mark(locate(t, c.Entry, append([]byte{byte(len(role))}, role...))+1, len(role))
	}
	assurance := len(c.Entry) - 34
	mark(assurance, 34)
	return list
}

// One byte of a good entry is changed to every other value: what is let
// through then differs where it may.
func TestEveryByte(t *testing.T) {
	full := os.Getenv("CHANCERY_FULL") != ""
	for _, k := range kinds {
		if k.name == "as long as can be" && !full {
			continue
		}
		w, s := k.of(t)
		l, c := w.linter(), w.candidate(s)
		may := free(t, c, s)
		for i, was := range c.Entry {
			for b := range 256 {
				if byte(b) == was {
					continue
				}
				c.Entry[i] = byte(b)
				// The other way takes a hundred times as long: it sees one bit
				// of each byte, or every one.
				if flip := was ^ byte(b); flip == 1<<(i%8) || full && flip&(flip-1) == 0 {
					agree(t, l, &w.rules, c)
				}
				if err := l.Check(c, stranger); err == nil && !may[i] {
					t.Errorf("%s: byte %d is %#x instead of %#x, and nobody minds", k.name, i, b, was)
				}
			}
			c.Entry[i] = was
		}
		if !agree(t, l, &w.rules, c) {
			t.Errorf("%s: it is not good any more", k.name)
		}
	}
}

// An entry that is cut anywhere is refused, and so is one with a byte more
// anywhere.
func TestEveryLength(t *testing.T) {
	for _, k := range kinds {
		w, s := k.of(t)
		l, c := w.linter(), w.candidate(s)
		for i := range c.Entry {
			if l.Check(edited(c, c.Entry[:i]), stranger) == nil {
				t.Errorf("%s: %d bytes are enough", k.name, i)
			}
			for _, b := range []byte{0, 1, 'a', 0xff} {
				if l.Check(edited(c, slices.Insert(slices.Clone(c.Entry), i, b)), stranger) == nil {
					t.Errorf("%s: with %#x before byte %d it is still good", k.name, b, i)
				}
			}
		}
	}
}

// keys are drawn from, for making one takes long.
var keys = sync.OnceValue(func() (list []*chancery.Subject) {
	t := &testing.T{}
	for i := range 8 {
		s := &chancery.Subject{}
		s.NodeKey, s.NS.Signature = newNodeKey(t, chancery.P256+chancery.Suite(i%2))
		list = append(list, s)
	}
	return list
})

// anySubject draws a node that a gate may let through.
func anySubject(t *rapid.T, r *lint.Rules, now time.Time) *chancery.Subject {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?){0,2}`)
	k := rapid.SampledFrom(keys()).Draw(t, "key")
	s := &chancery.Subject{
		Name: name.Draw(t, "name"), TrustDomain: r.TrustDomain, NodeKey: k.NodeKey,
		NotBefore: now.Add(-time.Duration(rapid.IntRange(-1, 301).Draw(t, "age")) * time.Second),
		Roles:     rapid.SliceOfNDistinct(name, 0, 33, rapid.ID).Draw(t, "roles"),
		NS: chancery.DetachedNS{CANSHash: sha256.Sum256([]byte("CA:N:S")), Signature: k.NS.Signature,
			Created: now.Add(time.Duration(rapid.Int64Range(-100000, 90000).Draw(t, "created")) * time.Second)},
		Assurance: chancery.Assurance{Level: chancery.AssuranceLevel(rapid.IntRange(0, 3).Draw(t, "level")), Simulator: rapid.Bool().Draw(t, "simulator")},
	}
	s.NotAfter = s.NotBefore.Add(time.Duration(rapid.Int64Range(1, int64(r.MaxLife/time.Second)+1).Draw(t, "life")) * time.Second)
	slices.Sort(s.Roles)
	if rapid.IntRange(0, 9).Draw(t, "EK") > 0 {
		s.Assurance.EKDigest[rapid.IntRange(0, 31).Draw(t, "byte")] = 1
	}
	if r.DNSSuffix != "" {
		s.DNSNames = []string{s.Name + "." + r.DNSSuffix}
	}
	return s
}

// mutate damages an entry as a slip of an encoder would: bytes are changed,
// left out, doubled, exchanged.
func mutate(t *rapid.T, b []byte) []byte {
	b = slices.Clone(b)
	for range rapid.IntRange(0, 3).Draw(t, "mutations") {
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		n := rapid.IntRange(1, min(40, len(b)-i)).Draw(t, "bytes")
		switch rapid.IntRange(0, 4).Draw(t, "how") {
		case 0:
			b[i] = rapid.Byte().Draw(t, "byte")
		case 1:
			b[i] += byte(rapid.IntRange(-2, 2).Draw(t, "more"))
		case 2:
			b = slices.Delete(b, i, i+n)
		case 3:
			b = slices.Insert(b, i, slices.Clone(b[i:i+n])...)
		case 4:
			j := rapid.IntRange(0, len(b)-n).Draw(t, "other")
			for k := range n {
				b[i+k], b[j+k] = b[j+k], b[i+k]
			}
		}
		if len(b) == 0 {
			break
		}
	}
	return b
}

// shuffled is the entry with extensions exchanged, left out, doubled, or
// critical when they are not.
func shuffled(t *rapid.T, w *world, s *chancery.Subject) []byte {
	f := w.fields(s)
	list, err := merkle.ParseExtensions(f.Extensions)
	if err != nil {
		t.Fatal(err)
	}
	list = slices.Clone(list)
	for range rapid.IntRange(0, 2).Draw(t, "changes") {
		i, j := rapid.IntRange(0, len(list)-1).Draw(t, "extension"), rapid.IntRange(0, len(list)-1).Draw(t, "other")
		switch rapid.IntRange(0, 4).Draw(t, "how") {
		case 0:
			list[i], list[j] = list[j], list[i]
		case 1:
			list[i].Critical = !list[i].Critical
		case 2:
			list[i].Value = list[j].Value
		case 3:
			list = slices.Insert(list, i, list[j])
		case 4:
			list = slices.Delete(list, i, i+1)
		}
	}
	e := merkle.Entry{Issuer: f.Issuer, NotBefore: f.NotBefore, NotAfter: f.NotAfter, RawSubject: f.Subject, KeyHash: sha256.Sum256(f.SPKI)}
	entry, err := merkle.ParseEntry(w.candidate(s).Entry)
	if err != nil {
		t.Fatal(err)
	}
	e.KeyAlgorithm = entry.KeyAlgorithm
	if e.RawExtensions, err = asn1.Marshal(list); err != nil {
		t.Fatal(err)
	}
	return e.Marshal()
}

func proof() merkle.Proof { return merkle.Proof{Subtree: merkle.Subtree{Start: 41, End: 42}} }

// Whatever the node and the damage, both ways of looking at it agree; and what
// is let through is N:C to those who read it later.
func TestProperty(t *testing.T) {
	w := newWorld(t)
	with := w.rules
	with.DNSSuffix = "nodes.fleet.example"
	good, bad := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := *w
		if rapid.Bool().Draw(t, "DNS") {
			w.rules = with
		}
		s := anySubject(t, &w.rules, w.now)
		if _, err := s.Fields(w.rules.CA); err != nil {
			t.Skip() // the root package refuses it
		}
		l, c := w.linter(), w.candidate(s)
		if agree(t, l, &w.rules, c) {
			good++
			if _, err := chancery.NewCertificate(s, w.rules.CA, c.Serial, proof()); err != nil {
				t.Fatalf("it is no N:C: %v", err)
			}
		}
		c.Entry = mutate(t, c.Entry)
		if !agree(t, l, &w.rules, c) {
			bad++
		}
		c.Entry = shuffled(t, &w, s)
		agree(t, l, &w.rules, c)
	})
	if good < 20 || bad < 20 {
		t.Errorf("%d good ones and %d bad ones", good, bad)
	}
}

func FuzzCheck(f *testing.F) {
	w, s := kinds[1].of(f)
	l, c := w.linter(), w.candidate(s)
	f.Add(c.Entry)
	f.Add([]byte(strings.Repeat("\x30\x80", 20)))
	f.Fuzz(func(t *testing.T, entry []byte) { agree(t, l, &w.rules, edited(c, entry)) })
}

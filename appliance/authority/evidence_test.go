package authority_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
)

// wantRefused checks that a submission is refused with the code, and that CA:SK
// was not asked.
func (w *world) wantRefused(what string, answer *chancery.Answer, s *chancery.Submission, code string) {
	w.t.Helper()
	w.WantSpent(0, func() {
		w.t.Helper()
		v, err := w.Authority.Submit(w.t.Context(), w.intake(answer), s)
		wantRefusal(w.t, what, err, code)
		if v != nil {
			w.t.Errorf("%s: there is a verdict beside the refusal: %+v", what, v)
		}
	})
}

// Whatever is wrong with N:S or the evidence keeps the certificate back, and
// does not use the intake up.
func TestEvidence(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	unsealed := w.node("edge-1", false)
	sealedBefore := w.node("edge-1", true)
	other := w.other("edge-2")
	answer, before := w.connect(n), w.connect(n)
	hash, stale := n.CANS(answer).Hash(), n.CANS(before).Hash()
	good := n.Submission(answer)
	quote := n.Quote(tpm.DefaultPCRs, hash)

	ns := func(edit ...func(*chancery.NS)) func(*chancery.Submission) {
		return func(s *chancery.Submission) { s.NS = n.NS(hash, edit...).Marshal() }
	}
	for _, test := range []struct {
		what, code string
		change     func(*chancery.Submission)
	}{
		{"no N:S", "malformed", func(s *chancery.Submission) { s.NS = nil }},
		{"CA:N:S for N:S", "malformed", func(s *chancery.Submission) { s.NS = answer.CANS }},
		{"a byte after N:S", "malformed", func(s *chancery.Submission) { s.NS = append(bytes.Clone(s.NS), 0) }},
		{"no name in N:S", "malformed", ns(func(ns *chancery.NS) { ns.Name = "" })},
		{"N:S with high s", "bad-n-s", func(s *chancery.Submission) {
			ns := n.NS(hash)
			ns.Signature = twin(ns.Signature)
			s.NS = ns.Marshal()
		}},
		{"N:S that is not signed", "bad-n-s", func(s *chancery.Submission) {
			ns := n.NS(hash)
			ns.Signature = make([]byte, 64)
			s.NS = ns.Marshal()
		}},
		{"pop for the signature of N:S", "bad-n-s", func(s *chancery.Submission) {
			ns := n.NS(hash)
			ns.Signature = n.Sign(n.PoP(channel.Exporter))
			s.NS = ns.Marshal()
		}},
		{"N:S of another fleet", "bad-n-s", ns(func(ns *chancery.NS) { ns.Fleet = chancery.FleetID{1} })},
		{"N:S for another CA:N:S", "bad-n-s", ns(func(ns *chancery.NS) { ns.CANSHash = stale })},
		{"N:S with another name", "bad-n-s", ns(func(ns *chancery.NS) { ns.Name = "edge-2" })},
		{"N:S of another key", "bad-n-s", func(s *chancery.Submission) { s.NS = unsealed.NS(hash).Marshal() }},
		{"N:S from the past", "clock", ns(func(ns *chancery.NS) { ns.Created = ns.Created.Add(-24*time.Hour - time.Second) })},
		{"N:S from the future", "clock", ns(func(ns *chancery.NS) { ns.Created = ns.Created.Add(24*time.Hour + time.Second) })},

		{"no activation", "evidence-activation", func(s *chancery.Submission) { s.Activation = nil }},
		{"a wrong activation", "evidence-activation", func(s *chancery.Submission) { s.Activation = chancery.ActivationProof(make([]byte, 32), hash) }},
		{"the activation of another attempt", "evidence-activation", func(s *chancery.Submission) { s.Activation = n.Submission(before).Activation }},

		{"no creation", "evidence-creation", func(s *chancery.Submission) { s.Creation = chancery.Attestation{} }},
		{"the creation of another key", "evidence-creation", func(s *chancery.Submission) { s.Creation = n.Creation(sealedBefore.File, hash) }},
		{"creation over other qualifying data", "evidence-creation", func(s *chancery.Submission) { s.Creation = n.Creation(n.File, stale) }},
		{"creation by another chip's AK", "evidence-creation", func(s *chancery.Submission) { s.Creation = other.Creation(other.File, hash) }},
		{"a quote for the creation", "evidence-creation", func(s *chancery.Submission) { s.Creation = quote.Attestation }},
		{"the epoch for the creation", "evidence-creation", func(s *chancery.Submission) { s.Creation = *s.Epoch }},
		{"the signature of another attestation", "evidence-creation", func(s *chancery.Submission) { s.Creation.Signature = quote.Signature }},
		{"creation data of another key", "evidence-creation", func(s *chancery.Submission) { s.CreationData = unsealed.File.CreationData }},
		{"no creation data", "evidence-creation", func(s *chancery.Submission) { s.CreationData = nil }},
		{"an attestation that is too long", "evidence-creation", func(s *chancery.Submission) { s.Creation.Attest = make([]byte, 1025) }},

		{"no CA:N:S", "malformed", func(s *chancery.Submission) { s.CANS = nil }},
		{"the CA:N:S of another attempt", "bad-n-s", func(s *chancery.Submission) { s.CANS = before.CANS }},
		{"a CA:N:S that CA:SK did not sign", "bad-n-s", func(s *chancery.Submission) {
			cans := n.CANS(answer)
			cans.Signature = n.NS(hash).Signature
			s.CANS = cans.Marshal()
		}},

		{"no epoch for a sealed key", "malformed", func(s *chancery.Submission) { s.Epoch = nil }},
		{"the epoch over other qualifying data", "evidence-epoch", func(s *chancery.Submission) { s.Epoch = new(n.Epoch(stale)) }},
		{"a quote for the epoch", "evidence-epoch", func(s *chancery.Submission) { s.Epoch = &quote.Attestation }},

		{"a quote over other qualifying data", "evidence-quote", func(s *chancery.Submission) { s.Quote = n.Quote(tpm.DefaultPCRs, stale) }},
		{"other values than were quoted", "evidence-quote", func(s *chancery.Submission) {
			q := *quote
			q.Values = map[int][]byte{7: bytes.Repeat([]byte{1}, 32)}
			s.Quote = &q
		}},
		{"other PCRs than were quoted", "evidence-quote", func(s *chancery.Submission) {
			q := *quote
			q.Values = map[int][]byte{0: quote.Values[7]}
			s.Quote = &q
		}},
		{"a PCR that there is not", "malformed", func(s *chancery.Submission) {
			q := *quote
			q.Values = map[int][]byte{24: quote.Values[7]}
			s.Quote = &q
		}},
		{"half a PCR", "malformed", func(s *chancery.Submission) {
			q := *quote
			q.Values = map[int][]byte{7: quote.Values[7][:16]}
			s.Quote = &q
		}},
	} {
		s := *good
		test.change(&s)
		w.wantRefused(test.what, answer, &s, test.code)
		if i := w.intakeRow(answer); i.State != store.IntakeOpen || i.NS != nil {
			t.Errorf("%s: the intake is %s", test.what, i.State)
		}
	}
	_, err := w.Authority.Submit(t.Context(), chancery.IntakeID{1}, good)
	wantRefusal(t, "an unknown intake", err, "not-found")
	_, err = w.Authority.Verdict(t.Context(), w.intake(answer))
	wantRefusal(t, "a verdict before N:S", err, "no-n-s")

	// The clocks of node and coordinator may differ by a day, and a quote is
	// not asked for.
	s := *good
	s.Quote = nil
	ns(func(ns *chancery.NS) { ns.Created = ns.Created.Add(-24 * time.Hour) })(&s)
	nc := w.issued(w.submit(answer, &s))
	if err := w.verify(nc); err != nil {
		t.Error(err)
	}
	w.Check()
}

// CA:N:S is good until its last second.
func TestIntakeExpires(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	w.Clock.Advance(chancery.MaxCANSLife + time.Second)
	w.wantRefused("after CA:N:S has expired", answer, sub, "intake-expired")
	w.Clock.Advance(-time.Second)
	if err := w.Authority.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.issued(w.submit(answer, sub))
	w.Check()

	// Those that nobody came back for are closed.
	n.Token = w.Token("edge-1")
	answer = w.connect(n)
	sub = n.Submission(answer)
	w.Clock.Advance(chancery.MaxCANSLife + time.Second)
	if err := w.Authority.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.WantSpent(0, func() {
		if v := w.submit(answer, sub); v.Status != chancery.VerdictRefused || v.Reason == "" || v.NC != nil {
			t.Errorf("verdict %+v", v)
		}
	})
	w.connect(n) // the token was not used
}

func TestParseIntakeID(t *testing.T) {
	for _, s := range []string{"", "00", "zz", "0123456789abcdef0123456789abcdef00"} {
		_, err := authority.ParseIntakeID(s)
		wantRefusal(t, s, err, "not-found")
	}
}

// N:SK is not restricted: it signs whatever its owner wants. What it signs is
// no attestation, however well it is made.
func TestNodeKeyDoesNotAttest(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	honest := sub.Creation.Attest
	w.chip.Close()
	chip := dial(t, w.process)
	defer chip.Close()
	forged := *sub
	forged.Creation = chip.attest(n.File, honest) // every byte of it is as the AK would say it
	w.wantRefused("an attestation by N:SK", answer, &forged, "evidence-creation")
	w.issued(w.submit(answer, sub))
}

// A key under the policy of a seal that is not true would sign today, and in
// states in which it must not. What the node claims passes the first look;
// what the chip attests does not.
func TestLyingSeal(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	honest := n.File.Seal
	// What PCR 7 will be after one more event.
	next := must(w.chip.PCRValues(tpm.DefaultPCRs))(t)
	next[7] = extended(next[7], [32]byte{1})

	for _, test := range []struct {
		what  string
		lie   func(*tpm.Seal)
		ready func()
	}{
		{"an epoch that is far ahead", func(s *tpm.Seal) { s.Epoch += 1000 }, func() {}},
		{"PCR values that are not there yet", func(s *tpm.Seal) { s.PCRDigest = next.Digest() }, func() {
			if err := n.Chip.ExtendPCR(7, [32]byte{1}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		n.Chip.Close()
		chip := dial(t, w.process)
		seal := *honest
		test.lie(&seal)
		file := chip.create(n.File, seal)
		chip.Close()
		n.Chip = w.process.Open(t)
		n.Use(file)
		test.ready()
		n.Token = w.Token("edge-1")
		answer := w.connect(n)
		w.wantRefused(test.what, answer, n.Submission(answer), "evidence-sealing")
	}
	w.Check()
}

// The epoch of a seal is the one that is attested at the enrolment: neither one
// that is past, nor, of a node that is enrolled by whatever mistake, one that
// is still to come.
func TestEpochOfSeal(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	n.RaiseEpoch()
	answer := w.connect(n)
	w.wantRefused("a key from before the epoch was raised", answer, n.Submission(answer), "evidence-sealing")

	w.chip.Close()
	chip := dial(t, w.process)
	ahead := *n.File.Seal
	ahead.Epoch += 1000
	file := chip.create(n.File, ahead)
	chip.Close()
	n.Chip = w.process.Open(t)
	n.Use(file)
	err := w.Store.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(
			tx.PutNode(&store.Node{ID: n.ID(), Name: "edge-1", NodeKey: []byte{}, AKPublic: []byte{}, EKDigest: sha256.Sum256(n.EK.SPKI), Enrolled: w.Clock.Now()}),
			tx.AppendEntry(w.Ledger.Log(), &store.Entry{Entry: []byte{}, SPKI: []byte{}, NodeID: n.ID(), NotAfter: w.Clock.Now().Add(time.Hour)}))
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Token = nil
	answer = w.connect(n)
	w.wantRefused("a key that waits for an epoch", answer, n.Submission(answer), "evidence-sealing")
}

// Two keys of one chip, two chips with one name, and two names of one key
// compete: the first to be certified wins, the others are told.
func TestRaces(t *testing.T) {
	w := newWorld(t)
	a := w.node("edge-1", false)
	sameChip := w.node("edge-2", false)
	sameName := w.other("edge-1")
	renamed := *a
	renamed.Name, renamed.Token = "edge-3", w.Token("edge-3")
	sameKey := &renamed
	answers := map[*appliancetest.Node]*chancery.Answer{}
	subs := map[*appliancetest.Node]*chancery.Submission{}
	for _, n := range []*appliancetest.Node{a, sameChip, sameName, sameKey} {
		answers[n] = w.connect(n)
		subs[n] = n.Submission(answers[n])
	}
	first := w.issued(w.submit(answers[a], subs[a]))
	for what, n := range map[string]*appliancetest.Node{"the chip": sameChip, "the name": sameName, "the key": sameKey} {
		w.WantSpent(0, func() {
			v := w.submit(answers[n], subs[n])
			again := w.submit(answers[n], subs[n])
			if v.Status != chancery.VerdictRefused || v.Reason == "" || v.NC != nil || again.Status != v.Status || again.Reason != v.Reason {
				t.Errorf("%s has a live node: verdict %+v, and again %+v", what, v, again)
			}
		})
	}
	w.wantShut("the chip is taken", w.Authority, channel, w.again(sameChip), "chip-enrolled")
	w.wantShut("the name is taken", w.Authority, channel, w.again(sameName), "name-taken")
	w.wantShut("the key has a name", w.Authority, channel, w.again(sameKey), "other-name")
	if w.Ledger.Size() != 1 || w.verify(first) != nil {
		t.Errorf("%d entries, the first: %v", w.Ledger.Size(), w.verify(first))
	}
	w.Check()
}

// again returns a new request of a node, under a new token.
func (w *world) again(n *appliancetest.Node) *chancery.InitialConnection {
	n.Token = w.Token(n.Name)
	return n.Connection(channel.Exporter)
}

// extended is what a PCR becomes (TPM 2.0 Part 3, section 22.2).
func extended(pcr, digest [32]byte) [32]byte { return sha256.Sum256(append(pcr[:], digest[:]...)) }

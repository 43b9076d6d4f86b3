package evidence_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// The links of a record, in the order in which they are verified; quote and
// event log are there if they were shown.
var (
	bare    = []string{"form", "pop", "node-key", "ek-certificate", "ca-n-s", "n-s", "activation", "creation", "sealing", "n-c"}
	quoting = slices.Insert(slices.Clone(bare), 9, "quote")
	logging = slices.Insert(slices.Clone(bare), 9, "quote", "event-log")
)

// What an honest coordinator keeps of an honest node holds, for each kind of
// chip and key, and says the same after it was written to a file.
func TestRecordHolds(t *testing.T) {
	w := newWorld(t)
	for _, kind := range []papertpm.Kind{papertpm.P256, papertpm.P384, papertpm.RSA2048} {
		for _, sealed := range []bool{false, true} {
			m := w.machine(papertpm.Options{EK: kind}, sealed)
			for _, test := range []struct {
				what  string
				x     exchange
				links []string
			}{
				{"nothing quoted", exchange{}, bare},
				{"quoted", exchange{quote: []int{7, 11, 23}}, quoting},
				{"quoted, with the log", whole, logging},
			} {
				what := kind.String() + ", " + test.what
				r := m.record(test.x)
				p, err := judge(w, r)
				if err != nil {
					t.Errorf("%s: the coordinator refuses it: %v", what, err)
					continue
				}
				if p.Sealed != sealed || p.NS.Name != m.name || (p.Quote != nil) != (test.x.quote != nil) || (p.EventLog != nil) != test.x.log || p.Creation.Firmware != m.chip.Info().Firmware {
					t.Errorf("%s: proven %+v", what, p)
				}
				report := r.Verify(w.trust())
				wantHolds(t, what, report, test.links...)
				if again := clone(t, r); !reflect.DeepEqual(again, r) || !reflect.DeepEqual(again.Verify(w.trust()), report) {
					t.Errorf("%s: after it was written: %+v", what, again.Verify(w.trust()))
				}
				if said := find(report, tpm.LinkSealing); strings.Contains(said, "not sealed") == sealed {
					t.Errorf("%s: sealed %t, and the report says %q", what, sealed, said)
				}
			}
		}
	}
}

// find returns what a report says of a link.
func find(r *evidence.Report, link string) string {
	for _, l := range r.Links {
		if l.Name == link {
			return l.What
		}
	}
	return ""
}

// A renewal is with the same key, whose seal is of the epoch of its creation.
// Meanwhile approvals have moved the counter, which only a renewal excuses.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, true)
	wantHolds(t, "enrolment", m.record(whole).Verify(w.trust()), logging...)
	wantHolds(t, "renewal", m.record(exchange{renewal: true}).Verify(w.trust()), bare...)

	m.raiseEpoch()
	r := m.record(exchange{renewal: true, quote: []int{7}})
	wantHolds(t, "renewal in the next epoch", r.Verify(w.trust()), quoting...)
	if p, err := judge(w, r); err != nil || p.Epoch != m.file.Seal.Epoch+1 {
		t.Errorf("proven %+v, %v; want the epoch as it is now", p, err)
	}
	m.raiseEpoch()
	wantHolds(t, "and in the one after", m.record(exchange{renewal: true}).Verify(w.trust()), bare...)
	wantBroken(t, "an enrolment with a key of an old epoch", m.record(exchange{}).Verify(w.trust()), tpm.LinkSealing)
}

// Whose chip it is: a maker's certificate, an operator's list, or nobody.
func TestStanding(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, false)
	root, issuer := w.makers()
	stranger := must(papertpm.NewMaker())(t)
	listed := exchange{lists: []string{"order-7"}}
	without := func(c *chancery.InitialConnection) { c.EKCertificate = nil }
	tpmOnly := func(s *chancery.Subject) { s.Assurance.Level = chancery.AssuranceTPM }
	for _, test := range []struct {
		what  string
		x     exchange
		roots evidence.Roots
		says  string // of the EK certificate
		holds bool
	}{
		{"a maker's", exchange{}, w.trust().Roots, "papertpm EK issuer", true},
		{"a maker's, by the chain that the chip carries", exchange{connection: func(c *chancery.InitialConnection) { c.EKChain = [][]byte{issuer} }}, evidence.Roots{Makers: root}, "vouches", true},
		{"a maker's, without the chain", exchange{}, evidence.Roots{Makers: root}, "counts for nothing", false},
		{"a maker that is not known", exchange{}, evidence.Roots{Makers: stranger.Roots()}, "counts for nothing", false},
		{"no maker is known", exchange{}, evidence.Roots{}, "counts for nothing", false},
		{"a maker that is not known, and no more claimed", exchange{subject: tpmOnly}, evidence.Roots{}, "counts for nothing", true},
		{"a maker that is not known, on a list", listed, evidence.Roots{Makers: stranger.Roots()}, "on the list order-7", true},
		{"no certificate", exchange{connection: without}, w.trust().Roots, "no manufacturer", true},
		{"no certificate, and more claimed", exchange{connection: without, subject: func(s *chancery.Subject) { s.Assurance.Level = chancery.AssuranceEK }}, w.trust().Roots, "no manufacturer", false},
		{"no certificate, on two lists", exchange{connection: without, lists: []string{"a", "b"}}, w.trust().Roots, "on the list a, b", true},
		{"a maker's, on a list too", listed, w.trust().Roots, "vouches", true},
		{"a maker of simulators", exchange{}, evidence.Roots{Simulators: w.maker.Roots()}, "SIMULATORS", true},
		{"of both, it makes simulators", exchange{}, evidence.Roots{Makers: w.maker.Roots(), Simulators: w.maker.Roots()}, "SIMULATORS", true},
	} {
		r := m.record(test.x)
		trust := evidence.Trust{Pointer: w.pointer, Roots: test.roots}
		report := r.Verify(trust)
		if test.holds {
			wantHolds(t, test.what, report, bare...)
		} else {
			wantBroken(t, test.what, report, evidence.LinkNC)
		}
		if said := find(report, tpm.LinkEKCertificate); !strings.Contains(said, test.says) {
			t.Errorf("%s: the report says %q, want %q", test.what, said, test.says)
		}
	}
}

// A chip of a maker of simulators is one, whatever it says, and so is one that
// says so, whoever made it.
func TestSimulators(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, false)
	denied := func(c *chancery.InitialConnection) { c.Chip.Simulator = false }
	hardware := func(s *chancery.Subject) { s.Assurance.Simulator = false }
	makers, simulators := w.trust().Roots, evidence.Roots{Simulators: w.maker.Roots()}
	for _, test := range []struct {
		what  string
		x     exchange
		roots evidence.Roots
		holds bool
	}{
		{"a chip, certified as one", exchange{connection: denied, subject: hardware}, makers, true},
		{"a simulator, certified as a chip", exchange{subject: hardware}, makers, false},
		{"a simulator that denies it, certified as a chip", exchange{connection: denied, subject: hardware}, simulators, false},
		{"a simulator that denies it, certified as one", exchange{connection: denied}, simulators, true},
	} {
		report := m.record(test.x).Verify(evidence.Trust{Pointer: w.pointer, Roots: test.roots})
		if test.holds {
			wantHolds(t, test.what, report, bare...)
		} else {
			wantBroken(t, test.what, report, evidence.LinkNC)
		}
	}
}

// N:C may claim less than the evidence is good for, not more.
func TestAssuranceClaimed(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, false)
	without := func(c *chancery.InitialConnection) { c.EKCertificate = nil }
	for _, test := range []struct {
		what string
		x    exchange
		most chancery.AssuranceLevel
	}{
		{"nobody vouches", exchange{connection: without}, chancery.AssuranceTPM},
		{"nobody vouches, but it is quoted", exchange{connection: without, quote: []int{7}}, chancery.AssuranceTPM},
		{"a maker vouches", exchange{}, chancery.AssuranceEK},
		{"a buyer vouches", exchange{connection: without, lists: []string{"lab"}}, chancery.AssuranceEK},
		{"a maker vouches, and it is quoted", exchange{quote: []int{7}}, chancery.AssuranceQuote},
		{"a buyer vouches, and it is quoted", exchange{connection: without, lists: []string{"lab"}, quote: []int{7}}, chancery.AssuranceQuote},
	} {
		for level := chancery.AssuranceSoftware; level <= chancery.AssuranceQuote; level++ {
			x := test.x
			x.subject = func(s *chancery.Subject) { s.Assurance.Level = level }
			report, what := m.record(x).Verify(w.trust()), test.what+", N:C claims "+level.String()
			if level <= test.most {
				wantHolds(t, what, report)
			} else {
				wantBroken(t, what, report, evidence.LinkNC)
			}
		}
	}
}

// Every link, broken once in each way, is the one that the report ends with.
// Where the coordinator looks at the same link, it refuses for the same reason.
func TestBrokenLinks(t *testing.T) {
	w := newWorld(t)
	m, other := w.machine(papertpm.Options{}, true), w.machine(papertpm.Options{}, true)
	open := w.machine(papertpm.Options{}, false)
	stranger, theirs := newWorld(t), must(fleet.NewKey())(t)
	foreign := stranger.machine(papertpm.Options{}, true).record(whole)
	before, its := m.record(whole), other.record(whole)
	p384 := w.machine(papertpm.Options{EK: papertpm.P384}, true)
	type record = evidence.Record
	for _, test := range []struct {
		link, what string
		x          exchange // beside what is quoted and logged
		change     func(*record)
	}{
		{evidence.LinkForm, "no initial connection", exchange{}, func(r *record) { r.Connection = nil }},
		{evidence.LinkForm, "no submission", exchange{}, func(r *record) { r.Submission = nil }},
		{evidence.LinkForm, "no exporter", exchange{}, func(r *record) { r.Exporter = nil }},
		{evidence.LinkForm, "a long exporter", exchange{}, func(r *record) { r.Exporter = append(r.Exporter, 0) }},
		{evidence.LinkForm, "a short nonce", exchange{}, func(r *record) { r.Connection.Nonce = r.Connection.Nonce[1:] }},
		{evidence.LinkForm, "the key is sealed, the request does not say so", exchange{}, func(r *record) { r.Connection.Sealing = nil }},
		{evidence.LinkForm, "a short nonce of the seal", exchange{}, func(r *record) { r.Connection.Sealing.Nonce = nil }},
		{evidence.LinkForm, "a long PCR digest", exchange{}, func(r *record) { r.Connection.Sealing.PCRDigest = make([]byte, 33) }},
		{evidence.LinkForm, "N:S is not one", exchange{}, func(r *record) { r.Submission.NS = r.Submission.CANS }},
		{evidence.LinkForm, "no epoch of a sealed key", exchange{}, func(r *record) { r.Submission.Epoch = nil }},
		{evidence.LinkForm, "a PCR value of another size", exchange{}, func(r *record) { r.Submission.Quote.Values[7] = make([]byte, 20) }},
		{evidence.LinkForm, "a value of a PCR that is none", exchange{}, func(r *record) { r.Submission.Quote.Values[24] = make([]byte, 32) }},

		{evidence.LinkNodePK, "N:PK is no key", exchange{}, func(r *record) { r.Connection.NodeKey = []byte{0x30, 0} }},
		{evidence.LinkNodePK, "N:PK is of P-384", exchange{}, func(r *record) { r.Connection.NodeKey = p384.ek.SPKI }},
		{tpm.LinkAK, "the AK is not restricted", exchange{}, func(r *record) { r.Connection.AKPublic = open.file.Public }},
		{tpm.LinkAK, "no AK", exchange{}, func(r *record) { r.Connection.AKPublic = nil }},
		{tpm.LinkEK, "the EK is of no template", exchange{}, func(r *record) { r.Connection.EKPublic = m.ak.Public }},
		{tpm.LinkEK, "the EK was not born in a chip", exchange{}, func(r *record) { r.Connection.EKPublic[5] ^= 2 }},

		{evidence.LinkPoP, "on another connection", exchange{}, func(r *record) { r.Exporter = random() }},
		{evidence.LinkPoP, "with another nonce", exchange{}, func(r *record) { r.Connection.Nonce = random() }},
		{evidence.LinkPoP, "from another time", exchange{}, func(r *record) { r.Connection.PoP = before.Connection.PoP }},
		{evidence.LinkPoP, "of another AK", exchange{}, func(r *record) { r.Connection.AKPublic = other.ak.Public }},
		{evidence.LinkPoP, "of another chip", exchange{}, func(r *record) {
			r.Connection.EKPublic, r.Connection.EKCertificate = other.ek.Public, other.ek.Certificate
		}},
		{evidence.LinkPoP, "of another node", exchange{}, func(r *record) { r.Connection.NodeKey = other.nsk.PublicKey().SPKI() }},
		{evidence.LinkPoP, "of another fleet", exchange{}, func(r *record) { *r = *clone(t, foreign) }},

		{tpm.LinkNodeKey, "the public area is another key's", exchange{}, func(r *record) { r.Connection.NodePublic = other.file.Public }},
		{tpm.LinkNodeKey, "the key may leave the chip", exchange{}, func(r *record) { r.Connection.NodePublic[7] ^= 2 }},
		{tpm.LinkNodeKey, "a byte too many", exchange{}, func(r *record) { r.Connection.NodePublic = append(r.Connection.NodePublic, 0) }},
		{tpm.LinkSealing, "another nonce", exchange{}, func(r *record) { r.Connection.Sealing.Nonce = random() }},
		{tpm.LinkSealing, "another epoch", exchange{}, func(r *record) { r.Connection.Sealing.Epoch++ }},
		{tpm.LinkSealing, "other PCR values", exchange{}, func(r *record) { r.Connection.Sealing.PCRDigest = random() }},
		{tpm.LinkSealing, "other PCRs", exchange{}, func(r *record) { r.Connection.Sealing.PCRs = []int{0, 7} }},
		{tpm.LinkSealing, "no PCRs", exchange{}, func(r *record) { r.Connection.Sealing.PCRs = nil }},
		{tpm.LinkSealing, "a PCR that there is not", exchange{}, func(r *record) { r.Connection.Sealing.PCRs = []int{7, 99} }},
		{tpm.LinkSealing, "a PCR below 0", exchange{}, func(r *record) { r.Connection.Sealing.PCRs = []int{-1} }},

		{tpm.LinkEKCertificate, "no certificate at all", exchange{}, func(r *record) { r.Connection.EKCertificate = []byte("hello") }},
		{tpm.LinkEKCertificate, "another chip's", exchange{}, func(r *record) { r.Connection.EKCertificate = other.ek.Certificate }},
		{tpm.LinkEKCertificate, "an authority's", exchange{}, func(r *record) { _, r.Connection.EKCertificate = w.makers() }},
		{tpm.LinkEKCertificate, "a chain of rubbish", exchange{}, func(r *record) { r.Connection.EKChain = [][]byte{[]byte("hello")} }},
		{tpm.LinkEKCertificate, "a long chain", exchange{}, func(r *record) { r.Connection.EKChain = slices.Repeat([][]byte{m.ek.Certificate}, 9) }},

		{evidence.LinkCANS, "none", exchange{}, func(r *record) { r.Submission.CANS = nil }},
		{evidence.LinkCANS, "another artefact", exchange{}, func(r *record) { r.Submission.CANS = r.Submission.NS }},
		{evidence.LinkCANS, "the answer of another time", exchange{}, func(r *record) { r.Submission.CANS = before.Submission.CANS }},
		{evidence.LinkCANS, "the answer to another node", exchange{}, func(r *record) { r.Submission.CANS = its.Submission.CANS }},
		{evidence.LinkCANS, "by a stranger", exchange{ca: theirs}, nil},
		{evidence.LinkCANS, "to another node_id", exchange{cans: func(c *chancery.CANS) { c.NodeID[0] ^= 1 }}, nil},
		{evidence.LinkCANS, "to another AK", exchange{cans: func(c *chancery.CANS) { c.AKName = other.ak.Name[:] }}, nil},
		{evidence.LinkCANS, "to another chip", exchange{cans: func(c *chancery.CANS) { c.EKDigest[0] ^= 1 }}, nil},
		{evidence.LinkCANS, "to another nonce", exchange{cans: func(c *chancery.CANS) { c.NodeNonce[0] ^= 1 }}, nil},
		{evidence.LinkCANS, "too long a life", exchange{cans: func(c *chancery.CANS) { c.Expires = c.Expires.Add(time.Second) }}, nil},
		{evidence.LinkCANS, "over before it began", exchange{cans: func(c *chancery.CANS) { c.Expires = c.Issued.Add(-time.Second) }}, nil},
		{evidence.LinkCANS, "submitted too late", exchange{}, func(r *record) { r.Submitted = now.Add(chancery.MaxCANSLife) }},
		{evidence.LinkCANS, "submitted long before", exchange{}, func(r *record) { r.Submitted = now.AddDate(0, 0, -2) }},

		{evidence.LinkNS, "of another node", exchange{}, func(r *record) { r.Submission.NS = its.Submission.NS }},
		{evidence.LinkNS, "of another node, over this CA:N:S", exchange{}, func(r *record) {
			r.Submission.NS = other.ns(must(chancery.ParseCANS(r.Submission.CANS))(t), nil).Marshal()
		}},
		{evidence.LinkNS, "of another time", exchange{}, func(r *record) { r.Submission.NS = before.Submission.NS }},
		{evidence.LinkNS, "of another fleet", exchange{ns: func(n *chancery.NS) { n.Fleet = stranger.fleet }}, nil},
		{evidence.LinkNS, "for another name", exchange{ns: func(n *chancery.NS) { n.Name = "edge-2" }}, nil},
		{evidence.LinkNS, "the wanted name is another one", exchange{}, func(r *record) { r.Connection.Name = "edge-2" }},
		{evidence.LinkNS, "over another CA:N:S", exchange{ns: func(n *chancery.NS) { n.CANSHash[0] ^= 1 }}, nil},
		{evidence.LinkClock, "a clock that is ahead", exchange{ns: func(n *chancery.NS) { n.Created = now.Add(24*time.Hour + time.Second) }}, nil},
		{evidence.LinkClock, "a clock that is behind", exchange{ns: func(n *chancery.NS) { n.Created = now.Add(-24*time.Hour - time.Second) }}, nil},
		{evidence.LinkActivation, "the wrong answer", exchange{}, func(r *record) { r.Submission.Activation = random() }},
		{evidence.LinkActivation, "no answer", exchange{}, func(r *record) { r.Submission.Activation = nil }},
		{evidence.LinkActivation, "another question", exchange{}, func(r *record) { r.Activation = before.Activation }},

		{tpm.LinkCreation, "of another time", exchange{}, func(r *record) { r.Submission.Creation = before.Submission.Creation }},
		{tpm.LinkCreation, "by another chip", exchange{}, func(r *record) { r.Submission.Creation = its.Submission.Creation }},
		{tpm.LinkCreation, "the data of another key", exchange{}, func(r *record) { r.Submission.CreationData = other.file.CreationData }},
		{tpm.LinkCreation, "a quote instead", exchange{}, func(r *record) { r.Submission.Creation = r.Submission.Quote.Attestation }},
		{tpm.LinkCreation, "none", exchange{}, func(r *record) { r.Submission.Creation = chancery.Attestation{} }},
		{tpm.LinkEpoch, "of another time", exchange{}, func(r *record) { r.Submission.Epoch = before.Submission.Epoch }},
		{tpm.LinkEpoch, "by another chip", exchange{}, func(r *record) { r.Submission.Epoch = its.Submission.Epoch }},
		{tpm.LinkEpoch, "the creation instead", exchange{}, func(r *record) { r.Submission.Epoch = &r.Submission.Creation }},
		{tpm.LinkQuote, "of another time", exchange{}, func(r *record) { r.Submission.Quote = before.Submission.Quote }},
		{tpm.LinkQuote, "by another chip", exchange{}, func(r *record) { r.Submission.Quote = its.Submission.Quote }},
		{tpm.LinkQuote, "another value", exchange{}, func(r *record) { r.Submission.Quote.Values[7] = random() }},
		{tpm.LinkQuote, "a value less", exchange{}, func(r *record) { delete(r.Submission.Quote.Values, 4) }},
		{tpm.LinkQuote, "a value more", exchange{}, func(r *record) { r.Submission.Quote.Values[5] = make([]byte, 32) }},
		{tpm.LinkQuote, "no values", exchange{}, func(r *record) { r.Submission.Quote.Values = nil }},
		{evidence.LinkEventLog, "no quote", exchange{}, func(r *record) { r.Submission.Quote = nil }},
		{evidence.LinkEventLog, "no log", exchange{}, func(r *record) { r.Submission.EventLog = []byte("hello") }},
		{evidence.LinkEventLog, "an event less", exchange{}, func(r *record) { r.Submission.EventLog = r.Submission.EventLog[:len(r.Submission.EventLog)-1] }},

		{evidence.LinkNC, "none", exchange{}, func(r *record) { r.NC = nil }},
		{evidence.LinkNC, "another certificate", exchange{}, func(r *record) { r.NC = m.ek.Certificate }},
		{evidence.LinkNC, "another node's", exchange{}, func(r *record) { r.NC = its.NC }},
		{evidence.LinkNC, "that of another time", exchange{}, func(r *record) { r.NC = before.NC }},
		{evidence.LinkNC, "another fleet's", exchange{}, func(r *record) { r.NC = foreign.NC }},
		{evidence.LinkNC, "for another name", exchange{subject: func(s *chancery.Subject) { s.Name = "edge-2" }}, nil},
		{evidence.LinkNC, "for another name that the node asked for too", exchange{subject: func(s *chancery.Subject) { w.askAgain(m, s, "edge-2") }}, nil},
		{evidence.LinkNC, "for another node that answered the same CA:N:S", exchange{subject: func(s *chancery.Subject) { w.askAgain(other, s, "edge-1") }}, nil},
		{evidence.LinkNC, "without the node's signature", exchange{subject: func(s *chancery.Subject) { s.NS.Created = s.NS.Created.Add(time.Second) }}, nil},
		{evidence.LinkNC, "another chip", exchange{subject: func(s *chancery.Subject) { s.Assurance.EKDigest = chancery.EKDigest(w.fleet, other.ek.SPKI) }}, nil},
		{evidence.LinkNC, "the chip's digest, not salted", exchange{subject: func(s *chancery.Subject) { s.Assurance.EKDigest = m.pop(before).EKDigest }}, nil},
	} {
		test.x.quote, test.x.log = whole.quote, whole.log
		r := clone(t, m.record(test.x))
		if test.change != nil {
			test.change(r)
		}
		what := test.link + ", " + test.what
		wantBroken(t, what, r.Verify(w.trust()), test.link)

		if r.Connection == nil || r.Submission == nil || len(r.Exporter) != 32 || test.link == evidence.LinkCANS || test.link == evidence.LinkNC {
			continue // nothing that a coordinator gets, or its own work
		}
		p, err := judge(w, r)
		if e, ok := errors.AsType[*tpm.EvidenceError](err); !ok || e.Link != test.link || p != nil {
			t.Errorf("%s: the coordinator finds %v, and %+v", what, err, p)
		}
	}
	wantHolds(t, "nothing broken", before.Verify(w.trust()), logging...)
	wantHolds(t, "a clock that is a day ahead", m.record(exchange{ns: func(n *chancery.NS) { n.Created = now.Add(24 * time.Hour) }}).Verify(w.trust()), bare...)
	wantHolds(t, "a clock that is a day behind", m.record(exchange{ns: func(n *chancery.NS) { n.Created = now.Add(-24 * time.Hour) }}).Verify(w.trust()), bare...)
}

// askAgain has a machine sign N:S over the same CA:N:S, and puts that into N:C.
func (w *world) askAgain(m *machine, s *chancery.Subject, name string) {
	ns := &chancery.NS{Fleet: w.fleet, NodeKey: m.nsk.PublicKey(), CANSHash: s.NS.CANSHash, Created: now, Name: name}
	s.Name, s.NodeKey, s.NS.Created, s.NS.Signature = name, ns.NodeKey, ns.Created, w.sign(m.nsk, ns)
}

// N:C by a stranger is none, even if CA:N:S is good; and a CA key that is
// retired by now was the fleet's when it signed.
func TestCAKeys(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, false)
	r := m.record(exchange{})
	stolen := clone(t, r)
	stolen.NC = m.certify(r, must(fleet.NewKey())(t), exchange{})
	wantBroken(t, "N:C by a stranger", stolen.Verify(w.trust()), evidence.LinkNC)

	next := must(fleet.NewKey())(t)
	trust, pointer := w.trust(), *w.pointer
	pointer.Keys = []chancery.CAKey{w.key(next, chancery.CAKeyCurrent), pointer.Keys[0]}
	pointer.Keys[1].State = chancery.CAKeyRetired
	trust.Pointer = &pointer
	wantHolds(t, "by a key that is retired by now", r.Verify(trust), bare...)
	wantHolds(t, "by the next one", m.record(exchange{ca: next}).Verify(trust), bare...)
	pointer.Keys = pointer.Keys[:1]
	wantBroken(t, "by a key that is not in the record any more", r.Verify(trust), evidence.LinkCANS)
}

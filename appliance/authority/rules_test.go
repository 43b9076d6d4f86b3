package authority_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
)

// under has the world's coordinator work under another policy.
func (w *world) under(text string) {
	w.t.Helper()
	_, err := w.Authority.SetPolicy(w.t.Context(), "op", []byte(text), func([]byte) error { return nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

// An approval counts once for each operator, and as many are needed as the
// policy says.
func TestApprovals(t *testing.T) {
	w := newWorld(t)
	w.under("version = 2\n[[rule]]\nname = \"two\"\ndecide = \"approve\"\napprovals = 2\nsimulators = true\n")
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	if v := w.submit(answer, sub); v.Status != chancery.VerdictPending {
		t.Fatalf("verdict %+v", v)
	}
	w.WantSpent(0, func() {
		v, left, err := w.Authority.Approve(t.Context(), "ada", "edge-1")
		if err != nil || left != 1 || v.Status != chancery.VerdictPending {
			t.Fatalf("after one of two: %+v, %d left, %v", v, left, err)
		}
		_, _, err = w.Authority.Approve(t.Context(), "ada", "edge-1")
		wantRefusal(t, "the same operator", err, "approved")
	})
	v, left, err := w.Authority.Approve(t.Context(), "bob", "edge-1")
	if err != nil || left != 0 {
		t.Fatalf("%d left, %v", left, err)
	}
	w.issued(v)
	w.Check()
}

// A policy counts from the moment that it is set; its version rises.
func TestSetPolicy(t *testing.T) {
	w := newWorld(t)
	kept := ""
	keep := func(b []byte) error { kept = string(b); return nil }
	for what, text := range map[string]string{"no TOML": "version =", "the same version": appliancetest.Trial} {
		if _, err := w.Authority.SetPolicy(t.Context(), "op", []byte(text), keep); err == nil || kept != "" {
			t.Errorf("%s: %v, kept %q", what, err, kept)
		}
	}
	no := "version = 2\n[[rule]]\nname = \"nobody\"\ndecide = \"refuse\"\n"
	p, err := w.Authority.SetPolicy(t.Context(), "op", []byte(no), keep)
	if err != nil || kept != no || p.Version != 2 {
		t.Fatalf("%+v, kept %q, %v", p, kept, err)
	}
	w.wantShut("the policy of now", w.Authority, channel, w.node("edge-1", false).Connection(channel.Exporter), "rule")
	w.View(func(tx *store.Tx) error {
		last, err := tx.LatestPolicy()
		if err == nil && (last.Text != no || last.Operator != "op" || last.Hash != p.Hash) {
			t.Errorf("stored is %+v", last)
		}
		return err
	})
}

// Who has nothing but a chip that was bought is let in by a rule that names the
// list, and by no other.
func TestBoughtChip(t *testing.T) {
	w := newWorld(t, func(c *authority.Config) { c.Roots.Simulators = nil })
	n := w.node("edge-1", false)
	n.Token = nil
	w.wantShut("a chip that nobody bought", w.Authority, channel, n.Connection(channel.Exporter), "no-token")
	chips := []store.EKListed{{EK: sha256.Sum256(n.EK.SPKI), Note: "X1"}}
	added, err := w.Authority.ImportEKs(t.Context(), "op", "order-1", chips)
	if err != nil || added != 1 {
		t.Fatalf("%d added, %v", added, err)
	}
	w.wantShut("a policy that does not ask for the list", w.Authority, channel, n.Connection(channel.Exporter), "no-rule")
	w.under("version = 2\n[[rule]]\nname = \"bought\"\ndecide = \"auto\"\nsimulators = true\nmatch.ek_list = [\"order-1\"]\ngrant.roles = [\"bought\"]\ngrant.life = \"1h\"\n")
	nc := w.enrol(n)
	if nc.Assurance.Level != chancery.AssuranceEK || !slices.Equal(nc.Roles, []string{"bought"}) || nc.NotAfter.Sub(nc.NotBefore) != time.Hour {
		t.Errorf("assurance %s, roles %q, from %s to %s", nc.Assurance.Level, nc.Roles, nc.NotBefore, nc.NotAfter)
	}
	r, err := w.Authority.Evidence(t.Context(), "edge-1")
	if err != nil || !slices.Equal(r.Lists, []string{"order-1"}) || r.Rule != "bought" {
		t.Errorf("record %+v, %v", r, err)
	}
	w.Check()
}

// A node that lost its key keeps its name: an operator approves, and in the same
// step the certificates that it had are revoked. The chip is not barred.
func TestRejoin(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	first := w.enrol(n)
	rejoin := func(n *appliancetest.Node) *chancery.InitialConnection {
		req := n.Connection(channel.Exporter)
		req.Rejoin = true
		return req
	}
	nobody := w.other("edge-9")
	w.wantShut("a name that nobody has", w.Authority, channel, rejoin(nobody), "nothing-to-replace")
	w.wantShut("its own key", w.Authority, channel, rejoin(n), "nothing-to-replace")
	stranger := w.other("edge-1")
	stranger.Token = nil
	w.wantShut("another chip, without a token", w.Authority, channel, rejoin(stranger), "no-token")

	// The same chip, with a new key.
	next := w.node("edge-1", false)
	next.Token = nil
	answer, err := w.Authority.Connect(t.Context(), channel, rejoin(next))
	if err != nil {
		t.Fatal(err)
	}
	if v := w.submit(answer, next.Submission(answer)); v.Status != chancery.VerdictPending {
		t.Fatalf("verdict %+v: an operator has to approve", v)
	}
	if err := w.verify(first); err != nil {
		t.Errorf("before the approval: %v", err)
	}
	v, _, err := w.Authority.Approve(t.Context(), "op", "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	second := w.issued(v)
	if w.verify(first) == nil || w.verify(second) != nil {
		t.Errorf("after the approval: the first %v, the second %v", w.verify(first), w.verify(second))
	}
	if row := w.nodeRow(n.ID()); row.State != store.NodeReplaced {
		t.Errorf("the first node is %s", row.State)
	}
	w.wantShut("the key that was replaced", w.Authority, channel, w.again(n), "revoked")
	w.Check()

	// The new one renews as any other.
	answer = w.connectOver(renewal(second, w.Pointer.FleetID()), next)
	w.issued(w.submit(answer, next.Submission(answer)))

	// Another chip, with a token.
	stranger.Token = w.Token("edge-1")
	if answer, err = w.Authority.Connect(t.Context(), channel, rejoin(stranger)); err != nil {
		t.Fatal(err)
	}
	w.submit(answer, stranger.Submission(answer))
	if v, _, err = w.Authority.Approve(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(w.issued(v)); err != nil || w.verify(second) == nil {
		t.Errorf("the third: %v, the second: %v", err, w.verify(second))
	}
	w.Check()
}

// A chip on which a node was revoked comes back only where the policy has an
// operator decide; the revoked key never does.
func TestReenrol(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	w.enrol(n)
	w.revoke("edge-1")
	next := w.node("edge-2", false)
	w.wantShut("a barred chip", w.Authority, channel, next.Connection(channel.Exporter), "revoked")
	w.under("version = 2\n[[rule]]\nname = \"again\"\ndecide = \"auto\"\nsimulators = true\ngrant.reenrol = \"approve\"\n")
	w.wantShut("a revoked key", w.Authority, channel, w.again(n), "revoked")
	answer := w.connect(next)
	if v := w.submit(answer, next.Submission(answer)); v.Status != chancery.VerdictPending {
		t.Fatalf("verdict %+v: an operator has to approve", v)
	}
	v, _, err := w.Authority.Approve(t.Context(), "op", "edge-2")
	if err != nil {
		t.Fatal(err)
	}
	nc := w.issued(v)
	answer = w.connectOver(renewal(nc, w.Pointer.FleetID()), next)
	next.Token = nil
	w.issued(w.submit(answer, next.Submission(answer)))
	w.Check()
}

// attest shows a node's state, with what edit makes of it.
func (w *world) attest(n *appliancetest.Node, edit ...func(*chancery.AttestRequest)) (*chancery.AttestAnswer, error) {
	w.t.Helper()
	peer := &chancery.Peer{Name: n.Name, NodeID: n.ID()}
	question, err := w.Authority.Attest(w.t.Context(), peer, &chancery.AttestRequest{})
	if err != nil {
		return nil, err
	}
	if question.Status != chancery.AttestChallenge || len(question.Challenge) != 32 {
		w.t.Fatalf("%+v", question)
	}
	q := chancery.AttestQualifying(w.Pointer.FleetID(), n.ID(), [32]byte(question.Challenge))
	pcrs := slices.Compact(slices.Sorted(slices.Values(append(question.QuotePCRs, tpm.DefaultPCRs...))))
	r := &chancery.AttestRequest{Challenge: question.Challenge, Quote: n.Quote(pcrs, q)}
	if n.File.Seal != nil {
		r.Epoch = new(n.Epoch(q))
	}
	for _, e := range edit {
		e(r)
	}
	return w.Authority.Attest(w.t.Context(), peer, r)
}

func (w *world) good(n *appliancetest.Node) *chancery.AttestAnswer {
	w.t.Helper()
	a, err := w.attest(n)
	if err != nil || a.Status != chancery.AttestGood {
		w.t.Fatalf("%+v, %v", a, err)
	}
	return a
}

// What is not the chip's is no attestation, and says nothing against the node.
func TestAttestRefuses(t *testing.T) {
	w := newWorld(t)
	n, other := w.node("edge-1", true), w.other("edge-2")
	w.enrol(n)
	w.good(n)
	for _, test := range []struct {
		what, code string
		edit       func(*chancery.AttestRequest)
	}{
		{"another challenge", "challenge", func(r *chancery.AttestRequest) { r.Challenge = make([]byte, 32) }},
		{"another chip's quote", "evidence-quote", func(r *chancery.AttestRequest) { r.Quote = other.Quote(tpm.DefaultPCRs, [32]byte{}) }},
		{"an old quote", "evidence-quote", func(r *chancery.AttestRequest) { r.Quote = n.Quote(tpm.DefaultPCRs, [32]byte{}) }},
		{"other values", "evidence-quote", func(r *chancery.AttestRequest) {
			r.Quote.Values[7] = make([]byte, 31)
			r.Quote.Values[7] = append(r.Quote.Values[7], 1)
		}},
		{"no epoch", "malformed", func(r *chancery.AttestRequest) { r.Epoch = nil }},
		{"the quote for the epoch", "evidence-epoch", func(r *chancery.AttestRequest) { r.Epoch = &r.Quote.Attestation }},
	} {
		_, err := w.attest(n, test.edit)
		wantRefusal(t, test.what, err, test.code)
	}
	if row := w.nodeRow(n.ID()); row.Held != "" {
		t.Errorf("held: %s", row.Held)
	}
	_, err := w.Authority.Attest(t.Context(), &chancery.Peer{NodeID: chancery.NodeID{1}}, &chancery.AttestRequest{})
	wantRefusal(t, "an unknown node", err, "not-found")
	w.revoke("edge-1")
	_, err = w.attest(n)
	wantRefusal(t, "a revoked node", err, "revoked")
}

// A state that the policy refuses is reported, or the node is held, or revoked.
func TestAttestFails(t *testing.T) {
	for action, want := range map[string]struct {
		held  bool
		state string
	}{"report": {false, store.NodeActive}, "hold": {true, store.NodeActive}, "revoke": {false, store.NodeRevoked}} {
		t.Run(action, func(t *testing.T) {
			w := newWorld(t)
			n := w.node("edge-1", false)
			nc := w.enrol(n)
			w.under("version = 2\n[[rule]]\nname = \"known\"\ndecide = \"auto\"\nsimulators = true\nmatch.pcr_set = [\"zero\"]\n" +
				"[[pcr_set]]\nname = \"zero\"\n[pcr_set.values]\n0 = [\"" + strings.Repeat("0", 64) + "\"]\n7 = [\"" + strings.Repeat("0", 64) + "\"]\n[attest]\non_failure = \"" + action + "\"\n")
			w.good(n)
			w.extend(n)
			a, err := w.attest(n)
			if err != nil || a.Status != chancery.AttestFailed || a.Reason == "" {
				t.Fatalf("%+v, %v", a, err)
			}
			row := w.nodeRow(n.ID())
			if (row.Held != "") != want.held || row.State != want.state {
				t.Errorf("held %q, state %s", row.Held, row.State)
			}
			if revoked := w.verify(nc) != nil; revoked != (action == "revoke") {
				t.Errorf("its certificate: %v", w.verify(nc))
			}
			n.Token = nil
			switch action {
			case "hold":
				w.wantShut("a renewal of a node that is held", w.Authority, renewal(nc, w.Pointer.FleetID()), n.Connection([32]byte{4, 5, 6}), "held")
				if err := w.Authority.Release(t.Context(), "op", "edge-1"); err != nil {
					t.Fatal(err)
				}
			case "revoke":
				return
			}
			w.under("version = 3\n[[rule]]\nname = \"any\"\ndecide = \"auto\"\nsimulators = true\n")
			w.good(n)
		})
	}
}

// A chip whose counters go back was cleared, or is a copy of an earlier state.
func TestAttestRollback(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	w.good(n)
	row := w.nodeRow(n.ID())
	row.Resets += 5
	if err := w.Store.Update(t.Context(), func(tx *store.Tx) error { return tx.NoteChip(row) }); err != nil {
		t.Fatal(err)
	}
	a, err := w.attest(n)
	if err != nil || a.Status != chancery.AttestFailed {
		t.Fatalf("%+v, %v", a, err)
	}
	if row := w.nodeRow(n.ID()); row.Held == "" {
		t.Error("it is not held")
	}
}

// Who is silent for too long is held.
func TestSilent(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	w.enrol(n)
	w.under("version = 2\n[[rule]]\nname = \"trial\"\ndecide = \"auto\"\nsimulators = true\n[attest]\nwithin = \"2h\"\n")
	w.good(n)
	for _, step := range []struct {
		after time.Duration
		held  bool
	}{{2 * time.Hour, false}, {time.Second, true}} {
		w.Clock.Advance(step.after)
		if err := w.Authority.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if held := w.nodeRow(n.ID()).Held != ""; held != step.held {
			t.Errorf("after %s more: held %t", step.after, held)
		}
	}
}

// An operator who wants to see a node's state now is heard by who polls for it.
func TestAskAttestation(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	w.enrol(n)
	now, changed := w.Authority.AttestWanted(n.ID())
	if now {
		t.Fatal("wanted before anybody asked")
	}
	if _, err := w.Authority.AskAttestation(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	<-changed
	if now, _ = w.Authority.AttestWanted(n.ID()); !now {
		t.Error("not wanted")
	}
	if now, _ := w.With().AttestWanted(n.ID()); !now {
		t.Error("forgotten by a restart")
	}
	w.good(n)
	if now, _ := w.Authority.AttestWanted(n.ID()); now {
		t.Error("still wanted")
	}
	_, err := w.Authority.AskAttestation(t.Context(), "op", "nobody")
	wantRefusal(t, "nobody", err, "not-found")
}

// A state that is approved ahead of time opens the key when it comes, without
// the coordinator; retiring approvals closes the states before.
func TestApproveAhead(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	values := must(n.Chip.PCRValues(tpm.DefaultPCRs))(t)
	next := extended(values[7], [32]byte{1})
	state, err := w.Authority.ApproveAhead(t.Context(), "op", "edge-*", map[int][]byte{7: next[:]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authority.ApproveAhead(t.Context(), "op", "db-*", map[int][]byte{7: next[:]}); err != nil {
		t.Fatal(err)
	}
	a, again := w.good(n), w.good(n)
	if len(a.Approvals) != 1 || a.Increment != nil || string(again.Approvals[0].Signature) != string(a.Approvals[0].Signature) {
		t.Fatalf("approvals %+v, and again %+v", a.Approvals, again.Approvals)
	}
	approve(t, n, &a.Approvals[0])
	w.extend(n)
	if _, err := n.Key.Sign(t.Context(), chancery.FleetID{}, n.PoP([32]byte{})); err != nil {
		t.Fatalf("in the state that was approved ahead: %v", err)
	}

	// The epoch is raised: the state of the creation is worth nothing now.
	if err := w.Authority.RetireApprovals(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	a = w.good(n)
	if a.Increment == nil || len(a.Approvals) != 2 {
		t.Fatalf("%+v", a)
	}
	for i := range a.Approvals {
		approve(t, n, &a.Approvals[i])
	}
	if _, err := n.Chip.ApplyEpoch(w.Pointer.Approval, a.Increment.From, a.Increment.Signature); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Key.Sign(t.Context(), chancery.FleetID{}, n.PoP([32]byte{})); err != nil {
		t.Fatalf("in the present state: %v", err)
	}
	w.good(n)
	if row := w.nodeRow(n.ID()); row.Retire != store.RetireRaised {
		t.Errorf("retirement is %q", row.Retire)
	}
	w.reboot(n)
	wantSealed(t, n) // PCR 7 is at its first value
	w.good(n)
	if row := w.nodeRow(n.ID()); row.Retire != "" {
		t.Errorf("after the reboot the retirement is %q", row.Retire)
	}
	if err := w.Authority.RemoveAhead(t.Context(), "op", state.ID); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "twice", w.Authority.RemoveAhead(t.Context(), "op", state.ID), "not-found")
}

// reboot resets the chip, and loads N:SK again.
func (w *world) reboot(n *appliancetest.Node) {
	w.t.Helper()
	if err := n.Chip.Close(); err != nil {
		w.t.Fatal(err)
	}
	if err := w.process.Restart(); err != nil {
		w.t.Fatal(err)
	}
	w.chip = w.process.Open(w.t)
	n.Chip = w.chip
	n.Use(n.File)
}

// A node that waits in a state that was approved ahead, or that the policy knows,
// is approved at once.
func TestResealByPolicy(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	values := must(n.Chip.PCRValues(tpm.DefaultPCRs))(t)
	next := extended(values[7], [32]byte{1})
	w.extend(n)
	if a := w.reseal(n); a.Status != "pending" {
		t.Fatalf("%+v", a)
	}
	w.under("version = 2\n[[rule]]\nname = \"known\"\ndecide = \"auto\"\nsimulators = true\nmatch.pcr_set = [\"next\"]\n[[pcr_set]]\nname = \"next\"\n[pcr_set.values]\n7 = [\"" + hex.EncodeToString(next[:]) + "\"]\n")
	a := w.reseal(n)
	if a.Status != "approved" || a.Approval == nil {
		t.Fatalf("%+v", a)
	}
	approve(t, n, a.Approval)
	if _, err := n.Key.Sign(context.Background(), chancery.FleetID{}, n.PoP([32]byte{})); err != nil {
		t.Error(err)
	}
}

// A chip that a rule names itself needs neither token nor maker, and its record
// says who vouches for it.
func TestNamedChip(t *testing.T) {
	w := newWorld(t, func(c *authority.Config) { c.Roots.Simulators = nil })
	n := w.node("edge-1", false)
	n.Token = nil
	digest := sha256.Sum256(n.EK.SPKI)
	w.under("version = 2\n[[rule]]\nname = \"this one\"\ndecide = \"auto\"\nsimulators = true\nmatch.ek = [\"" + strings.ToUpper(hex.EncodeToString(digest[:])) + "\"]\n")
	if nc := w.enrol(n); nc.Assurance.Level != chancery.AssuranceEK {
		t.Errorf("assurance %s", nc.Assurance.Level)
	}
	r, err := w.Authority.Evidence(t.Context(), "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	if report := r.Verify(evidence.Trust{Pointer: w.Pointer}); !report.Holds {
		t.Errorf("%+v", report.Links)
	}
}

// Every record that is kept holds, by nothing but the pointer record and the
// makers.
func TestRecords(t *testing.T) {
	w := newWorld(t)
	for i, n := range []*appliancetest.Node{w.node("edge-1", true), w.other("edge-2")} {
		nc := w.enrol(n)
		n.Token = nil
		answer := w.connectOver(renewal(nc, w.Pointer.FleetID()), n)
		w.issued(w.submit(answer, n.Submission(answer)))
		for index := range uint64(2) {
			r, err := w.Authority.RecordOf(t.Context(), uint64(2*i)+index)
			if err != nil {
				t.Fatal(err)
			}
			if report := r.Verify(evidence.Trust{Pointer: w.Pointer, Roots: w.Config.Roots}); !report.Holds || r.Renewal != (index == 1) {
				t.Errorf("certificate %d of %s: renewal %t, %+v", index, n.Name, r.Renewal, report.Links)
			}
		}
	}
}

package authority_test

import (
	"errors"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/tpm"
)

// challenge asks for a reseal challenge.
func (w *world) challenge(id chancery.NodeID) []byte {
	w.t.Helper()
	answer, err := w.Authority.Reseal(w.t.Context(), &chancery.ResealRequest{NodeID: id.String()})
	if err != nil || answer.Status != "challenge" || len(answer.Challenge) != 32 || answer.Approval != nil {
		w.t.Fatalf("%+v, %v", answer, err)
	}
	return answer.Challenge
}

// wish is a request to have the present state of the node's chip approved.
func (w *world) wish(n *appliancetest.Node, challenge []byte) *chancery.ResealRequest {
	w.t.Helper()
	q := chancery.ResealQualifying(w.Pointer.FleetID(), n.ID(), [32]byte(challenge))
	return &chancery.ResealRequest{NodeID: n.ID().String(), Challenge: challenge, Quote: n.Quote(n.File.Seal.PCRs, q), Epoch: new(n.Epoch(q))}
}

func (w *world) reseal(n *appliancetest.Node) *chancery.ResealAnswer {
	w.t.Helper()
	answer, err := w.Authority.Reseal(w.t.Context(), w.wish(n, w.challenge(n.ID())))
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func (w *world) extend(n *appliancetest.Node) {
	w.t.Helper()
	if err := n.Chip.ExtendPCR(7, [32]byte{1}); err != nil {
		w.t.Fatal(err)
	}
}

// wantSealed and wantOpen say whether N:SK signs.
func wantSealed(t *testing.T, n *appliancetest.Node) {
	t.Helper()
	_, err := n.Key.Sign(t.Context(), chancery.FleetID{}, n.PoP([32]byte{}))
	if _, sealed := errors.AsType[*tpm.SealedError](err); !sealed {
		t.Errorf("N:SK in another state: %v, want a *SealedError", err)
	}
}

// approve gives an approval to the node's key.
func approve(t *testing.T, n *appliancetest.Node, a *chancery.ApprovalRecord) {
	t.Helper()
	values := tpm.PCRValues{}
	for pcr, v := range a.Values {
		values[pcr] = [32]byte(v)
	}
	if err := n.File.AddApproval(a.Epoch, values, a.Signature); err != nil {
		t.Fatal(err)
	}
	n.Use(n.File)
}

// The machine boots into another state, N:SK does not sign, an operator
// approves the state, and N:SK signs again (docs/protocol.md section 4.9).
// CA:SK has no part in it.
func TestReseal(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	w.extend(n)
	wantSealed(t, n)
	w.WantSpent(0, func() {
		for range 2 { // asking again is the same wish
			if a := w.reseal(n); a.Status != "pending" || a.Approval != nil {
				t.Errorf("%+v", a)
			}
			w.Clock.Advance(time.Minute)
		}
		wish, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
		if err != nil || wish.NodeID != n.ID() || wish.Signature == nil {
			t.Fatalf("%+v, %v", wish, err)
		}
		_, err = w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
		wantRefusal(t, "a second approval", err, "approved")
		a := w.reseal(n)
		if a.Status != "approved" {
			t.Fatalf("%+v", a)
		}
		approve(t, n, a.Approval)
		n.Sign(n.PoP([32]byte{}))
	})

	// Another state takes another approval, and the last one is gone.
	w.extend(n)
	wantSealed(t, n)
	if a := w.reseal(n); a.Status != "pending" {
		t.Errorf("a state that nobody approved: %+v", a)
	}
	if _, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	approve(t, n, w.reseal(n).Approval)
	n.Sign(n.PoP([32]byte{}))
	if got := w.Approval.Total(); got != 2 {
		t.Errorf("the approval key signed %d times, want 2", got)
	}
}

// What a node asks for must be the state of its own chip, now.
func TestResealRefuses(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	other := appliancetest.NewNode(t, w.Coordinator, w.other("edge-2").Chip, "edge-2", true)
	w.enrol(other)
	plain := w.other("edge-3")
	w.enrol(plain)
	w.extend(n)
	fresh := w.challenge(n.ID())
	qualifying := chancery.ResealQualifying(w.Pointer.FleetID(), n.ID(), [32]byte(fresh))
	foreign := w.challenge(other.ID())

	for _, test := range []struct {
		what, code string
		change     func(*chancery.ResealRequest)
	}{
		{"no node", "malformed", func(r *chancery.ResealRequest) { r.NodeID = "" }},
		{"half a node", "malformed", func(r *chancery.ResealRequest) { r.NodeID = r.NodeID[:32] }},
		{"no challenge", "challenge", func(r *chancery.ResealRequest) { r.Challenge = nil }},
		{"a challenge of one's own", "challenge", func(r *chancery.ResealRequest) { *r = *w.wish(n, make([]byte, 32)) }},
		{"another node's challenge", "challenge", func(r *chancery.ResealRequest) { *r = *w.wish(n, foreign) }},
		{"a quote by another chip", "evidence-quote", func(r *chancery.ResealRequest) { r.Quote = other.Quote(tpm.DefaultPCRs, qualifying) }},
		{"a quote of an enrolment", "evidence-quote", func(r *chancery.ResealRequest) { r.Quote = n.Quote(tpm.DefaultPCRs, [32]byte{1}) }},
		{"other values than were quoted", "evidence-quote", func(r *chancery.ResealRequest) { r.Quote.Values = map[int][]byte{7: make([]byte, 32)} }},
		{"no epoch", "malformed", func(r *chancery.ResealRequest) { r.Epoch = nil }},
		{"the epoch of another chip", "evidence-epoch", func(r *chancery.ResealRequest) { r.Epoch = new(other.Epoch(qualifying)) }},
		{"a quote for the epoch", "evidence-epoch", func(r *chancery.ResealRequest) { r.Epoch = &r.Quote.Attestation }},
		{"PCRs that the key is not sealed to", "malformed", func(r *chancery.ResealRequest) { r.Quote = n.Quote([]int{0, 7}, qualifying) }},
		{"none of the PCRs that the key is sealed to", "malformed", func(r *chancery.ResealRequest) { r.Quote = n.Quote([]int{0}, qualifying) }},
		{"no PCRs", "malformed", func(r *chancery.ResealRequest) { r.Quote = n.Quote([]int{}, qualifying) }},
		{"half a PCR", "malformed", func(r *chancery.ResealRequest) { r.Quote.Values = map[int][]byte{7: {1}} }},
	} {
		r := w.wish(n, fresh)
		test.change(r)
		_, err := w.Authority.Reseal(t.Context(), r)
		wantRefusal(t, test.what, err, test.code)
		_, err = w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
		wantRefusal(t, test.what+", and approved all the same", err, "not-found")
	}
	unknown := &chancery.ResealRequest{NodeID: chancery.NodeID{9}.String(), Challenge: w.challenge(chancery.NodeID{9}), Quote: n.Quote(tpm.DefaultPCRs, qualifying)}
	_, err := w.Authority.Reseal(t.Context(), unknown)
	wantRefusal(t, "an unknown node", err, "not-found")
	ofPlain := &chancery.ResealRequest{NodeID: plain.ID().String(), Challenge: w.challenge(plain.ID()), Quote: n.Quote(tpm.DefaultPCRs, qualifying)}
	_, err = w.Authority.Reseal(t.Context(), ofPlain)
	wantRefusal(t, "a node whose key is not sealed", err, "not-sealed")
	for name, code := range map[string]string{"edge-3": "not-sealed", "edge-9": "not-found"} {
		_, err := w.Authority.ApproveReseal(t.Context(), "op", name)
		wantRefusal(t, "approval of "+name, err, code)
	}

	// A challenge is good for five minutes at least and ten at most, and only
	// where it was made.
	r := w.wish(n, fresh)
	w.Clock.Advance(5 * time.Minute)
	if _, err := w.Authority.Reseal(t.Context(), r); err != nil {
		t.Errorf("after five minutes: %v", err)
	}
	_, err = w.With().Reseal(t.Context(), r)
	wantRefusal(t, "at another coordinator", err, "challenge")
	w.Clock.Advance(5 * time.Minute)
	_, err = w.Authority.Reseal(t.Context(), r)
	wantRefusal(t, "after ten minutes", err, "challenge")

	w.revoke("edge-1")
	_, err = w.Authority.Reseal(t.Context(), w.wish(n, w.challenge(n.ID())))
	wantRefusal(t, "a revoked node", err, "revoked")
	_, err = w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
	wantRefusal(t, "approval of a revoked node", err, "revoked")
	if w.Approval.Total() != 0 {
		t.Error("the approval key signed something")
	}
}

// The node asks for another state while the approval of its first wish is being
// signed: the signature is not given to the second wish.
func TestResealChangesMeanwhile(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	w.extend(n)
	w.reseal(n)
	release := w.Approval.Hold()
	failed := make(chan error)
	go func() {
		_, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
		failed <- err
	}()
	w.eventually("the approval is being signed", func() bool { return len(w.Approval.Asked()) > 0 })
	w.extend(n)
	w.reseal(n) // in the same second
	release()
	wantRefusal(t, "the approval of a wish that is gone", <-failed, "not-found")
	if a := w.reseal(n); a.Status != "pending" {
		t.Errorf("the state that nobody approved: %+v", a)
	}
	if _, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	approve(t, n, w.reseal(n).Approval)
	n.Sign(n.PoP([32]byte{}))
}

// A token that fails is the coordinator's trouble, not the node's fault.
func TestApprovalKeyFails(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	w.enrol(n)
	w.extend(n)
	w.reseal(n)
	w.Approval.Refuse(1)
	_, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1")
	if _, refusal := errors.AsType[*authority.Refusal](err); refusal || !errors.Is(err, appliancetest.ErrToken) {
		t.Errorf("%v, want %v", err, appliancetest.ErrToken)
	}
	if a := w.reseal(n); a.Status != "pending" {
		t.Errorf("%+v", a)
	}
	if _, err := w.Authority.ApproveReseal(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
}

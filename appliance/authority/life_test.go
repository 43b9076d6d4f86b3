package authority_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A renewal keeps the key, the node and its roles, and gives a certificate
// with a place of its own. It takes no token.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	first := w.enrol(n)
	fleet := w.Pointer.FleetID()
	w.Clock.Advance(appliancetest.MaxLife / 2)
	ch := renewal(first, fleet)
	n.Token = nil
	var second *chancery.Certificate
	w.WantSpent(2, func() {
		answer := w.connectOver(ch, n)
		if i := w.intakeRow(answer); !i.Renewal || i.Token != nil {
			t.Errorf("the intake of a renewal is %+v", i)
		}
		second = w.issued(w.submit(answer, n.Submission(answer)))
	})
	w.Check()
	if second.NodeID(fleet) != first.NodeID(fleet) || second.Serial != serial(t, 1) || !second.NotAfter.After(first.NotAfter) || !slices.Equal(second.Roles, first.Roles) {
		t.Errorf("renewed: %s %s until %s, roles %q", second.Name, second.Serial, second.NotAfter, second.Roles)
	}
	w.publish()
	if err := errors.Join(w.verify(first), w.verify(second)); err != nil {
		t.Error(err)
	}
	if row := w.nodeRow(n.ID()); !row.Enrolled.Equal(first.NotBefore) {
		t.Errorf("the node is enrolled since its renewal, %s", row.Enrolled)
	}

	// A connection under an N:C is good for the node that it names.
	other := w.other("edge-2")
	foreign := w.enrol(other)
	stranger := w.node("edge-1", false)
	stranger.Token, other.Token = nil, nil
	renamed := *n
	renamed.Name = "edge-3"
	otherChip := *n
	otherChip.EK = other.EK
	unenrolled := renewal(first, fleet)
	unenrolled.Peer.NodeID = stranger.ID()
	for _, test := range []struct {
		what, code string
		ch         authority.Channel
		n          *appliancetest.Node
	}{
		{"another key", "not-yours", ch, stranger},
		{"another name", "not-yours", ch, &renamed},
		{"another node's connection", "not-yours", renewal(foreign, fleet), n},
		{"another chip", "other-chip", ch, &otherChip},
		{"a node that is not enrolled", "no-token", unenrolled, stranger},
	} {
		w.wantShut(test.what, w.Authority, test.ch, test.n.Connection(test.ch.Exporter), test.code)
	}
}

// A sealed key is renewed after approvals have moved the epoch past the one
// that it was sealed at; a key that claims an epoch that is still to come is
// not.
func TestRenewalAfterEpoch(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", true)
	first := w.enrol(n)
	n.RaiseEpoch()
	n.Token = nil
	answer := w.connectOver(renewal(first, w.Pointer.FleetID()), n)
	if nc := w.issued(w.submit(answer, n.Submission(answer))); nc.Serial != serial(t, 1) {
		t.Errorf("renewed as %s", nc.Serial)
	}
	w.Check()
}

// A node that was away until its certificate had expired comes back under its
// key, name and chip, within the window.
func TestReattest(t *testing.T) {
	const window = 24 * time.Hour
	w := newWorld(t, func(c *authority.Config) { c.ReattestWindow = window })
	n := w.node("edge-1", true)
	w.enrol(n)
	n.Token = nil
	renamed := *n
	renamed.Name = "edge-2"
	stranger := w.node("edge-1", false)
	stranger.Token = nil
	w.Clock.Advance(appliancetest.MaxLife + window)
	w.wantShut("another name", w.Authority, channel, renamed.Connection(channel.Exporter), "other-chip")
	w.wantShut("another key", w.Authority, channel, stranger.Connection(channel.Exporter), "no-token")
	w.wantShut("the window of another coordinator", w.With(func(c *authority.Config) { c.ReattestWindow = window - time.Second }), channel, n.Connection(channel.Exporter), "away-too-long")
	answer := w.connect(n) // the last second of the window
	w.wantRefused("no evidence", answer, &chancery.Submission{NS: n.NS(n.CANS(answer).Hash()).Marshal()}, "evidence-activation")
	nc := w.issued(w.submit(answer, n.Submission(answer)))
	w.publish()
	if err := w.verify(nc); err != nil || nc.Name != "edge-1" || !slices.Equal(nc.Roles, []string{"web"}) {
		t.Errorf("%s with roles %q: %v", nc.Name, nc.Roles, err)
	}
	w.Check()
	w.Clock.Advance(appliancetest.MaxLife + window + time.Second)
	w.wantShut("after the window", w.Authority, channel, n.Connection(channel.Exporter), "away-too-long")
	w.Clock.Advance(-2 * time.Second)
	w.revoke("edge-1")
	w.wantShut("after its revocation", w.Authority, channel, n.Connection(channel.Exporter), "revoked")
}

// Revocation is final: for the node, for its name's certificate, and for the
// chip under any other name and key.
func TestRevocation(t *testing.T) {
	w := newWorld(t)
	n, other := w.node("edge-1", false), w.other("edge-2")
	first, kept := w.enrol(n), w.enrol(other)
	fleet := w.Pointer.FleetID()
	ch := renewal(first, fleet)
	token := n.Token
	n.Token = nil
	answer := w.connectOver(ch, n)
	second := w.issued(w.submit(answer, n.Submission(answer)))
	open := w.connectOver(ch, n)
	sub := n.Submission(open)

	number := w.Ledger.CRL().Head().Number
	w.WantSpent(1, func() {
		out, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "stolen")
		if err != nil || out.Certificates != 2 || out.Nodes != 1 || out.CRL != number+1 {
			t.Errorf("revoked: %+v, %v", out, err)
		}
	})
	w.Check()
	if got := w.Ledger.CRL().Head().Number; got != number+1 {
		t.Errorf("list %d after list %d", got, number)
	}
	for _, nc := range []*chancery.Certificate{first, second} {
		if err := w.verify(nc); !errors.Is(err, chancery.ErrRevoked) {
			t.Errorf("certificate %s: %v", nc.Serial, err)
		}
	}
	if err := w.verify(kept); err != nil {
		t.Errorf("another node: %v", err)
	}
	w.WantSpent(0, func() {
		if v := w.submit(open, sub); v.Status != chancery.VerdictRefused || v.NC != nil {
			t.Errorf("a renewal that was under way: %+v", v)
		}
		_, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "again")
		wantRefusal(t, "a second revocation", err, "revoked")
		_, err = w.Authority.RevokeNode(t.Context(), "op", "edge-9", chancery.ReasonUnspecified, "")
		wantRefusal(t, "an unknown node", err, "not-found")
	})

	w.wantShut("a renewal", w.Authority, ch, n.Connection(ch.Exporter), "revoked")
	n.Token = token
	w.wantShut("the used token", w.Authority, channel, n.Connection(channel.Exporter), "revoked")
	w.wantShut("a new token", w.Authority, channel, w.again(n), "revoked")
	w.wantShut("a new key and name in the same chip", w.Authority, channel, w.again(w.node("edge-5", false)), "revoked")

	// The name is free for another chip.
	heir := w.other("edge-1")
	w.enrol(heir)
	w.revoke("edge-1")
	if w.nodeRow(heir.ID()).State != store.NodeRevoked {
		t.Error("the name's first node was revoked again in place of its second")
	}
	w.Check()
}

// A revocation that comes before the entry is appended still keeps the
// certificate back. The submission has its verdict from the ledger, where it is
// in line, or is about to be, when the revocation comes.
func TestRevokedBeforeAppend(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	nc := w.enrol(n)
	n.Token = nil
	answer := w.connectOver(renewal(nc, w.Pointer.FleetID()), n)
	sub := n.Submission(answer)
	release := w.occupy()
	defer release()
	var all sync.WaitGroup
	all.Go(func() {
		if v := w.submit(answer, sub); v.Status != chancery.VerdictRefused || v.NC != nil {
			t.Errorf("verdict %+v", v)
		}
	})
	all.Go(func() { w.revoke("edge-1") })
	w.eventually("the node is revoked", func() bool { return w.nodeRow(n.ID()).State == store.NodeRevoked })
	release()
	all.Wait()
	if w.Ledger.Size() != 1 || w.CA.Signed(appliancetest.Subtree) != 1 {
		t.Errorf("%d entries, %d subtrees signed", w.Ledger.Size(), w.CA.Signed(appliancetest.Subtree))
	}
	if row := w.intakeRow(answer); row.State != store.IntakeRefused || row.Reason != "node revoked" {
		t.Errorf("the intake is %s: %q", row.State, row.Reason)
	}
	w.Check()
}

// Who gives up while the token is busy applies anew, and finds neither his join
// token used nor a certificate that nobody fetched.
func TestGivenUpBeforeAppend(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	release := w.occupy()
	defer release()
	ctx, giveUp := context.WithCancel(t.Context())
	submitted := make(chan error, 1)
	go func() {
		_, err := w.Authority.Submit(ctx, w.intake(answer), sub)
		submitted <- err
	}()
	time.Sleep(200 * time.Millisecond) // or it gives up before it is in line, and the test says less
	giveUp()
	if err := <-submitted; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	release()
	w.enrol(n)
	if row := w.intakeRow(answer); row.State != store.IntakeOpen || w.Ledger.Size() != 1 {
		t.Errorf("the intake that was given up is %s; the log has %d entries", row.State, w.Ledger.Size())
	}
	w.Check()
}

// An operator decides where the token says so. The use is taken by the
// submission, and the verdict may be asked for meanwhile.
func TestApproval(t *testing.T) {
	w := newWorld(t)
	approve := func(r *authority.TokenRequest) { r.Approve = true }
	n := w.node("edge-1", false)
	n.Token = w.Token("edge-*", approve)
	answer := w.connect(n)
	sub := n.Submission(answer)
	wantPending := func(v *chancery.Verdict, err error) {
		t.Helper()
		if err != nil || v.Status != chancery.VerdictPending || v.NC != nil {
			t.Errorf("verdict %+v, %v", v, err)
		}
	}
	w.WantSpent(0, func() {
		wantPending(w.submit(answer, sub), nil)
		wantPending(w.submit(answer, sub), nil)
		wantPending(w.Authority.Verdict(t.Context(), w.intake(answer)))
		w.wantShut("the token's second use", w.Authority, channel, n.Connection(channel.Exporter), "token-used")
		_, _, err := w.Authority.Approve(t.Context(), "op", "edge-2")
		wantRefusal(t, "a name that nobody waits under", err, "not-found")
	})
	w.Clock.Advance(3 * chancery.MaxCANSLife) // people take their time
	var nc *chancery.Certificate
	w.WantSpent(1, func() {
		v, _, err := w.Authority.Approve(t.Context(), "op", "edge-1")
		if err != nil {
			t.Fatal(err)
		}
		nc = w.issued(v)
	})
	if v := w.submit(answer, sub); !bytes.Equal(w.issued(v).Raw(), nc.Raw()) {
		t.Error("the node gets another certificate than was approved")
	}
	if err := w.verify(nc); err != nil {
		t.Error(err)
	}
	_, _, err := w.Authority.Approve(t.Context(), "op", "edge-1")
	wantRefusal(t, "a second approval", err, "not-found")
	wantRefusal(t, "a refusal after the approval", w.Authority.Refuse(t.Context(), "op", "edge-1", ""), "not-found")
	w.Check()

	// Refused.
	b := w.other("edge-2")
	b.Token = w.Token("edge-*", approve)
	answer = w.connect(b)
	sub = b.Submission(answer)
	wantPending(w.submit(answer, sub), nil)
	w.WantSpent(0, func() {
		if err := w.Authority.Refuse(t.Context(), "op", "edge-2", "not in this house"); err != nil {
			t.Fatal(err)
		}
		v := w.submit(answer, sub)
		if v.Status != chancery.VerdictRefused || v.Reason != "not in this house" {
			t.Errorf("verdict %+v", v)
		}
		_, _, err := w.Authority.Approve(t.Context(), "op", "edge-2")
		wantRefusal(t, "approval of one that was refused", err, "not-found")
	})

	// Two who say that they are the same one: the operator cannot tell them
	// apart by the name.
	c := w.other("edge-2")
	several := map[*appliancetest.Node]*chancery.Answer{}
	for _, n := range []*appliancetest.Node{b, c} {
		n.Token = w.Token("edge-*", approve)
		several[n] = w.connect(n)
		wantPending(w.submit(several[n], n.Submission(several[n])), nil)
	}
	_, _, err = w.Authority.Approve(t.Context(), "op", "edge-2")
	wantRefusal(t, "two of a name", err, "several")
	if err := w.Authority.Refuse(t.Context(), "op", "edge-2", "one at a time"); err != nil {
		t.Fatal(err)
	}
	for _, answer := range several {
		if v, err := w.Authority.Verdict(t.Context(), w.intake(answer)); err != nil || v.Status != chancery.VerdictRefused {
			t.Errorf("one of two: %+v, %v", v, err)
		}
	}
	w.Check()
}

// What was approved is looked at once more when it is appended.
func TestApprovedTooLate(t *testing.T) {
	w := newWorld(t)
	approve := func(r *authority.TokenRequest) { r.Approve = true }
	waits := w.node("edge-2", false)
	waits.Token = w.Token("edge-*", approve)
	answer := w.connect(waits)
	w.submit(answer, waits.Submission(answer))
	// Another key of the chip enrols, and is revoked.
	w.enrol(w.node("edge-1", false))
	w.revoke("edge-1")
	w.WantSpent(0, func() {
		v, _, err := w.Authority.Approve(t.Context(), "op", "edge-2")
		if err != nil || v.Status != chancery.VerdictRefused || v.Reason == "" {
			t.Errorf("verdict %+v, %v", v, err)
		}
	})
	if w.Ledger.Size() != 1 {
		t.Errorf("%d entries", w.Ledger.Size())
	}
	w.Check()
}

// One certificate of a node may be revoked; the node goes on.
func TestRevokeCertificate(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	first := w.enrol(n)
	revoke := func(serial merkle.Serial) error {
		_, err := w.Authority.RevokeCertificate(t.Context(), "op", serial, chancery.ReasonUnspecified, "lost")
		return err
	}
	if err := revoke(first.Serial); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(first); !errors.Is(err, chancery.ErrRevoked) {
		t.Error(err)
	}
	w.WantSpent(0, func() {
		wantRefusal(t, "again", revoke(first.Serial), "revoked")
		wantRefusal(t, "one that was never issued", revoke(serial(t, 1)), "not-found")
		wantRefusal(t, "one of another log", revoke(first.Serial+1<<48), "not-found")
	})
	w.issued(w.submitAgain(n))
	w.Check()
}

// submitAgain enrols a node that is enrolled already, under a new token.
func (w *world) submitAgain(n *appliancetest.Node) *chancery.Verdict {
	w.t.Helper()
	answer, err := w.Authority.Connect(w.t.Context(), channel, w.again(n))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.submit(answer, n.Submission(answer))
}

// Where a node is, is told by the node and forgotten with it.
func TestAddress(t *testing.T) {
	w := newWorld(t)
	nc := w.enrol(w.node("edge-1", false))
	peer := renewal(nc, w.Pointer.FleetID()).Peer
	_, err := w.Authority.Address(t.Context(), "edge-1")
	wantRefusal(t, "before it was told", err, "not-found")
	for _, bad := range []string{"", "192.0.2.1", "192.0.2.1:7443\n", strings.Repeat("x", 255) + ":1"} {
		wantRefusal(t, "an address", w.Authority.SetAddress(t.Context(), peer, bad), "malformed")
	}
	w.Clock.Advance(time.Minute)
	if err := w.Authority.SetAddress(t.Context(), peer, "192.0.2.1:7443"); err != nil {
		t.Fatal(err)
	}
	a, err := w.Authority.Address(t.Context(), "edge-1")
	if err != nil || a != (chancery.Address{Name: "edge-1", Address: "192.0.2.1:7443", Seen: w.Clock.Now()}) {
		t.Errorf("%+v, %v", a, err)
	}
	w.revoke("edge-1")
	_, err = w.Authority.Address(t.Context(), "edge-1")
	wantRefusal(t, "of a revoked node", err, "not-found")
	wantRefusal(t, "by a revoked node", w.Authority.SetAddress(t.Context(), peer, "192.0.2.1:7443"), "not-found")
}

package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/merkle"
)

// An operator's day: a token, a node that waits, its approval, a look at it,
// its revocation.
func TestOperator(t *testing.T) {
	w := newWorld(t)
	o := w.operator()
	if s := ok[api.Status](o, "GET", "/v1/status", nil); s.Fleet != w.Pointer.FleetID().Pin() || s.TrustDomain != appliancetest.TrustDomain || s.Tokens[0].Label != "test" ||
		!s.Tokens[0].Simulator || s.Nodes+s.Revoked+s.Pending+s.Reseals != 0 || s.LogSize != 0 || s.CRL.Number != 1 || s.Pointer.Seq != 1 || len(s.Problems) != 0 {
		t.Errorf("a new coordinator: %+v", s)
	}
	if list := ok[[]api.NodeInfo](o, "GET", "/v1/nodes", nil); list == nil || len(list) != 0 {
		t.Errorf("no nodes: %v", list)
	}

	made := ok[api.TokenOutput](o, "POST", "/v1/tokens", api.TokenInput{Names: "edge-*", Roles: []string{"web"}, Uses: 1, Seconds: 3600, Approve: true})
	token, err := chancery.ParseToken(made.Token)
	if err != nil || made.Pin != w.Pointer.FleetID().Pin() || !made.Expires.Equal(w.Clock.Now().Add(time.Hour)) {
		t.Fatalf("%+v, %v", made, err)
	}
	n := w.chipNode("edge-1", true)
	n.Token = &token
	c := w.dial(nil)
	answer := ok[chancery.Answer](c, "POST", "/v1/enroll", n.Connection(c.exporter()))
	path := "/v1/enroll/" + answer.Intake
	if v := ok[chancery.Verdict](c, "POST", path, n.Submission(&answer)); v.Status != chancery.VerdictPending {
		t.Errorf("%+v", v)
	}
	waits := ok[[]api.NodeInfo](o, "GET", "/v1/nodes/edge-1", nil)
	if len(waits) != 1 || waits[0].State != "pending" || waits[0].NodeID != n.ID().String() || !waits[0].Sealed || !waits[0].Simulator || waits[0].Assurance != "ek-verified" {
		t.Errorf("%+v", waits)
	}
	if s := ok[api.Status](o, "GET", "/v1/status", nil); s.Pending != 1 {
		t.Errorf("%d pending", s.Pending)
	}
	nc := w.issued(ok[chancery.Verdict](o, "POST", "/v1/nodes/edge-1/approve", nil))
	if v := ok[chancery.Verdict](c, "GET", path, nil); !bytes.Equal(v.NC, nc.Raw()) {
		t.Error("the node gets another certificate than the operator saw")
	}
	o.call("POST", "/v1/nodes/edge-1/approve", nil).wantProblem(t, "approved twice", http.StatusNotFound, "not-found")

	live := ok[[]api.NodeInfo](o, "GET", "/v1/nodes/edge-1", nil)
	if len(live) != 1 || live[0].State != "active" || !slices.Equal(live[0].Serials, []string{"1:0"}) || !slices.Equal(live[0].Roles, []string{"web"}) || !live[0].Revoked.IsZero() {
		t.Errorf("%+v", live)
	}
	if list := ok[[]api.NodeInfo](o, "GET", "/v1/nodes", nil); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	shown := ok[api.CertificateInfo](o, "GET", "/v1/certificates/1:0", nil)
	if shown.Name != "edge-1" || shown.Serial != "1:0" || !bytes.Equal(shown.DER, nc.Raw()) || !shown.NotAfter.Equal(nc.NotAfter) {
		t.Errorf("%+v", shown)
	}

	out := ok[api.RevokeOutput](o, "POST", "/v1/nodes/edge-1/revoke", api.RevokeInput{Reason: "stolen"})
	if out.Certificates != 1 || out.CRL != 2 {
		t.Errorf("%+v", out)
	}
	gone := ok[[]api.NodeInfo](o, "GET", "/v1/nodes/edge-1", nil)
	if len(gone) != 1 || gone[0].State != "revoked" || gone[0].Reason != "stolen" || !gone[0].Revoked.Equal(w.Clock.Now()) {
		t.Errorf("%+v", gone)
	}
	if s := ok[api.Status](o, "GET", "/v1/status", nil); s.Nodes != 0 || s.Revoked != 1 || s.CRL.Revoked != 1 || s.CRL.Number != 2 {
		t.Errorf("%+v", s)
	}
	o.call("POST", "/v1/nodes/edge-1/revoke", api.RevokeInput{}).wantProblem(t, "revoked twice", http.StatusConflict, "revoked")
	w.Check()

	// One who is turned down.
	b := w.chipNode("edge-2", false)
	b.Token = w.Token("edge-2", approving)
	answer = ok[chancery.Answer](c, "POST", "/v1/enroll", b.Connection(c.exporter()))
	ok[chancery.Verdict](c, "POST", "/v1/enroll/"+answer.Intake, b.Submission(&answer))
	o.done("POST", "/v1/nodes/edge-2/refuse", api.RevokeInput{Reason: "who is that?"})
	if v := ok[chancery.Verdict](c, "GET", "/v1/enroll/"+answer.Intake, nil); v.Status != chancery.VerdictRefused || v.Reason != "who is that?" {
		t.Errorf("%+v", v)
	}
}

func TestOperatorProblems(t *testing.T) {
	w := newWorld(t)
	o := w.operator()
	for _, test := range []struct {
		method, path string
		message      any
		status       int
		code         string
	}{
		{"GET", "/v1/nodes/nobody", nil, 404, "not-found"},
		{"POST", "/v1/nodes/nobody/approve", nil, 404, "not-found"},
		{"POST", "/v1/nodes/nobody/refuse", api.RevokeInput{}, 404, "not-found"},
		{"POST", "/v1/nodes/nobody/revoke", api.RevokeInput{}, 404, "not-found"},
		{"POST", "/v1/nodes/nobody/revoke", api.RevokeInput{Reason: strings.Repeat("x", 201)}, 422, "invalid"},
		{"POST", "/v1/nodes/nobody/revoke", struct{}{}, 422, "invalid"},
		{"GET", "/v1/certificates/1:0", nil, 404, "not-found"},
		{"GET", "/v1/certificates/2:0", nil, 404, "not-found"},
		{"GET", "/v1/certificates/0:0", nil, 400, "bad-serial"},
		{"GET", "/v1/certificates/x", nil, 400, "bad-serial"},
		{"POST", "/v1/certificates/1:0/revoke", api.RevokeInput{}, 404, "not-found"},
		{"POST", "/v1/certificates/x/revoke", api.RevokeInput{}, 400, "bad-serial"},
		{"POST", "/v1/reseals/nobody/approve", nil, 404, "not-found"},
		{"POST", "/v1/tokens", api.TokenInput{Names: "[", Uses: 1, Seconds: 1}, 400, "bad-glob"},
		{"POST", "/v1/tokens", api.TokenInput{Names: "*", Seconds: 1}, 400, "bad-token"},
		{"POST", "/v1/tokens", api.TokenInput{Names: "*", Uses: 1, Seconds: -1}, 400, "bad-token"},
		{"POST", "/v1/tokens", map[string]any{"names": "*", "uses": 1, "seconds": 1, "approve": false, "surprise": 1}, 422, "invalid"},
		{"GET", "/v1/log?from=x", nil, 422, "invalid"},
	} {
		p := o.call(test.method, test.path, test.message).wantProblem(t, test.method+" "+test.path, test.status, test.code)
		if (test.code == "bad-serial" || test.code == "bad-glob") && p.Hint == "" {
			t.Errorf("%s: no hint", test.path)
		}
	}
	// What the socket says when the coordinator is in trouble.
	if err := w.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/status", "/v1/nodes", "/v1/nodes/x", "/v1/certificates", "/v1/certificates/1:0", "/v1/reseals", "/v1/log"} {
		o.call("GET", path, nil).wantProblem(t, path, http.StatusInternalServerError, "internal")
	}
	if !w.log.has("database is closed") {
		t.Error("the log does not say why")
	}
}

// Certificates and the log, page by page. What the pages hold is enough to
// verify the log again.
func TestLogPages(t *testing.T) {
	w := newWorld(t)
	o := w.operator()
	const nodes = 3
	n := w.chipNode("edge-1", false)
	for range nodes {
		w.enrol(n)
		n.Token = w.Token("edge-1")
		if err := w.Ledger.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Clock.Advance(time.Second)
	}
	ok[api.RevokeOutput](o, "POST", "/v1/certificates/1:1/revoke", api.RevokeInput{Reason: "lost"})
	o.call("POST", "/v1/certificates/1:1/revoke", api.RevokeInput{}).wantProblem(t, "revoked twice", http.StatusConflict, "revoked")
	w.Check()

	list := ok[[]api.CertificateInfo](o, "GET", "/v1/certificates", nil)
	if len(list) != nodes || list[1].Reason != "lost" || list[1].Revoked.IsZero() || !list[0].Revoked.IsZero() || list[2].Serial != "1:2" || list[0].DER != nil {
		t.Errorf("%+v", list)
	}
	if rest := ok[[]api.CertificateInfo](o, "GET", "/v1/certificates?from=2", nil); len(rest) != 1 || rest[0].Serial != "1:2" {
		t.Errorf("%+v", rest)
	}
	if c := ok[api.CertificateInfo](o, "GET", "/v1/certificates/1:1", nil); c.Reason != "lost" || c.DER == nil {
		t.Errorf("%+v", c)
	}

	page := ok[api.LogPage](o, "GET", "/v1/log", nil)
	if page.Size != nodes || len(page.Entries) != nodes || len(page.Subtrees) != nodes || page.Checkpoint == nil || page.Checkpoint.Size != nodes {
		t.Fatalf("%+v", page)
	}
	var tree merkle.Tree
	for _, e := range page.Entries {
		tree.Append(merkle.HashLeaf(e.Entry))
	}
	key := w.Pointer.Current()
	if root := tree.Root(); !bytes.Equal(root[:], page.Checkpoint.Root) {
		t.Error("the checkpoint is of another log")
	}
	statement := chancery.NewCheckpoint(key.ID, page.Log, page.Checkpoint.Size, merkle.Hash(page.Checkpoint.Root), page.Checkpoint.At)
	if err := key.Key.Verify(w.Pointer.FleetID(), statement, page.Checkpoint.Signature); err != nil {
		t.Error(err)
	}
	for _, s := range page.Subtrees {
		at := merkle.Subtree{Start: s.Start, End: s.End}
		root, err := tree.Subtree(at)
		if err != nil || !bytes.Equal(root[:], s.Root) {
			t.Errorf("subtree %s: %v", at, err)
		}
		if err := key.Key.Verify(w.Pointer.FleetID(), chancery.NewSubtree(key.ID, page.Log, at, root), s.Signature); err != nil {
			t.Error(err)
		}
	}
	if rest := ok[api.LogPage](o, "GET", "/v1/log?from=3", nil); rest.Size != nodes || len(rest.Entries) != 0 || len(rest.Subtrees) != 0 {
		t.Errorf("%+v", rest)
	}
}

// The list and the pointer record as operators get them.
func TestOperatorArtefacts(t *testing.T) {
	w := newWorld(t)
	o := w.operator()
	o.done("POST", "/v1/crl", nil)
	r := o.call("GET", "/v1/crl", nil)
	crl, err := chancery.OpenCRL(w.Pointer, nil, r.body, w.Clock.Now())
	if err != nil || crl.Head().Number != 2 || r.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%v, %v", r.header, err)
	}
	if r := o.call("GET", "/v1/pointer", nil); !bytes.Equal(r.body, w.Pointer.Marshal()) {
		t.Errorf("pointer record: %d", r.status)
	}

	// What needs attention is said before anybody is hurt, or at once.
	for _, test := range []struct {
		later time.Duration
		says  []string
	}{
		{appliancetest.CRLLife, nil},
		{time.Second, []string{"CRL"}},
		{340 * 24 * time.Hour, []string{"CRL", "pointer record"}},
	} {
		w.Clock.Advance(test.later)
		s := ok[api.Status](o, "GET", "/v1/status", nil)
		if len(s.Problems) != len(test.says) {
			t.Errorf("after %v: %q", test.later, s.Problems)
			continue
		}
		for i, says := range test.says {
			if !strings.Contains(s.Problems[i], says) {
				t.Errorf("after %v: %q, want %q", test.later, s.Problems[i], says)
			}
		}
	}
}

// A boot state is approved by an operator who has seen its values.
func TestOperatorReseals(t *testing.T) {
	w := newWorld(t)
	o, c := w.operator(), w.dial(nil)
	n := w.chipNode("edge-1", true)
	w.enrol(n)
	ask := func() chancery.ResealAnswer {
		t.Helper()
		challenge := ok[chancery.ResealAnswer](c, "POST", "/v1/reseal", chancery.ResealRequest{NodeID: n.ID().String()}).Challenge
		q := chancery.ResealQualifying(w.Pointer.FleetID(), n.ID(), [32]byte(challenge))
		return ok[chancery.ResealAnswer](c, "POST", "/v1/reseal", chancery.ResealRequest{NodeID: n.ID().String(), Challenge: challenge, Quote: n.Quote([]int{7}, q), Epoch: new(n.Epoch(q))})
	}
	if list := ok[[]api.ResealInfo](o, "GET", "/v1/reseals", nil); list == nil || len(list) != 0 {
		t.Errorf("%+v", list)
	}
	if err := n.Chip.ExtendPCR(7, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if a := ask(); a.Status != "pending" {
		t.Errorf("%+v", a)
	}
	list := ok[[]api.ResealInfo](o, "GET", "/v1/reseals", nil)
	want := fmt.Sprint(map[int][]byte{7: n.Quote([]int{7}, [32]byte{}).Values[7]})
	if len(list) != 1 || list[0].Name != "edge-1" || list[0].Approved || fmt.Sprint(list[0].Values) != want || list[0].Epoch != n.File.Seal.Epoch {
		t.Errorf("%+v, want values %s", list, want)
	}
	if s := ok[api.Status](o, "GET", "/v1/status", nil); s.Reseals != 1 {
		t.Errorf("%d reseals", s.Reseals)
	}
	if r := ok[api.ResealInfo](o, "POST", "/v1/reseals/edge-1/approve", nil); !r.Approved {
		t.Errorf("%+v", r)
	}
	o.call("POST", "/v1/reseals/edge-1/approve", nil).wantProblem(t, "approved twice", http.StatusConflict, "approved")
	if a := ask(); a.Status != "approved" || a.Approval == nil {
		t.Errorf("%+v", a)
	}
	if s := ok[api.Status](o, "GET", "/v1/status", nil); s.Reseals != 0 {
		t.Errorf("%d reseals", s.Reseals)
	}
	if list := ok[[]api.ResealInfo](o, "GET", "/v1/reseals", nil); len(list) != 1 || !list[0].Approved {
		t.Errorf("%+v", list)
	}
}

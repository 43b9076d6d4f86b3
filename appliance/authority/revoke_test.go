package authority_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A paper is a coordinator whose nodes are on paper.
type paper struct {
	*appliancetest.Coordinator
	t testing.TB
}

func newPaper(t testing.TB, nodes int) *paper {
	return &paper{appliancetest.NewPaper(t, nodes), t}
}

// revoke revokes a list in text.
func (p *paper) revoke(q authority.RevokeRequest, list string) (*authority.Revoked, error) {
	p.t.Helper()
	return p.Authority.Revoke(p.t.Context(), "op", q, authority.ReadSelectors(q.Scope, strings.NewReader(list)), nil)
}

func (p *paper) done(q authority.RevokeRequest, list string) *authority.Revoked {
	p.t.Helper()
	out, err := p.revoke(q, list)
	if err != nil {
		p.t.Fatalf("%v (%+v)", err, out)
	}
	return out
}

func wantTally(t testing.TB, what string, got, want store.Tally) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

// listed are the indexes that the current list names.
func (p *paper) listed() []uint64 { return appliancetest.Revoked(p.t, p.Ledger) }

// audit returns the entries of the audit log.
func (p *paper) audit() []chancery.AuditEntry {
	return (&world{Coordinator: p.Coordinator, t: p.t.(*testing.T)}).deeds()
}

var (
	nodes        = authority.RevokeRequest{Scope: authority.Nodes, Code: chancery.ReasonKeyCompromise, Reason: "fire"}
	certificates = authority.RevokeRequest{Scope: authority.Certificates, Code: chancery.ReasonSuperseded, Reason: "recall"}
)

func dry(q authority.RevokeRequest) authority.RevokeRequest {
	q.DryRun = true
	return q
}

func ignoring(q authority.RevokeRequest) authority.RevokeRequest {
	q.IgnoreUnknown = true
	return q
}

// Nodes are named in three ways, and each once; one list is one entry of the
// audit log and one CRL.
func TestRevokeNodes(t *testing.T) {
	p := newPaper(t, 10)
	n := appliancetest.Paper
	chip := fmt.Sprintf("%x", n(3).EK)
	list := strings.Join([]string{n(1).Name, "# by their identifiers", "node:" + n(2).ID.String(), "ek:sha256:" + chip, n(1).Name}, "\n")
	number := p.Ledger.CRL().Head().Number

	would := p.done(dry(nodes), list)
	wantTally(t, "dry run", would.Tally, store.Tally{Selectors: 4, Nodes: 3, Certificates: 3, Already: 1})
	if len(p.audit()) != 0 || p.Ledger.CRL().Head().Number != number || len(p.listed()) != 0 {
		t.Error("a dry run has changed something")
	}
	out := p.done(nodes, list)
	wantTally(t, "revoked", out.Tally, would.Tally)
	if !slices.Equal(p.listed(), []uint64{1, 2, 3}) || out.CRL != number+1 || p.Ledger.CRL().Head().Number != number+1 {
		t.Errorf("listed are %v, in number %d after %d", p.listed(), out.CRL, number)
	}
	sum := sha256.Sum256([]byte(n(1).Name + "\nnode:" + n(2).ID.String() + "\nek:" + chip + "\n" + n(1).Name + "\n"))
	if out.List != sum || would.List != sum {
		t.Errorf("hash of the list %x and %x, want %x", out.List, would.List, sum)
	}
	for i := range 3 {
		if f := out.First[i]; f.Name != n(i+1).Name || f.NodeID != n(i+1).ID || !f.Revoked.IsZero() {
			t.Errorf("found %d is %+v", i, f)
		}
	}
	deeds := p.audit()
	if len(deeds) != 1 || deeds[0].Action != "node.revoke" || deeds[0].Subject != "4 selectors" {
		t.Fatalf("the audit log has %+v", deeds)
	}
	for name, want := range map[string]string{"list": hex.EncodeToString(sum[:]), "nodes": "3", "certificates": "3", "already": "1", "reason": "fire", "reason-code": "keyCompromise", "broken-off": ""} {
		if got := detail(deeds[0], name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}

	// Once more is no error, and nothing.
	again := p.done(nodes, list)
	wantTally(t, "again", again.Tally, store.Tally{Selectors: 4, Already: 4})
	if len(p.audit()) != 1 || again.CRL != number+1 {
		t.Errorf("nothing to do has led to %d entries and list %d", len(p.audit()), again.CRL)
	}
	if f := again.First[0]; f.Revoked.IsZero() {
		t.Errorf("it is not told since when: %+v", f)
	}
	p.View(func(tx *store.Tx) error {
		left, err := tx.RevocationsUnderWay()
		if len(left) > 0 {
			t.Errorf("under way: %+v", left)
		}
		return err
	})
}

func TestRevokeCertificates(t *testing.T) {
	p := newPaper(t, 100)
	out := p.done(certificates, "1:7\n1:10-1:19\n1:15-1:24\n1:7")
	wantTally(t, "ranges that overlap", out.Tally, store.Tally{Selectors: 4, Certificates: 16, Already: 6})
	want := []uint64{7}
	for i := uint64(10); i < 25; i++ {
		want = append(want, i)
	}
	if !slices.Equal(p.listed(), want) {
		t.Errorf("listed are %v", p.listed())
	}
	if f := out.First[1]; f.Serial != "1:10" || f.Name != appliancetest.Paper(10).Name || f.NodeID != appliancetest.Paper(10).ID || f.Selector != "1:10-1:19" {
		t.Errorf("found: %+v", f)
	}
	p.View(func(tx *store.Tx) error {
		n, err := tx.NodeByName(appliancetest.Paper(7).Name)
		if err == nil && n.State != store.NodeActive {
			t.Errorf("a node whose certificate was revoked is %s", n.State)
		}
		return err
	})
	if deeds := p.audit(); len(deeds) != 1 || deeds[0].Action != "certificate.revoke" || detail(deeds[0], "certificates") != "16" || detail(deeds[0], "nodes") != "" {
		t.Errorf("the audit log has %+v", deeds)
	}
	// All of the log, and no more.
	wantTally(t, "all", p.done(ignoring(certificates), "1:0-1:281474976710655").Tally, store.Tally{Selectors: 1, Unknown: 1, Certificates: 84, Already: 16})
	if len(p.listed()) != 100 {
		t.Errorf("%d are listed", len(p.listed()))
	}
	// What has expired is on no list.
	p.Clock.Advance(appliancetest.MaxLife + time.Second)
	if err := p.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantTally(t, "expired", p.done(certificates, "1:0-1:99").Tally, store.Tally{Selectors: 1, Expired: 100})
}

// A list with something in it that is not there changes nothing, unless it may.
func TestRevokeUnknown(t *testing.T) {
	p := newPaper(t, 10)
	for _, test := range []struct {
		q       authority.RevokeRequest
		list    string
		missing []uint64
		others  uint64
	}{
		{nodes, "paper-1\nghost\npaper-2\nnode:" + digits + "\nek:" + digits, []uint64{2, 4, 5}, 2},
		{certificates, "1:1\n\n1:10\n2:1\n1:9-1:11", []uint64{3, 4, 5}, 2},
		{nodes, "ghost", []uint64{1}, 0},
		{certificates, "1:10", []uint64{1}, 0},
	} {
		out, err := p.revoke(test.q, test.list)
		wantRefusal(t, test.list, err, "not-found")
		if len(p.audit()) != 0 || len(p.listed()) != 0 {
			t.Fatalf("%q: a refusal has changed something", test.list)
		}
		would := p.done(dry(test.q), test.list)
		for what, r := range map[string]*authority.Revoked{"refusal": out, "dry run": would} {
			var lines []uint64
			for _, m := range r.Misses {
				lines = append(lines, m.Line)
			}
			slices.Sort(lines)
			if !slices.Equal(lines, test.missing) {
				t.Errorf("%q: %s: missing in lines %v, want %v", test.list, what, lines, test.missing)
			}
		}
		if would.Unknown != uint64(len(test.missing)) || would.Certificates != test.others {
			t.Errorf("%q: %+v", test.list, would.Tally)
		}
	}
	out := p.done(ignoring(nodes), "paper-1\nghost\npaper-2")
	wantTally(t, "ignoring", out.Tally, store.Tally{Selectors: 3, Unknown: 1, Nodes: 2, Certificates: 2})
	if d := p.audit(); len(d) != 1 || detail(d[0], "unknown") != "1" {
		t.Errorf("the audit log has %+v", d)
	}
}

// A list that breaks off, or is wrong further down, ends where it is: what is
// committed is published and written down, and the list once more completes it.
func TestRevokeBreaksOff(t *testing.T) {
	const fleet = 5000 // several transactions
	for _, test := range []struct {
		name string
		list func(whole string) io.Reader
		code string // of the refusal; empty: another error
	}{
		{"the other end is gone", func(whole string) io.Reader {
			return io.MultiReader(strings.NewReader(whole[:len(whole)*9/10]), iotest.ErrReader(io.ErrUnexpectedEOF))
		}, ""},
		{"a line that is none", func(whole string) io.Reader { return strings.NewReader(whole + "-\n") }, "bad-selector"},
		{"a name that nobody has", func(whole string) io.Reader { return strings.NewReader(whole + "ghost\n") }, "not-found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPaper(t, fleet)
			var whole strings.Builder
			for i := range fleet {
				fmt.Fprintln(&whole, appliancetest.Paper(i).Name)
			}
			number := p.Ledger.CRL().Head().Number
			out, err := p.Authority.Revoke(t.Context(), "op", nodes, authority.ReadSelectors(authority.Nodes, test.list(whole.String())), nil)
			if test.code != "" {
				wantRefusal(t, "broken off", err, test.code)
			} else if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("broken off: %v", err)
			}
			if out.Nodes == 0 || out.Nodes >= fleet || out.Certificates != out.Nodes {
				t.Fatalf("%+v", out.Tally)
			}
			if got := uint64(len(p.listed())); got != out.Certificates || out.CRL != number+1 {
				t.Errorf("%d are in list %d, after %d; %d were revoked", got, out.CRL, number, out.Certificates)
			}
			deeds := p.audit()
			if len(deeds) != 1 || detail(deeds[0], "broken-off") != "yes" || detail(deeds[0], "nodes") != fmt.Sprint(out.Nodes) || detail(deeds[0], "list") != hex.EncodeToString(out.List[:]) {
				t.Errorf("the audit log has %+v", deeds)
			}
			rest := p.done(nodes, whole.String())
			wantTally(t, "the rest", rest.Tally, store.Tally{Selectors: fleet, Nodes: fleet - out.Nodes, Certificates: fleet - out.Nodes, Already: out.Nodes})
			if len(p.listed()) != fleet || len(p.audit()) != 2 {
				t.Errorf("%d are listed, %d deeds", len(p.listed()), len(p.audit()))
			}
		})
	}
}

// Whoever is interrupted in the middle of a transaction has changed nothing in
// it.
func TestRevokeCanceled(t *testing.T) {
	p := newPaper(t, 5000)
	ctx, cancel := context.WithCancel(t.Context())
	var whole strings.Builder
	for i := range 5000 {
		fmt.Fprintln(&whole, appliancetest.Paper(i).Name)
	}
	out, err := p.Authority.Revoke(ctx, "op", nodes, authority.ReadSelectors(authority.Nodes, strings.NewReader(whole.String())), func(store.Tally) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := uint64(len(p.listed())); got != out.Nodes || got == 0 || got == 5000 {
		t.Errorf("%d are listed, %d were revoked", got, out.Nodes)
	}
}

// A coordinator that is killed in the middle closes the act at its next start.
func TestRevokeKilled(t *testing.T) {
	p := newPaper(t, 5000)
	killed := func() {
		defer func() { recover() }()
		var whole strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&whole, "1:%d\n", i)
		}
		fmt.Fprintln(&whole, "1:0-1:4999")
		p.Authority.Revoke(t.Context(), "op", certificates, authority.ReadSelectors(authority.Certificates, strings.NewReader(whole.String()+strings.Repeat("1:0-1:4999\n", 20))), func(store.Tally) { panic("the plug") })
	}
	killed()
	if len(p.audit()) != 0 || len(p.listed()) != 0 {
		t.Fatalf("it did not die: %d are listed, %d deeds", len(p.listed()), len(p.audit()))
	}
	p.Restart()
	deeds := p.audit()
	if len(deeds) != 1 || deeds[0].Action != "certificate.revoke" || deeds[0].Operator != "op" || detail(deeds[0], "broken-off") != "yes" || detail(deeds[0], "certificates") != "5000" || detail(deeds[0], "reason") != "recall" {
		t.Errorf("the audit log has %+v", deeds)
	}
	if err := p.Ledger.PublishCRL(t.Context()); err != nil { // the first heartbeat
		t.Fatal(err)
	}
	if len(p.listed()) != 5000 {
		t.Errorf("%d are listed", len(p.listed()))
	}
	p.Restart()
	if len(p.audit()) != 1 {
		t.Errorf("%d deeds after another start", len(p.audit()))
	}
}

// Two operators with the same list revoke it once.
func TestRevokeTogether(t *testing.T) {
	p := newPaper(t, 5000)
	var whole strings.Builder
	for i := range 5000 {
		fmt.Fprintln(&whole, appliancetest.Paper(i).Name)
	}
	results := make(chan *authority.Revoked, 2)
	for range 2 {
		go func() {
			out, err := p.Authority.Revoke(context.Background(), "op", nodes, authority.ReadSelectors(authority.Nodes, strings.NewReader(whole.String())), nil)
			if err != nil {
				t.Error(err)
			}
			results <- out
		}()
	}
	var sum store.Tally
	for range 2 {
		sum.Add((<-results).Tally)
	}
	wantTally(t, "both", sum, store.Tally{Selectors: 10000, Nodes: 5000, Certificates: 5000, Already: 5000})
	if len(p.listed()) != 5000 {
		t.Errorf("%d are listed", len(p.listed()))
	}
}

// A range that is longer than a transaction, between others: each certificate
// counts once, also in a dry run, and the selector is one.
func TestRevokeLongRange(t *testing.T) {
	const fleet = 70_000 // two cuts
	p := newPaper(t, fleet)
	const list = "1:0\n1:69999\n1:10-1:69989\n1:20-1:69979\n"
	want := store.Tally{Selectors: 4, Certificates: 69_982, Already: 69_960}
	would := p.done(dry(certificates), list)
	// A dry run has revoked nothing, so what the list names twice counts twice.
	wantTally(t, "dry run", would.Tally, store.Tally{Selectors: 4, Certificates: 139_942})
	var seen []uint64
	out, err := p.Authority.Revoke(t.Context(), "op", certificates, authority.ReadSelectors(authority.Certificates, strings.NewReader(list)), func(t store.Tally) { seen = append(seen, t.Certificates) })
	if err != nil {
		t.Fatal(err)
	}
	wantTally(t, "revoked", out.Tally, want)
	if len(seen) < 5 || !slices.IsSorted(seen) || seen[len(seen)-1] != want.Certificates || would.List != out.List {
		t.Errorf("it went by %v; the list is %x, then %x", seen, would.List, out.List)
	}
	if got := p.listed(); uint64(len(got)) != want.Certificates || got[0] != 0 || got[1] != 10 || got[len(got)-2] != 69_989 || got[len(got)-1] != 69_999 {
		t.Errorf("%d are listed, from %d, %d to %d, %d", len(got), got[0], got[1], got[len(got)-2], got[len(got)-1])
	}
	if len(p.audit()) != 1 {
		t.Errorf("%d deeds", len(p.audit()))
	}
	wantTally(t, "again", p.done(certificates, list).Tally, store.Tally{Selectors: 4, Already: want.Certificates + want.Already})
}

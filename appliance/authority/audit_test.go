package authority_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
)

// deeds returns the audit log.
func (w *world) deeds() (list []chancery.AuditEntry) {
	w.t.Helper()
	w.View(func(tx *store.Tx) error {
		raw, err := tx.AuditEntries(w.Ledger.Log().CA, 0, 1000)
		for _, b := range raw {
			e, err := chancery.ParseAuditEntry(b)
			if err != nil {
				w.t.Fatal(err)
			}
			list = append(list, *e)
		}
		return err
	})
	return list
}

func detail(e chancery.AuditEntry, name string) string {
	for _, d := range e.Details {
		if d.Name == name {
			return d.Value
		}
	}
	return ""
}

// Everything that an operator does is written down, once, with who did it; what
// is refused is not.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	n := w.node("edge-1", false)
	n.Token = w.Token("edge-1", func(r *authority.TokenRequest) { r.Approve = true })
	answer := w.connect(n)
	w.submit(answer, n.Submission(answer))
	for _, step := range []struct {
		action, subject string
		do              func() error
	}{
		{"token.create", "edge-*", func() error {
			_, _, err := w.Authority.CreateToken(ctx, "alice (7)", authority.TokenRequest{Names: "edge-*", Roles: []string{"web"}, Uses: 2, Life: time.Hour})
			return err
		}},
		{"", "", func() error {
			_, _, err := w.Authority.CreateToken(ctx, "alice (7)", authority.TokenRequest{Names: "[", Uses: 2, Life: time.Hour})
			return err
		}},
		{"", "", func() error { _, _, err := w.Authority.Approve(ctx, "alice (7)", "edge-9"); return err }},
		{"node.approve", "edge-1", func() error { _, _, err := w.Authority.Approve(ctx, "alice (7)", "edge-1"); return err }},
		{"node.attest", "edge-1", func() error { _, err := w.Authority.AskAttestation(ctx, "alice (7)", "edge-1"); return err }},
		{"boot-state.add", "edge-*", func() error {
			_, err := w.Authority.ApproveAhead(ctx, "alice (7)", "edge-*", map[int][]byte{7: make([]byte, 32)})
			return err
		}},
		{"boot-state.remove", "1", func() error { return w.Authority.RemoveAhead(ctx, "alice (7)", 1) }},
		{"", "", func() error { return w.Authority.RemoveAhead(ctx, "alice (7)", 1) }},
		{"ek-list.import", "order-7", func() error {
			_, err := w.Authority.ImportEKs(ctx, "alice (7)", "order-7", []store.EKListed{{EK: [32]byte{1}}})
			return err
		}},
		{"ek-list.remove", "order-7", func() error { _, err := w.Authority.RemoveEKList(ctx, "alice (7)", "order-7"); return err }},
		{"", "", func() error { _, err := w.Authority.RemoveEKList(ctx, "alice (7)", "order-7"); return err }},
		{"policy.apply", "version 2", func() error {
			_, err := w.Authority.SetPolicy(ctx, "alice (7)", []byte(strings.Replace(appliancetest.Trial, "version = 1", "version = 2", 1)), func([]byte) error { return nil })
			return err
		}},
		{"certificate.revoke", "1:0", func() error {
			_, err := w.Authority.RevokeCertificate(ctx, "alice (7)", serial(t, 0), chancery.ReasonUnspecified, "lost\x1b[2J")
			return err
		}},
		{"", "", func() error {
			_, err := w.Authority.RevokeCertificate(ctx, "alice (7)", serial(t, 0), chancery.ReasonUnspecified, "again")
			return err
		}},
		{"node.revoke", "edge-1", func() error {
			_, err := w.Authority.RevokeNode(ctx, "alice (7)", "edge-1", chancery.ReasonUnspecified, "stolen")
			return err
		}},
		{"", "", func() error {
			_, err := w.Authority.RevokeNode(ctx, "alice (7)", "edge-1", chancery.ReasonUnspecified, "again")
			return err
		}},
	} {
		w.Clock.Advance(time.Second)
		before := w.deeds()
		err := step.do()
		after := w.deeds()
		if step.action == "" {
			if err == nil || len(after) != len(before) {
				t.Errorf("a refusal: %v, and %d entries, before it were %d", err, len(after), len(before))
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", step.action, err)
		}
		if !slices.EqualFunc(before, after[:min(len(before), len(after))], same) || len(after) != len(before)+1 {
			t.Errorf("%s: %d entries, before it were %d", step.action, len(after), len(before))
			continue
		}
		e := after[len(after)-1]
		if e.Action != step.action || e.Subject != step.subject || e.Operator != "alice (7)" || !e.At.Equal(w.Clock.Now()) {
			t.Errorf("%s: written down was %+v", step.action, e)
		}
	}
	for action, want := range map[string]map[string]string{
		"node.approve":       {"node": w.deedOf("node.attest", "node"), "others-wanted": "0"},
		"certificate.revoke": {"reason": "lost\uFFFD[2J"},
		"node.revoke":        {"reason": "stolen", "certificates": "0"},
	} {
		for name, value := range want {
			if got := w.deedOf(action, name); got != value {
				t.Errorf("%s: %s is %q, want %q", action, name, got, value)
			}
		}
	}
	if err := w.Ledger.Checkpoint(ctx); err != nil {
		t.Error(err)
	}
	w.Check()
	if w.Ledger.Audit().Checkpoint() == nil {
		t.Error("no checkpoint of the audit log is shown")
	}
}

func same(a, b chancery.AuditEntry) bool {
	x, y := map[string]string{}, map[string]string{}
	for _, d := range a.Details {
		x[d.Name] = d.Value
	}
	for _, d := range b.Details {
		y[d.Name] = d.Value
	}
	return a.Action == b.Action && a.Subject == b.Subject && a.At.Equal(b.At) && maps.Equal(x, y)
}

// deedOf returns a detail of the last entry with the action.
func (w *world) deedOf(action, name string) string {
	w.t.Helper()
	for _, e := range slices.Backward(w.deeds()) {
		if e.Action == action {
			return detail(e, name)
		}
	}
	w.t.Errorf("no %s was written down", action)
	return ""
}

// No secret of a token is written down.
func TestAuditKeepsTokens(t *testing.T) {
	w := newWorld(t)
	token := w.Token("edge-1")
	secret := token.Reveal()
	for _, e := range w.deeds() {
		for _, d := range e.Details {
			if d.Value != "" && strings.Contains(secret, d.Value) && len(d.Value) > 16 {
				t.Errorf("%s of %s is part of the token", d.Name, e.Action)
			}
		}
	}
}

// What the store cannot write down does not happen.
func TestAuditFails(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	w.issued(w.submit(answer, n.Submission(answer)))
	mend := appliancetest.Break(t, w.File, appliancetest.Step{Table: "audit", Op: "INSERT"})
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "stolen"); err == nil {
		t.Error("a node is revoked, and nobody will know by whom")
	}
	mend()
	w.View(func(tx *store.Tx) error {
		node, err := tx.NodeByName("edge-1")
		if err == nil && node.State != store.NodeActive {
			t.Errorf("edge-1 is %s", node.State)
		}
		return err
	})
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "stolen"); err != nil {
		t.Error(err)
	}
}

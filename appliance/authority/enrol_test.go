package authority_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A node enrols with a chip and a token (docs/protocol.md section 4). CA:SK
// signs twice: CA:N:S, and the subtree of N:C.
func TestEnrol(t *testing.T) {
	for name, sealed := range map[string]bool{"sealed": true, "unsealed": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node("edge-1", sealed)
			var nc *chancery.Certificate
			w.WantSpent(2, func() { nc = w.enrol(n) })
			w.Check()

			fleet := w.Pointer.FleetID()
			now := w.Clock.Now()
			want := chancery.Subject{
				Name: "edge-1", TrustDomain: appliancetest.TrustDomain, DNSNames: []string{"edge-1." + appliancetest.DNSSuffix}, Roles: []string{"web"},
				Assurance: chancery.Assurance{Level: chancery.AssuranceEK, Simulator: true, EKDigest: chancery.EKDigest(fleet, n.EK.SPKI)},
			}
			if nc.Name != want.Name || nc.TrustDomain != want.TrustDomain || !slices.Equal(nc.DNSNames, want.DNSNames) || !slices.Equal(nc.Roles, want.Roles) ||
				nc.Assurance != want.Assurance || !nc.NodeKey.Equal(n.Key.PublicKey()) {
				t.Errorf("N:C says %+v, want %+v", nc.Subject, want)
			}
			if !nc.NotBefore.Equal(now) || !nc.NotAfter.Equal(now.Add(appliancetest.MaxLife)) || nc.Serial != serial(t, 0) {
				t.Errorf("N:C %s is good from %s to %s", nc.Serial, nc.NotBefore, nc.NotAfter)
			}
			if err := w.verify(nc); err != nil {
				t.Error(err)
			}

			row := w.nodeRow(n.ID())
			if row.Name != "edge-1" || row.State != store.NodeActive || (row.Seal != nil) != sealed || !bytes.Equal(row.AKPublic, n.AK.Public) || !row.Enrolled.Equal(now) {
				t.Errorf("the store has %+v", row)
			}
			if sealed && (!slices.Equal(row.Seal.PCRs, []int{7}) || row.Seal.Epoch != n.File.Seal.Epoch) {
				t.Errorf("the store has the seal %+v, the node %+v", row.Seal, n.File.Seal)
			}
		})
	}
}

// A submission may be repeated, for as long as it is the same: every time the
// same certificate, and no work for CA:SK.
func TestSubmitAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	first := w.submit(answer, sub)
	nc := w.issued(first)
	w.WantSpent(0, func() {
		again := w.submit(answer, sub)
		if !bytes.Equal(again.NC, first.NC) {
			t.Error("the same N:S got another certificate")
		}
		asked, err := w.Authority.Verdict(t.Context(), w.intake(answer))
		if err != nil || !bytes.Equal(asked.NC, first.NC) {
			t.Errorf("the verdict that is asked for is another one: %v", err)
		}

		other := *sub
		other.NS = n.NS(n.CANS(answer).Hash()).Marshal() // as good, and not the one that was kept: ECDSA signs anew
		_, err = w.Authority.Submit(t.Context(), w.intake(answer), &other)
		wantRefusal(t, "another N:S", err, "other-n-s")
	})
	w.Clock.Advance(chancery.MaxCANSLife * 2)
	if again := w.submit(answer, sub); !bytes.Equal(again.NC, nc.Raw()) {
		t.Error("after CA:N:S has expired the same N:S got another certificate")
	}
	w.Check()
}

// Two submissions of one intake at the same time are one.
func TestSubmitTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	answer := w.connect(n)
	sub := n.Submission(answer)
	release := w.CA.Hold()
	verdicts := make([]*chancery.Verdict, 8)
	var all sync.WaitGroup
	for i := range verdicts {
		all.Go(func() {
			v, err := w.Authority.Submit(t.Context(), w.intake(answer), sub)
			if err != nil {
				t.Error(err)
			}
			verdicts[i] = v
		})
	}
	w.eventually("the entry is there, and its signature is not", func() bool { return w.intakeRow(answer).State == store.IntakeIssued })
	all.Go(func() {
		v, err := w.Authority.Verdict(t.Context(), w.intake(answer))
		if err != nil || v.Status != chancery.VerdictIssued {
			t.Errorf("asked while CA:SK signs: %+v, %v", v, err)
		}
	})
	release()
	all.Wait()
	for _, v := range verdicts {
		if v != nil && !bytes.Equal(v.NC, verdicts[0].NC) {
			t.Error("one intake got two certificates")
		}
	}
	if w.Ledger.Size() != 1 {
		t.Errorf("%d entries", w.Ledger.Size())
	}
	w.Check()
}

func TestNewRefuses(t *testing.T) {
	c := appliancetest.New(t, nil)
	for name, edit := range map[string]func(*authority.Config){
		"no life":                 func(c *authority.Config) { c.Life = 0 },
		"a life that is too long": func(c *authority.Config) { c.Life = c.Pointer.MaxLife + 1 },
		"another approval key":    func(a *authority.Config) { a.Approval = c.CA },
	} {
		config := c.Config
		edit(&config)
		if _, err := authority.New(config); err == nil {
			t.Errorf("%s: an authority was made", name)
		}
	}
}

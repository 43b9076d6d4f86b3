package appliancetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A PaperNode is a node that is nowhere but in a store: it was never enrolled,
// and its certificate was never signed.
type PaperNode struct {
	Name string
	ID   chancery.NodeID
	EK   [32]byte
}

// Paper returns the n-th node on paper.
func Paper(n int) PaperNode {
	name := fmt.Sprintf("paper-%d", n)
	return PaperNode{name, sha256.Sum256([]byte("node " + name)), sha256.Sum256([]byte("ek " + name))}
}

// FillStore puts so many nodes on paper into a store, the n-th with the
// certificate of index n. No ledger may have it open.
func FillStore(ctx context.Context, s *store.Store, p *chancery.Pointer, nodes int, now, notAfter time.Time) error {
	key, err := fleet.NewKey()
	if err != nil {
		return err
	}
	anything, err := key.Sign(ctx, p.FleetID(), chancery.NewCeremony(nil)) // in place of N:S
	if err != nil {
		return err
	}
	subject := chancery.Subject{TrustDomain: p.TrustDomain, NodeKey: key.PublicKey(), NotBefore: now.UTC().Truncate(time.Second), NotAfter: notAfter.UTC().Truncate(time.Second),
		NS: chancery.DetachedNS{Created: now.UTC().Truncate(time.Second), Signature: anything}, Assurance: chancery.Assurance{Level: chancery.AssuranceEK, Simulator: true}}
	log := store.Log{CA: p.Current().ID.String(), Number: p.Current().Log()}
	const batch = 10_000
	for from := 0; from < nodes; from += batch {
		err := s.Update(ctx, func(tx *store.Tx) error {
			for i := from; i < min(from+batch, nodes); i++ {
				n := Paper(i)
				subject.Name = n.Name
				f, err := subject.Fields(p.Current().ID)
				if err != nil {
					return err
				}
				raw, err := merkle.MarshalEntry(f)
				if err != nil {
					return err
				}
				e := &store.Entry{Index: uint64(i), Entry: raw, Leaf: merkle.HashLeaf(raw), SPKI: f.SPKI, NodeID: n.ID, NotAfter: subject.NotAfter}
				if err := tx.AppendEntry(log, e); err != nil {
					return err
				}
				row := &store.Node{ID: n.ID, Name: n.Name, NodeKey: f.SPKI, AKPublic: make([]byte, 120), EKDigest: n.EK, Assurance: chancery.AssuranceEK, Simulator: true,
					Chip: chancery.Chip{Manufacturer: "IBM", Simulator: true}, Enrolled: now}
				if err := tx.PutNode(row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// NewPaper makes a coordinator of so many nodes on paper, whose keys are in
// memory. Its log cannot be verified: nothing in it was signed. edit changes
// the pointer record.
func NewPaper(t testing.TB, nodes int, edit ...func(*chancery.Pointer)) *Coordinator {
	t.Helper()
	c := &Coordinator{t: t, Clock: NewClock(time.Now())}
	ca, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	approval, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c.CA, c.Approval = NewSigner(ca), NewSigner(approval)
	c.Pointer = Pointer(t, c.CA, approval.PublicKey(), c.Clock.Now(), edit...)
	c.File = filepath.Join(t.TempDir(), "store.db")
	if c.Store, err = store.Open(t.Context(), c.File); err == nil {
		err = FillStore(t.Context(), c.Store, c.Pointer, nodes, c.Clock.Now(), c.Clock.Now().Add(MaxLife))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Ledger.Close()
		if err := c.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Restart()
	return c
}

// Restart makes the ledger and the authority of a coordinator on paper anew, as
// a start does.
func (c *Coordinator) Restart() {
	c.t.Helper()
	if c.Ledger != nil {
		c.Ledger.Close()
	}
	var err error
	c.Ledger, err = ledger.Open(context.Background(), ledger.Config{
		Store: c.Store, Signer: c.CA, Pointer: c.Pointer, CRLLife: CRLLife, DNSSuffix: DNSSuffix, Now: c.Clock.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Config = authority.Config{Store: c.Store, Ledger: c.Ledger, Pointer: c.Pointer, Approval: c.Approval, Now: c.Clock.Now,
		Policy: Policy(c.t, Trial), Life: MaxLife, Logger: slog.New(slog.DiscardHandler)}
	c.Authority = c.With()
}

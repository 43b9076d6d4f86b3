package ledger_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// recover goes on from the newest list, as chancery recover does.
func (w *world) recover(newest *chancery.CRL) (*ledger.Recovered, error) {
	w.t.Helper()
	r := &ledger.Recovery{Held: w.pointer, Next: ledger.Draft(w.pointer, w.clock.Now()), Newest: newest, Now: w.clock.Now()}
	r.Next.Signature = w.sign(r.Next)
	var done *ledger.Recovered
	err := w.store.Update(context.Background(), func(tx *store.Tx) (err error) {
		done, err = r.Recover(tx)
		return err
	})
	if err == nil {
		w.pointer = r.Next
	}
	return done, err
}

// A node that held the newest list finds everything that it revoked still
// revoked after a recovery, and everything that the database had lost; what the
// database has stays good; and the new log gives out no place twice.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPointer(w.pointer) }))
	first := w.issue(6)
	w.revoke(1)
	w.publish()
	backup := w.save()
	w.revoke(2, 4)
	lost := w.issue(3)
	w.publish()
	node := chancery.NewVerifier(chancery.Trust{Pointer: w.pointer})
	update := func() {
		t.Helper()
		b, _, err := w.CRLAfter(node.Trust().CRL.Head().Number)
		if err == nil && b != nil {
			_, err = node.UpdateCRL(b.List, w.clock.Now())
		}
		w.must(err)
	}
	full, _, err := w.CRLAfter(0)
	w.must(err)
	newest, err := node.UpdateCRL(full.List, w.clock.Now())
	w.must(err)
	// One more that no list has told of.
	untold := w.issue(1)

	w.restore(backup)
	w.close()
	w.store, err = store.Open(t.Context(), w.file)
	w.must(err)
	w.clock.Advance(10 * time.Minute)
	done, err := w.recover(newest)
	w.must(err)
	if want := (ledger.Recovered{CRL: newest.Head().Number, Pointer: 2, Log: 2, Revoked: 2, Lost: 3}); *done != want {
		t.Errorf("%+v, want %+v", *done, want)
	}
	w.store.Close()
	w.open()
	if err := node.UpdatePointer(w.pointer, w.clock.Now()); err != nil {
		t.Fatal(err)
	}
	standing := func(c *chancery.Certificate) error {
		return node.Trust().CRL.Check(c.CA, c.Serial, c.NotBefore, w.clock.Now())
	}
	want := func(step string) {
		t.Helper()
		update()
		for i, c := range append(slices.Clone(first), lost...) {
			revoked := slices.Contains([]uint64{1, 2, 4, 6, 7, 8}, c.Serial.Index())
			if err := standing(c); revoked != errors.Is(err, chancery.ErrRevoked) || !revoked && err != nil {
				t.Errorf("%s: certificate %d, %s: %v", step, i, c.Serial, err)
			}
		}
		if err := standing(untold[0]); err == nil {
			t.Errorf("%s: what no list and no database tells of is good", step)
		}
	}
	w.publish()
	want("after the recovery")
	seen := map[merkle.Serial]bool{}
	for _, c := range slices.Concat(first, lost, untold) {
		seen[c.Serial] = true
	}
	for _, c := range w.issue(10) {
		if seen[c.Serial] || c.Serial.Log() != 2 {
			t.Errorf("serial %s was given out twice", c.Serial)
		}
		seen[c.Serial] = true
		if err := standing(c); !errors.Is(err, chancery.ErrUnknownLog) && err != nil {
			t.Errorf("a new certificate: %v", err)
		}
		update()
	}
	w.publish()
	want("with certificates in the new log")
	for i := range uint64(10) {
		serial, err := merkle.NewSerial(2, i)
		w.must(err)
		if err := node.Trust().CRL.Check(w.pointer.Current().ID, serial, w.clock.Now(), w.clock.Now()); err != nil {
			t.Errorf("%s: %v", serial, err)
		}
	}

	// Revocations go on, in both logs.
	w.revoke(3)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.RevokeSpan(w.Logs()[0], 0, 1, 1)
		return err
	}))
	w.publish()
	update()
	if err := standing(first[0]); !errors.Is(err, chancery.ErrRevoked) {
		t.Errorf("revoked in the old log: %v", err)
	}

	// A restart, and a second recovery after a second loss.
	w.close()
	w.open()
	w.publish()
	update()
	held := node.Trust().CRL
	w.close()
	w.store, err = store.Open(t.Context(), w.file)
	w.must(err)
	_, err = w.recover(held)
	w.must(err)
	w.store.Close()
	w.open()
	w.must(node.UpdatePointer(w.pointer, w.clock.Now()))
	w.publish()
	update()
	if logs := w.Logs(); len(logs) != 3 || w.Log().Number != 3 {
		t.Errorf("logs %v", logs)
	}
	if err := standing(first[0]); !errors.Is(err, chancery.ErrRevoked) {
		t.Errorf("after a second recovery: %v", err)
	}

	// All of the old logs expires one day, but for what nobody can tell.
	w.clock.Advance(2 * life)
	w.publish()
	update()
	for _, log := range node.Trust().CRL.Head().Logs {
		if log.Log == 1 && log.First != 6 {
			t.Errorf("log 1 begins at %d, want 6, the first that is lost", log.First)
		}
	}
}

// What is older than the database is refused, and changes nothing.
func TestRecoverRefuses(t *testing.T) {
	w := newWorld(t)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPointer(w.pointer) }))
	w.issue(2)
	w.publish()
	older := w.CRL()
	w.revoke(1)
	w.publish()
	number := w.CRL().Head().Number
	if _, err := w.recover(older); err == nil {
		t.Error("an older list was taken")
	}
	r := &ledger.Recovery{Held: w.pointer, Next: ledger.Draft(w.pointer, w.clock.Now()), Newest: w.CRL(), Now: w.clock.Now()}
	err := w.store.Update(t.Context(), func(tx *store.Tx) error { _, err := r.Recover(tx); return err })
	if !errors.Is(err, chancery.ErrSignature) && !errors.Is(err, chancery.ErrSigLength) {
		t.Errorf("a record that is not signed: %v", err)
	}
	w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
		p, err := tx.Pointer()
		if err == nil && p.Seq != 1 {
			t.Errorf("pointer record %d", p.Seq)
		}
		n, crlErr := tx.CRLNumber()
		if n != number {
			t.Errorf("list %d", n)
		}
		return errors.Join(err, crlErr)
	}))
	w.check()
}

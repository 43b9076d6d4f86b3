package ledger_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
)

// save copies the database; restore puts the copy back, as an operator does who
// knows no better. The ledger is opened again.
func (w *world) save() (file string) {
	w.t.Helper()
	w.close()
	b, err := os.ReadFile(w.file)
	w.must(err)
	file = filepath.Join(w.t.TempDir(), "backup")
	w.must(os.WriteFile(file, b, 0o600))
	w.open()
	return file
}

func (w *world) restore(file string) {
	w.t.Helper()
	w.close()
	b, err := os.ReadFile(file)
	w.must(err)
	for _, beside := range []string{"-wal", "-shm"} {
		os.Remove(w.file + beside)
	}
	w.must(os.WriteFile(w.file, b, 0o600))
	w.open()
}

// sign signs as whoever has CA:SK.
func (w *world) sign(s chancery.Statement) chancery.Signature {
	w.t.Helper()
	sig, err := w.signer.Sign(context.Background(), w.pointer.FleetID(), s)
	w.must(err)
	return sig
}

// next returns a signed list after one, which is not the ledger's.
func (w *world) next(after *chancery.CRL) *chancery.CRL {
	w.t.Helper()
	at := w.clock.Now().Add(time.Second)
	c, err := chancery.NextCRL(after, []chancery.RevokedSet{{CA: w.pointer.Current().ID, Log: 1, Size: 100, Indexes: []uint64{50}}}, at, at.Add(crlLife))
	w.must(err)
	c.Sign(w.sign(c.Head()))
	return c
}

func (w *world) show(b []byte) error { return w.Shown(context.Background(), b) }

// wantWorks checks that the ledger signs, and that nothing was raised.
func (w *world) wantWorks(step string) {
	w.t.Helper()
	if err := w.Err(); err != nil {
		w.t.Fatalf("%s: %v", step, err)
	}
	w.publish()
	w.issue(1)
	w.check()
}

// wantHalted checks that nothing is signed any more, now and after a restart.
func (w *world) wantHalted(kind ledger.AlarmKind, what ledger.AlarmWhat, hint string) {
	w.t.Helper()
	select {
	case <-w.Halted():
	default:
		w.t.Fatal("the ledger goes on")
	}
	wanted := func(err error) {
		w.t.Helper()
		a, ok := errors.AsType[*ledger.Alarm](err)
		if !ok || a.Kind != kind || a.What != what || !strings.Contains(a.Hint(), hint) || len(a.Own) == 0 || len(a.Shown) == 0 {
			w.t.Fatalf("%v; want an alarm %s of a %s", err, kind, what)
		}
	}
	asked := len(w.signer.Asked())
	wanted(w.Err())
	wanted(w.PublishCRL(context.Background()))
	wanted(w.Checkpoint(context.Background()))
	wanted(w.Answer(context.Background(), w.newCANS()))
	_, err := w.Issue(context.Background(), w.newRequest())
	wanted(err)
	w.Ledger.Close()
	w.Ledger = nil
	_, err = ledger.Open(context.Background(), w.config())
	wanted(err)
	if n := len(w.signer.Asked()) - asked; n > 0 {
		w.t.Errorf("CA:SK was asked %d times meanwhile", n)
	}
}

// What the coordinator has itself is no news, and what CA:SK did not sign
// stops nobody.
func TestShownNothing(t *testing.T) {
	w := newWorld(t)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPointer(w.pointer) }))
	w.issue(2)
	for range 3 {
		w.publish()
	}
	old := w.CRL()
	for range store.KeptCRLs + 3 {
		w.publish()
	}
	kept := w.CRL()
	w.publish()
	for name, b := range map[string][]byte{
		"the current list": w.CRL().Head().Marshal(), "one before": kept.Head().Marshal(), "one of long ago": old.Head().Marshal(),
		"another of long ago": w.next(old).Head().Marshal(), "the pointer record": w.pointer.Marshal(),
	} {
		if err := w.show(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w.wantWorks(name)
	}
	forged := w.next(w.CRL())
	forged.Sign(make(chancery.Signature, 64))
	record := ledger.Draft(w.pointer, epoch)
	record.Signature = make(chancery.Signature, 64)
	stranger := newWorld(t)
	unsigned := ledger.Draft(w.pointer, epoch)
	unsigned.Signature = stranger.sign(unsigned)
	for name, b := range map[string][]byte{
		"nothing": nil, "junk": []byte("junk"), "a list": w.CRL().Marshal(), "a newer list without a signature": forged.Head().Marshal(),
		"of another fleet":             stranger.next(stranger.next(stranger.next(w.CRL()))).Head().Marshal(),
		"a record without a signature": record.Marshal(), "a record of another key": unsigned.Marshal(),
		"another fleet's record": stranger.pointer.Marshal(),
	} {
		if err := w.show(b); err == nil {
			t.Errorf("%s was taken", name)
		}
		w.wantWorks(name)
	}
}

// A coordinator whose database was put back stops when a node shows what it
// holds, and does not start again; with the newest database it does.
func TestShownNewerList(t *testing.T) {
	w := newWorld(t)
	w.issue(3)
	backup := w.save()
	w.revoke(1)
	w.publish()
	held := w.CRL()
	newest := w.save()
	w.restore(backup)
	w.holder = appliancetest.NewHolder(t, w.pointer) // of this copy's life
	w.wantWorks("nobody has noticed yet: the number is the next one anyway")

	w.restore(backup)
	if err := w.show(held.Head().Marshal()); err != nil {
		t.Fatal(err)
	}
	w.wantHalted(ledger.AlarmBehind, ledger.AlarmCRL, "chancery recover --crl")
	w.restore(newest)
	w.holder = appliancetest.NewHolder(t, w.pointer)
	w.wantWorks("with the newest database")
	if !slices.Equal(appliancetest.Revoked(t, w.Ledger), []uint64{1}) {
		t.Error("the revocation is lost")
	}
}

// Two lists of one number, or two pointer records, or a record that the database
// does not have.
func TestShownFork(t *testing.T) {
	for _, test := range []struct {
		name  string
		kind  ledger.AlarmKind
		what  ledger.AlarmWhat
		shown func(w *world) []byte
	}{
		{"another current list", ledger.AlarmFork, ledger.AlarmCRL, func(w *world) []byte {
			last := w.CRL()
			w.publish()
			return w.next(last).Head().Marshal()
		}},
		{"another earlier list", ledger.AlarmFork, ledger.AlarmCRL, func(w *world) []byte {
			last := w.CRL()
			w.publish()
			w.publish()
			return w.next(last).Head().Marshal()
		}},
		{"a newer pointer record", ledger.AlarmBehind, ledger.AlarmPointer, func(w *world) []byte {
			p := ledger.Draft(w.pointer, epoch)
			p.Signature = w.sign(p)
			return p.Marshal()
		}},
		{"another pointer record", ledger.AlarmFork, ledger.AlarmPointer, func(w *world) []byte {
			p := *w.pointer
			p.CRLURL = "https://elsewhere.example"
			p.Signature = w.sign(&p)
			return p.Marshal()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.must(w.store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPointer(w.pointer) }))
			w.issue(1)
			w.publish()
			if err := w.show(test.shown(w)); err != nil {
				t.Fatal(err)
			}
			w.wantHalted(test.kind, test.what, map[ledger.AlarmKind]string{ledger.AlarmFork: "chancery fork clear", ledger.AlarmBehind: "chancery recover"}[test.kind])
			w.must(w.store.Update(t.Context(), ledger.ClearAlarm))
			w.must(w.store.Update(t.Context(), ledger.ClearAlarm)) // twice is no error
			w.open()
			w.wantWorks("cleared")
		})
	}
}

// A list is anchored before anybody sees it, and after it is committed.
func TestAnchorOrder(t *testing.T) {
	w := newWorld(t)
	w.close()
	var marks []anchor.Mark
	w.anchor = func(m *anchor.Mark) {
		marks = append(marks, *m)
		if w.Ledger == nil { // in Open: the list that a crash left
			return
		}
		if shown := w.CRL().Head().Number; shown >= m.CRL {
			t.Errorf("list %d is shown, and anchored only now", shown)
		}
		w.must(w.store.View(context.Background(), func(tx *store.Tx) error {
			have, err := ledger.MarkOf(tx, w.pointer)
			if err == nil && *have != *m {
				t.Errorf("anchored %+v, committed %+v", m, have)
			}
			return err
		}))
	}
	w.open()
	w.issue(5)
	w.publish()
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AppendAudit(w.Log().CA, &chancery.AuditEntry{At: epoch, Operator: "op", Action: "test"})
	}))
	w.publish()
	w.check()
	last := marks[len(marks)-1]
	want := anchor.Mark{Fleet: w.pointer.FleetID(), Pointer: 1, CRL: w.CRL().Head().Number, CA: anchor.HashCA(w.pointer.Current().ID), Log: 1, Size: 5, Audit: 1}
	if last != want || len(marks) != 2 {
		t.Errorf("%d marks, the last %+v; want 2, %+v", len(marks), last, want)
	}
}

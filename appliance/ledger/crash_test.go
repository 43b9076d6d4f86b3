package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
)

// The coordinator ends after it has committed a message and before CA:SK has
// signed it. The next one signs the same message: the same root, the same
// number, the same head.
func TestCrashBeforeSignature(t *testing.T) {
	for _, test := range []struct {
		name string
		step func(*world) error
	}{
		{"subtree", func(w *world) error { _, err := w.Issue(context.Background(), w.newRequest()); return err }},
		{"list", func(w *world) error { return w.PublishCRL(context.Background()) }},
		{"checkpoint", func(w *world) error { return w.Checkpoint(context.Background()) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.issue(3)
				w.checkpoint()
				w.revoke(1)
				w.clock.Advance(time.Minute)
				w.check()

				release := w.signer.Hold()
				before := len(w.signer.Asked())
				failed := make(chan error, 1)
				go func() { failed <- test.step(w) }()
				synctest.Wait()
				w.close()
				if err := <-failed; !errors.Is(err, ledger.ErrClosed) {
					t.Errorf("the caller was told %v", err)
				}
				release()
				fixed := w.signer.Asked()[before:]
				if len(fixed) != 1 {
					t.Fatalf("CA:SK was asked for %d messages", len(fixed))
				}

				w.clock.Advance(time.Hour) // the message does not follow the clock
				w.open()
				again := w.signer.Asked()[before+1:]
				if len(again) != 1 || !bytes.Equal(again[0], fixed[0]) {
					t.Errorf("after the crash CA:SK was asked for %d messages: %x, before it %x", len(again), again, fixed)
				}
				w.check()
				w.issue(1)
				w.publish()
				w.checkpoint()
				w.check()
			})
		})
	}
}

// A crash while a crash is cleared up changes nothing either.
func TestCrashAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.signer.Hold()
		failed := make(chan error)
		go func() {
			_, err := w.Issue(context.Background(), w.newRequest())
			failed <- err
		}()
		synctest.Wait()
		w.close()
		if err := <-failed; !errors.Is(err, ledger.ErrClosed) {
			t.Error(err)
		}

		// The token is still away at the next start.
		var err error
		if w.store, err = store.Open(t.Context(), w.file); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if l, err := ledger.Open(ctx, w.config()); err == nil {
			l.Close()
			t.Error("a ledger opens although it cannot sign what was committed")
		}
		w.close()
		release()
		w.open()
		if w.Size() != 1 {
			t.Errorf("%d entries", w.Size())
		}
		w.check()
		asked := w.signer.Asked()
		last := asked[len(asked)-1]
		if n := count(asked, last); n != 3 {
			t.Errorf("the subtree was asked for %d times, want once in each life", n)
		}
	})
}

func count(all [][]byte, what []byte) (n int) {
	for _, m := range all {
		if bytes.Equal(m, what) {
			n++
		}
	}
	return n
}

// The store fails at each of its writes in turn, and at the commit after it.
// The caller is told, nothing is half done, and when the store works again so
// does the ledger, without a restart: no number and no index is lost or used
// twice.
func TestStoreFails(t *testing.T) {
	issue := func(w *world) error { _, err := w.Issue(context.Background(), w.newRequest()); return err }
	publish := func(w *world) error { return w.PublishCRL(context.Background()) }
	checkpoint := func(w *world) error { return w.Checkpoint(context.Background()) }
	for _, test := range []struct {
		table, op string
		step      func(*world) error
		fixed     bool // the message was committed before the failure
	}{
		{"entries", "INSERT", issue, false},
		{"settings", "INSERT", issue, false}, // what the request writes in the same transaction
		{"subtrees", "INSERT", issue, false},
		{"subtrees", "UPDATE", issue, true},
		{"crls", "INSERT", publish, false},
		{"crls", "DELETE", publish, false},
		{"crls", "UPDATE", publish, true},
		{"checkpoints", "INSERT", checkpoint, false},
		{"checkpoints", "UPDATE", checkpoint, true},
		{"audit_checkpoints", "INSERT", checkpoint, false},
		{"audit_checkpoints", "UPDATE", checkpoint, true},
	} {
		for _, commit := range []bool{false, true} {
			at := appliancetest.Step{Table: test.table, Op: test.op, Commit: commit}
			t.Run(at.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.issue(3)
					w.checkpoint()
					for range store.KeptCRLs { // so that the next list pushes one out
						w.publish()
					}
					w.clock.Advance(time.Minute)
					w.check()
					size, number := w.Size(), w.CRL().Head().Number

					mend := appliancetest.Break(t, w.file, at)
					for range 2 {
						if err := test.step(w); err == nil {
							t.Error("the step succeeded")
						}
						if test.fixed {
							break // the next step waits until the message is signed
						}
						if w.Size() != size || w.CRL().Head().Number != number {
							t.Errorf("a failed step left %d entries and list %d, before it were %d and %d", w.Size(), w.CRL().Head().Number, size, number)
						}
					}
					mend()
					w.must(test.step(w))
					w.check()
					w.issue(2)
					w.revoke(0)
					w.publish()
					w.clock.Advance(time.Second)
					w.checkpoint()
					w.check()
					w.close()
					w.open()
					w.check()
				})
			})
		}
	}
}

// A request that cannot note its own place takes the batch with it, and the
// log goes on.
func TestAppendedFails(t *testing.T) {
	w := newWorld(t)
	w.issue(2)
	r := w.newRequest()
	r.failure = errors.New("no")
	if _, err := w.Issue(t.Context(), r); !errors.Is(err, r.failure) {
		t.Errorf("%v, want %v", err, r.failure)
	}
	if w.Size() != 2 {
		t.Errorf("%d entries", w.Size())
	}
	w.check()
	w.issue(2)
	w.check()
}

// A log with a hole in it is not worked on.
func TestGap(t *testing.T) {
	w := newWorld(t)
	w.issue(1)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AppendEntry(w.Log(), &store.Entry{Index: 2, Entry: []byte{1}, SPKI: []byte{2}})
	}))
	w.Close()
	if l, err := ledger.Open(t.Context(), w.config()); err == nil {
		l.Close()
		t.Error("a log with a gap was opened")
	}
}

package issuer_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/store"
)

// indexes returns the log indexes of a list of log 1.
func indexes(t *testing.T, l *x509.RevocationList) (list []uint64) {
	t.Helper()
	for _, e := range l.RevokedCertificateEntries {
		if log := e.SerialNumber.Uint64() >> 48; log != 1 {
			t.Fatalf("serial number %s is of log %d", e.SerialNumber, log)
		}
		list = append(list, e.SerialNumber.Uint64()&(1<<48-1))
	}
	return list
}

// The list is our own in other bytes: its number, its times, its set; and it
// says since when and why.
func TestList(t *testing.T) {
	w := newWorld(t, 20)
	_, empty := w.list(w.all())
	if len(empty.RevokedCertificateEntries) != 0 {
		t.Errorf("nothing was revoked, and %d are listed", len(empty.RevokedCertificateEntries))
	}
	revoked := w.Clock.Now()
	w.revoke(chancery.ReasonKeyCompromise, 3, 5)
	w.Clock.Advance(time.Minute)
	w.revoke(chancery.ReasonUnspecified, 4)
	ours := w.Ledger.CRL().Head()
	l, list := w.list(w.all())
	if !list.Number.IsUint64() || list.Number.Uint64() != ours.Number || !list.ThisUpdate.Equal(ours.ThisUpdate) || !list.NextUpdate.Equal(ours.NextUpdate) || list.Number.Cmp(empty.Number) <= 0 {
		t.Errorf("number %s of %s to %s after number %s; ours is %d of %s to %s", list.Number, list.ThisUpdate, list.NextUpdate, empty.Number, ours.Number, ours.ThisUpdate, ours.NextUpdate)
	}
	if got := indexes(t, list); !slices.Equal(got, appliancetest.Revoked(t, w.Ledger)) || !slices.Equal(got, []uint64{3, 4, 5}) || l.Revoked != 3 {
		t.Errorf("listed are %v, counted %d", got, l.Revoked)
	}
	for i, want := range []struct {
		at   time.Time
		code chancery.ReasonCode
	}{{revoked, chancery.ReasonKeyCompromise}, {revoked.Add(time.Minute), chancery.ReasonUnspecified}, {revoked, chancery.ReasonKeyCompromise}} {
		if e := list.RevokedCertificateEntries[i]; !e.RevocationTime.Equal(want.at.Truncate(time.Second)) || e.ReasonCode != int(want.code) {
			t.Errorf("entry %d was revoked %s for %d, want %s for %d", i, e.RevocationTime, e.ReasonCode, want.at, want.code)
		}
	}

	// What was revoked since is in the next list, and not in one of that number
	// that is made later.
	err := w.Store.Update(t.Context(), func(tx *store.Tx) error {
		act := &store.Revocation{At: w.Clock.Now()}
		if err := tx.InsertRevocation(act); err != nil {
			return err
		}
		_, err := tx.RevokeSpan(w.Ledger.Log(), 7, 8, act.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, part := w.list(w.partition(0)); !slices.Equal(indexes(t, part), []uint64{3, 4, 5}) || part.Number.Cmp(list.Number) != 0 {
		t.Errorf("number %s lists %v", part.Number, indexes(t, part))
	}
	if err := w.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, next := w.list(w.all()); !slices.Equal(indexes(t, next), []uint64{3, 4, 5, 7}) || next.Number.Cmp(list.Number) <= 0 {
		t.Errorf("number %s lists %v", next.Number, indexes(t, next))
	}
}

// An issuer whose key is not the one that the pointer record names is none.
func TestOtherKey(t *testing.T) {
	w := newWorld(t, 0)
	c := w.Issuer.Config
	c.Signer = signer{newSoftKey(t)}
	if _, err := issuer.New(c); err == nil {
		t.Error("it signs with whatever key there is")
	}
}

// The partitions have what the list of all has, each its own indexes; the one
// that comes next is there before anything in it is known.
func TestPartitions(t *testing.T) {
	const block = chancery.X509PartitionSpan
	w := newWorld(t, block+100)
	w.revoke(chancery.ReasonSuperseded, 0, 7, block-1, block, block+99)
	_, all := w.list(w.all())
	var parts []uint64
	for n, want := range [][]uint64{{0, 7, block - 1}, {block, block + 99}, nil} {
		_, part := w.list(w.partition(uint64(n)))
		if got := indexes(t, part); !slices.Equal(got, want) || part.Number.Cmp(all.Number) != 0 {
			t.Errorf("partition %d, number %s of %s, lists %v, want %v", n, part.Number, all.Number, got, want)
		}
		parts = append(parts, indexes(t, part)...)
	}
	if !slices.Equal(parts, indexes(t, all)) {
		t.Errorf("all lists %v, the partitions %v", indexes(t, all), parts)
	}
	if _, err := w.CRL(t.Context(), w.partition(3)); !errors.Is(err, issuer.ErrNoList) {
		t.Errorf("a partition beyond: %v", err)
	}
	w.Clock.Advance(appliancetest.MaxLife + time.Second)
	if err := w.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CRL(t.Context(), w.partition(0)); !errors.Is(err, issuer.ErrNoList) {
		t.Errorf("a partition of which all has expired: %v", err)
	}
	if _, all := w.list(w.all()); len(all.RevokedCertificateEntries) != 0 {
		t.Errorf("%d that have expired are listed", len(all.RevokedCertificateEntries))
	}
}

// Each list is signed once, however many ask for it and whatever is kept of it.
func TestSignedOnce(t *testing.T) {
	w := newWorld(t, 100)
	w.revoke(chancery.ReasonUnspecified, 1, 2, 3)
	ask := func(part issuer.Part) []byte {
		var group sync.WaitGroup
		lists := make([][]byte, 8)
		for i := range lists {
			group.Go(func() {
				l, err := w.CRL(t.Context(), part)
				if err != nil {
					t.Error(err)
					return
				}
				lists[i] = l.DER
			})
		}
		group.Wait()
		for _, l := range lists {
			if !bytes.Equal(l, lists[0]) {
				t.Fatal("two lists of one number are different")
			}
		}
		return lists[0]
	}
	w.Keep(1) // of two lists one is dropped
	before := w.signer.Total()
	all, part := ask(w.all()), ask(w.partition(0))
	if n := w.signer.Total() - before; n != 2 {
		t.Errorf("two lists took %d signatures", n)
	}
	if !bytes.Equal(ask(w.all()), all) || !bytes.Equal(ask(w.partition(0)), part) {
		t.Error("a list that was dropped is another one now")
	}
	if n := w.signer.Total() - before; n != 2 {
		t.Errorf("they took %d signatures in the end", n)
	}
}

// A token that refuses is asked again by who comes next; one that hangs lets
// those go who do not want to wait.
func TestTokenFails(t *testing.T) {
	w := newWorld(t, 10)
	before := w.signer.Total()
	w.signer.Refuse(1)
	if _, err := w.CRL(t.Context(), w.all()); !errors.Is(err, appliancetest.ErrToken) {
		t.Errorf("a token that refuses: %v", err)
	}
	w.list(w.all())

	w.revoke(chancery.ReasonUnspecified, 1)
	release := w.signer.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.CRL(ctx, w.all()); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait gets %v", err)
	}
	release()
	_, list := w.list(w.all())
	if list.RevokedCertificateEntries[0].SerialNumber.Cmp(big.NewInt(1<<48|1)) != 0 || w.signer.Total()-before != 2 {
		t.Errorf("%d signatures for two lists", w.signer.Total()-before)
	}
}

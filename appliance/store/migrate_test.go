package store

import (
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/chancery-pki/chancery"
)

// What was revoked before there were acts of revocation stays revoked, since
// when and why it was, and so it does on the way back.
func TestRevocationsMigrate(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write.db, files, goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := s.write.db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.DownTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	type row struct {
		at     int64 // 0: not revoked
		reason string
	}
	// Two of one act, one at the same time for another reason, one of another
	// log.
	before := []row{{}, {1000, "fire"}, {1000, "fire"}, {1000, "flood"}, {2000, ""}}
	for i, r := range before {
		var at any
		if r.at != 0 {
			at = r.at
		}
		exec(`INSERT INTO entries (ca, log, idx, entry, leaf, spki, node_id, not_after, revoked, reason) VALUES ('1.2', ?, ?, x'00', ?, x'00', ?, 9000, ?, ?)`,
			1+i/4, i%4, make([]byte, 32), make([]byte, 32), at, r.reason)
	}
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx *Tx) error {
		for i, r := range before {
			e, err := tx.Entry(Log{"1.2", uint16(1 + i/4)}, uint64(i%4))
			if err != nil {
				return err
			}
			var want time.Time
			if r.at != 0 {
				want = time.Unix(r.at, 0)
			}
			if !e.Revoked.Equal(want) || e.Reason != r.reason || e.Code != chancery.ReasonUnspecified {
				t.Errorf("entry %d was revoked %+v, and is now %v, %q, %s", i, r, e.Revoked, e.Reason, e.Code)
			}
		}
		list, err := tx.RevokedFrom(Log{"1.2", 1}, 0)
		if !slices.Equal(list, []uint64{1, 2, 3}) {
			t.Errorf("revoked are %v", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	if _, err := p.DownTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	for i, want := range before {
		var got row
		err := s.write.db.QueryRowContext(t.Context(), `SELECT COALESCE(revoked, 0), reason FROM entries WHERE log = ? AND idx = ?`, 1+i/4, i%4).Scan(&got.at, &got.reason)
		if err != nil || got != want {
			t.Errorf("back again, entry %d was revoked %+v (%v), want %+v", i, got, err, want)
		}
	}
}

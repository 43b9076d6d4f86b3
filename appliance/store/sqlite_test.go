package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"database/sql"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
)

func open(t *testing.T, file string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLite(t *testing.T) {
	contract(t, func(t *testing.T) func() *store.Store {
		file := filepath.Join(t.TempDir(), "store.db")
		return func() *store.Store { return open(t, file) }
	})
}

// Characters that mean something in a URI are taken as they are.
func TestFileName(t *testing.T) {
	for _, name := range []string{"a b.db", "a?mode=memory.db", "a#b.db", "a%20b.db", "ä.db"} {
		file := filepath.Join(t.TempDir(), name)
		if err := open(t, file).Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte("this is no database, but a text that is long enough to have a header in it, if it were one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{junk, filepath.Join(dir, "missing", "store.db"), dir} {
		if s, err := store.Open(t.Context(), file); err == nil {
			s.Close()
			t.Errorf("%s was opened", file)
		}
	}
}

// A stored row that is damaged is an error, not a value.
func TestDamage(t *testing.T) {
	for _, damage := range []string{
		``, // none: the rows are read
		`UPDATE nodes SET ek_digest = x'0102'`,
		`UPDATE nodes SET ek_digest = 'text'`,
		`UPDATE nodes SET roles = '[1'`,
		`UPDATE nodes SET chip = 7`,
		`UPDATE nodes SET enrolled = 'yesterday'`,
		`UPDATE entries SET leaf = x''`,
	} {
		file := filepath.Join(t.TempDir(), "store.db")
		d := &db{T: t, Store: open(t, file)}
		d.update(func(tx *store.Tx) error {
			return errors.Join(tx.PutNode(node(1, "a")), tx.AppendEntry(log, entry(0, id(1))))
		})
		raw, err := sql.Open("sqlite", file) // the driver that package store registers
		if err != nil {
			t.Fatal(err)
		}
		_, err = raw.ExecContext(t.Context(), damage)
		if err := errors.Join(err, raw.Close()); err != nil {
			t.Fatal(err)
		}
		err = d.View(t.Context(), func(tx *store.Tx) error {
			_, one := tx.Node(id(1))
			_, all := tx.NodesAfter("", chancery.NodeID{}, 9)
			_, entries := tx.Entries(log, 0, 9)
			return errors.Join(one, all, entries)
		})
		if (err == nil) != (damage == "") || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: %v", damage, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A pointer record comes back as it was signed; the newest counts.
func testPointers(d *db) {
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Pointer(); return err })
	key := scalar(d.T, 1)
	p := &chancery.Pointer{Genesis: chancery.Genesis{CA: key, Created: start}, Issued: start, Expires: end, TrustDomain: "fleet.example",
		MinSuite: chancery.P256, Approval: scalar(d.T, 2), Signature: make([]byte, 64)}
	for _, p.Seq = range []uint64{2, 1} {
		d.update(func(tx *store.Tx) error { return tx.InsertPointer(p) })
	}
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.InsertPointer(p) }) == nil {
		d.Error("a sequence number is given out twice")
	}
	p.Seq = 2
	same(d, "pointer record", look(d, (*store.Tx).Pointer).Marshal(), p.Marshal())
}

// scalar returns the public key of a private one.
func scalar(t *testing.T, n int64) chancery.PublicKey {
	t.Helper()
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(n).FillBytes(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Look reads beside a writer, changes nothing, and makes no file.
func TestLook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store.db")
	read := func(s *store.Store) (v []byte, err error) {
		return v, s.View(t.Context(), func(tx *store.Tx) (err error) {
			v, err = tx.Setting("x")
			return err
		})
	}
	missing, err := store.Look(file)
	if err == nil {
		_, err = read(missing)
		missing.Close()
	}
	if err == nil {
		t.Error("a file that is not there was read")
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	writer, err := store.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	set := func(s *store.Store, v string) error {
		return s.Update(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("x", []byte(v)) })
	}
	if err := set(writer, "1"); err != nil {
		t.Fatal(err)
	}
	beside, err := store.Look(file)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	for _, want := range []string{"1", "2"} {
		if v, err := read(beside); err != nil || string(v) != want {
			t.Errorf("read %q, %v; want %q", v, err, want)
		}
		if set(beside, "3") == nil {
			t.Error("who looks has written")
		}
		if err := set(writer, "2"); err != nil {
			t.Fatal(err)
		}
	}
}

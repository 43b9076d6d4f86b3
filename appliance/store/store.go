// Package store keeps the coordinator's durable state.
//
// Start with [Open]. All access is inside a transaction: [Store.Update] for
// changes, which are on disk when it returns nil, and [Store.View] for a
// consistent look. The methods of [Tx], a file for each noun, are the only SQL
// of the coordinator.
//
// # Writers
//
// There is one writer at a time. Changes that wait for it are committed
// together, each by itself: what one does not finish is not in the commit.
//
// # Failure
//
// A failed Update has changed nothing. [ErrNotFound] says that a row is not
// there, [ErrTaken] that a name or a chip has a live node already.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/chancery-pki/chancery"
)

// Errors of this package.
var (
	ErrNotFound = errors.New("not found")
	ErrTaken    = errors.New("taken")
)

//go:embed migrations/*.sql
var migrations embed.FS

// A Store is an open database.
type Store struct {
	write *writer // one connection: SQLite has one writer
	read  *statements
}

// Open opens the SQLite database in the file, making and migrating it as
// needed. Its directory must exist.
func Open(ctx context.Context, file string) (*Store, error) {
	// FULL: a commit is on the disk when it returns, also after a power cut. The
	// writer has 16 MB for pages and moves the log into the database when it has
	// 64 MB: inserts with random keys touch the same pages often.
	dsn := uri(file) + "&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"
	write, err := sql.Open("sqlite", dsn+"&_txlock=immediate&_pragma=cache_size(-16384)&_pragma=wal_autocheckpoint(16384)")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)")
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("store: %w", err)
	}
	read.SetMaxOpenConns(8)
	s := &Store{&writer{statements: &statements{db: write, m: map[string]*sql.Stmt{}}}, &statements{db: read, m: map[string]*sql.Stmt{}}}
	if err := s.migrate(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("store: %s: %w", file, err)
	}
	return s, nil
}

// Look opens a database for reading, beside whoever works on it. It makes
// nothing and migrates nothing: a file that is not there is an error, and so may
// be a look at what an older version made.
func Look(file string) (*Store, error) {
	db, err := sql.Open("sqlite", uri(file)+"&mode=rw&_pragma=query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	only := &statements{db: db, m: map[string]*sql.Stmt{}}
	return &Store{&writer{statements: only}, only}, nil
}

func uri(file string) string {
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?_pragma=busy_timeout(10000)"
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write.db, files, goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.read.db.Close(), s.write.db.Close()) }

// A Tx is a transaction. It must not be used after the function that it was
// given to has returned.
type Tx struct {
	ctx        context.Context
	tx         *sql.Tx
	statements *statements
	missed     []string // texts that were not prepared
}

// Update runs f in a transaction and commits it if f returns nil. When Update
// returns nil the changes are durable. f sees what others change in the same
// commit, see [writer]; if the commit fails it does so for all of them.
func (s *Store) Update(ctx context.Context, f func(*Tx) error) error { return s.write.update(ctx, f) }

// View runs f in a transaction that sees one state of the database.
func (s *Store) View(ctx context.Context, f func(*Tx) error) error { return run(ctx, s.read, f) }

func run(ctx context.Context, s *statements, f func(*Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	t := &Tx{ctx: ctx, tx: tx, statements: s}
	defer func() {
		tx.Rollback() // of what was not committed
		s.prepare(ctx, t.missed)
	}()
	if err := f(t); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil { // which was faster
			err = ctx.Err()
		}
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// exec runs a statement that must change exactly one row.
func (t *Tx) exec(query string, args ...any) error {
	n, err := t.execAny(query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

func (t *Tx) execAny(query string, args ...any) (int64, error) {
	r, err := t.prepared(query).exec(args...)
	if err != nil {
		if e, ok := errors.AsType[*sqlite.Error](err); ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
			return 0, fmt.Errorf("%w: %v", ErrTaken, err)
		}
		return 0, fmt.Errorf("store: %w", err)
	}
	return r.RowsAffected()
}

// row reads one row; none is ErrNotFound.
func (t *Tx) row(query string, args []any, dest ...any) error {
	err := t.prepared(query).row(args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// rows calls scan for each row.
func (t *Tx) rows(query string, args []any, scan func(*sql.Rows) error) error {
	r, err := t.prepared(query).query(args...)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer r.Close()
	for r.Next() {
		if err := scan(r); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// all collects what each row scans to.
func all[T any](t *Tx, query string, args []any, scan func(*sql.Rows) (T, error)) ([]T, error) {
	var list []T
	err := t.rows(query, args, func(r *sql.Rows) error {
		v, err := scan(r)
		if err == nil {
			list = append(list, v)
		}
		return err
	})
	return list, err
}

// A column of JSON text.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	return string(b)
}

// jsonColumn scans JSON text into v.
type jsonColumn struct{ v any }

func (c jsonColumn) Scan(src any) error {
	switch s := src.(type) {
	case string:
		return json.Unmarshal([]byte(s), c.v)
	case []byte:
		return json.Unmarshal(s, c.v)
	}
	return fmt.Errorf("JSON column holds %T", src)
}

// timeColumn scans seconds since 1970; NULL is the zero time.
type timeColumn struct{ t *time.Time }

func (c timeColumn) Scan(src any) error {
	switch s := src.(type) {
	case nil:
		*c.t = time.Time{}
		return nil
	case int64:
		*c.t = time.Unix(s, 0).UTC()
		return nil
	}
	return fmt.Errorf("time column holds %T", src)
}

// bits scans an integer that a chip counts in 64 bits: SQL's are signed.
type bits struct{ v *uint64 }

func (c bits) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("integer column holds %T", src)
	}
	*c.v = uint64(n)
	return nil
}

// fixed scans a BLOB into an array of exactly that size.
type fixed struct{ dst []byte }

func (c fixed) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok || len(b) != len(c.dst) {
		return fmt.Errorf("column holds %T of %d bytes, want %d", src, len(b), len(c.dst))
	}
	copy(c.dst, b)
	return nil
}

// optionalID scans a node's identifier; NULL is nil.
type optionalID struct{ id **chancery.NodeID }

func (c optionalID) Scan(src any) error {
	if src == nil {
		*c.id = nil
		return nil
	}
	var id chancery.NodeID
	*c.id = &id
	return fixed{id[:]}.Scan(src)
}

func slicedID(id *chancery.NodeID) []byte {
	if id == nil {
		return nil
	}
	return id[:]
}

// Setting returns a named value.
func (t *Tx) Setting(name string) (v []byte, err error) {
	err = t.row(`SELECT value FROM settings WHERE name = ?`, []any{name}, &v)
	return v, err
}

// SetSetting stores a named value.
func (t *Tx) SetSetting(name string, v []byte) error {
	return t.exec(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, v)
}

// DeleteSetting removes a named value.
func (t *Tx) DeleteSetting(name string) error {
	return t.exec(`DELETE FROM settings WHERE name = ?`, name)
}

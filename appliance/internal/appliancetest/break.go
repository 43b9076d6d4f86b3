package appliancetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
)

// A Step is a write at which a store can be made to fail.
type Step struct {
	Table string
	Op    string // INSERT, UPDATE or DELETE
	// Commit lets the write pass, and the commit of its transaction fail.
	Commit bool
}

func (s Step) String() string {
	if s.Commit {
		return "commit after " + s.Op + " " + s.Table
	}
	return s.Op + " " + s.Table
}

// Break makes the store in the SQLite file fail at the step until mend is
// called. A trigger in the database does it, so that the store is the real one;
// a commit fails because the trigger broke a deferred foreign key.
func Break(t testing.TB, file string, s Step) (mend func()) {
	t.Helper()
	act := `SELECT RAISE(ABORT, 'broken by a test')`
	if s.Commit {
		act = `INSERT INTO broken_child VALUES (1)`
	}
	execute(t, file,
		`CREATE TABLE IF NOT EXISTS broken_parent (id INTEGER PRIMARY KEY)`,
		`CREATE TABLE IF NOT EXISTS broken_child (id INTEGER REFERENCES broken_parent DEFERRABLE INITIALLY DEFERRED)`,
		fmt.Sprintf(`CREATE TRIGGER broken AFTER %s ON %s BEGIN %s; END`, s.Op, s.Table, act))
	return func() {
		t.Helper()
		execute(t, file, `DROP TRIGGER broken`)
	}
}

// execute runs statements on a connection of its own; package store has
// registered the driver.
func execute(t testing.TB, file string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		_, failed := db.ExecContext(context.Background(), s)
		err = errors.Join(err, failed)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

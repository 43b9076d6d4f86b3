package store

import (
	"context"
	"database/sql"
	"sync"
)

// statements keeps the statements of one database prepared: SQLite takes longer
// to compile most of them than to run them. There are as many as this package
// has texts.
type statements struct {
	db *sql.DB
	mu sync.RWMutex
	m  map[string]*sql.Stmt
}

func (s *statements) get(query string) *sql.Stmt {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[query]
}

// prepare compiles the texts that a transaction had to do without. It must not
// be called inside of one, which may have the only connection. A text that
// cannot be prepared was an error of the transaction's already.
func (s *statements) prepare(ctx context.Context, queries []string) {
	for _, q := range queries {
		if s.get(q) != nil {
			continue
		}
		stmt, err := s.db.PrepareContext(ctx, q)
		if err != nil {
			return // the next transaction does without, too
		}
		s.mu.Lock()
		if s.m[q] == nil {
			s.m[q] = stmt
		} else {
			stmt.Close()
		}
		s.mu.Unlock()
	}
}

// A querier is a transaction, or a statement in one, with the text bound.
type querier interface {
	exec(args ...any) (sql.Result, error)
	query(args ...any) (*sql.Rows, error)
	row(args ...any) *sql.Row
}

// prepared returns the statement of a text, or what stands in for it this time.
func (t *Tx) prepared(query string) querier {
	if stmt := t.statements.get(query); stmt != nil {
		return bound{t.ctx, t.tx.StmtContext(t.ctx, stmt)}
	}
	t.missed = append(t.missed, query)
	return unbound{t, query}
}

type bound struct {
	ctx  context.Context
	stmt *sql.Stmt
}

func (b bound) exec(args ...any) (sql.Result, error) { return b.stmt.ExecContext(b.ctx, args...) }
func (b bound) query(args ...any) (*sql.Rows, error) { return b.stmt.QueryContext(b.ctx, args...) }
func (b bound) row(args ...any) *sql.Row             { return b.stmt.QueryRowContext(b.ctx, args...) }

type unbound struct {
	t    *Tx
	text string
}

func (u unbound) exec(args ...any) (sql.Result, error) {
	return u.t.tx.ExecContext(u.t.ctx, u.text, args...)
}

func (u unbound) query(args ...any) (*sql.Rows, error) {
	return u.t.tx.QueryContext(u.t.ctx, u.text, args...)
}

func (u unbound) row(args ...any) *sql.Row { return u.t.tx.QueryRowContext(u.t.ctx, u.text, args...) }

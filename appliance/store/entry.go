package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// A Log names an issuance log.
type Log struct {
	CA     string // CA id
	Number uint16
}

// An Entry is one entry of an issuance log.
type Entry struct {
	Index    uint64
	Entry    []byte // MTCLogEntry
	Leaf     merkle.Hash
	SPKI     []byte
	NodeID   chancery.NodeID
	NotAfter time.Time
	Revoked  time.Time
	Reason   string
	Code     chancery.ReasonCode // of the revocation
}

// selectEntries is joined with what says that an entry is revoked. The
// conditions that follow are on e.
const selectEntries = `SELECT e.idx, e.entry, e.leaf, e.spki, e.node_id, e.not_after, r.at, COALESCE(r.reason, ''), COALESCE(r.code, 0)
	FROM entries e LEFT JOIN revoked v ON v.ca = e.ca AND v.log = e.log AND v.idx = e.idx LEFT JOIN revocations r ON r.id = v.revocation `

func (e *Entry) dest() []any {
	return []any{&e.Index, &e.Entry, fixed{e.Leaf[:]}, &e.SPKI, fixed{e.NodeID[:]}, timeColumn{&e.NotAfter}, timeColumn{&e.Revoked}, &e.Reason, &e.Code}
}

// AppendEntry stores an entry at its index.
func (t *Tx) AppendEntry(l Log, e *Entry) error {
	return t.exec(`INSERT INTO entries (ca, log, idx, entry, leaf, spki, node_id, not_after) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		l.CA, l.Number, int64(e.Index), e.Entry, e.Leaf[:], e.SPKI, e.NodeID[:], e.NotAfter.Unix())
}

// LogSize returns how many entries a log has.
func (t *Tx) LogSize(l Log) (size uint64, err error) {
	err = t.row(`SELECT COALESCE(MAX(idx) + 1, 0) FROM entries WHERE ca = ? AND log = ?`, []any{l.CA, l.Number}, &size)
	return size, err
}

// Entry returns one entry.
func (t *Tx) Entry(l Log, index uint64) (*Entry, error) {
	var e Entry
	err := t.row(selectEntries+`WHERE e.ca = ? AND e.log = ? AND e.idx = ?`, []any{l.CA, l.Number, int64(index)}, e.dest()...)
	return &e, err
}

// Entries returns up to limit entries from an index on.
func (t *Tx) Entries(l Log, from uint64, limit int) ([]Entry, error) {
	return all(t, selectEntries+`WHERE e.ca = ? AND e.log = ? AND e.idx >= ? ORDER BY e.idx LIMIT ?`, []any{l.CA, l.Number, int64(from), limit},
		func(r *sql.Rows) (e Entry, err error) { return e, r.Scan(e.dest()...) })
}

// EntriesOf returns a node's entries in a log.
func (t *Tx) EntriesOf(l Log, id chancery.NodeID) ([]Entry, error) {
	// Not "ca = ?": with it SQLite goes through all of the log by its primary
	// key instead of to the node by entries_node.
	return all(t, selectEntries+`WHERE e.ca || '' = ? AND e.log = ? AND e.node_id = ? ORDER BY e.idx`, []any{l.CA, l.Number, id[:]},
		func(r *sql.Rows) (e Entry, err error) { return e, r.Scan(e.dest()...) })
}

// Leaves calls f with the leaf hash of every entry in order.
func (t *Tx) Leaves(l Log, f func(merkle.Hash)) error {
	return t.rows(`SELECT leaf FROM entries WHERE ca = ? AND log = ? ORDER BY idx`, []any{l.CA, l.Number}, func(r *sql.Rows) error {
		var h merkle.Hash
		err := r.Scan(fixed{h[:]})
		if err == nil {
			f(h)
		}
		return err
	})
}

// FirstLive returns the first index from one on that has not expired, or size.
func (t *Tx) FirstLive(l Log, from, size uint64, now time.Time) (first uint64, err error) {
	err = t.row(`SELECT idx FROM entries WHERE ca = ? AND log = ? AND idx >= ? AND not_after >= ? ORDER BY idx LIMIT 1`,
		[]any{l.CA, l.Number, int64(from), now.Unix()}, &first)
	if err == ErrNotFound {
		return size, nil
	}
	return first, err
}

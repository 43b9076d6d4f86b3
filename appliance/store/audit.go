package store

import (
	"database/sql"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// AppendAudit appends an entry to the audit log of a CA key. Whoever changes
// something calls it in the transaction of the change.
func (t *Tx) AppendAudit(ca string, e *chancery.AuditEntry) error {
	b, err := e.Marshal()
	if err != nil {
		return err
	}
	leaf := merkle.HashLeaf(b)
	return t.exec(`INSERT INTO audit (ca, idx, entry, leaf) SELECT ?, COALESCE(MAX(idx) + 1, 0), ?, ? FROM audit WHERE ca = ?`, ca, b, leaf[:], ca)
}

// AuditEntries returns up to limit entries, as they were marshalled, from an
// index on.
func (t *Tx) AuditEntries(ca string, from uint64, limit int) ([][]byte, error) {
	return all(t, `SELECT entry FROM audit WHERE ca = ? AND idx >= ? ORDER BY idx LIMIT ?`, []any{ca, int64(from), limit}, func(r *sql.Rows) (b []byte, err error) {
		return b, r.Scan(&b)
	})
}

// AuditLeaves returns the leaf hashes from an index on.
func (t *Tx) AuditLeaves(ca string, from uint64) ([]merkle.Hash, error) {
	return all(t, `SELECT leaf FROM audit WHERE ca = ? AND idx >= ? ORDER BY idx`, []any{ca, int64(from)}, func(r *sql.Rows) (h merkle.Hash, err error) {
		return h, r.Scan(fixed{h[:]})
	})
}

// AuditSize returns how many entries the audit log of a CA key has.
func (t *Tx) AuditSize(ca string) (size uint64, err error) {
	err = t.row(`SELECT COALESCE(MAX(idx) + 1, 0) FROM audit WHERE ca = ?`, []any{ca}, &size)
	return size, err
}

// InsertAuditCheckpoint fixes a checkpoint of an audit log.
func (t *Tx) InsertAuditCheckpoint(ca string, c *Checkpoint) error {
	return t.exec(`INSERT INTO audit_checkpoints (ca, size, root, at) VALUES (?, ?, ?, ?)`, ca, int64(c.Size), c.Root[:], c.At.Unix())
}

// SignAuditCheckpoint stores the signature of a checkpoint, once.
func (t *Tx) SignAuditCheckpoint(ca string, c *Checkpoint) error {
	return t.exec(`UPDATE audit_checkpoints SET signature = ? WHERE ca = ? AND size = ? AND at = ? AND signature IS NULL`, []byte(c.Signature), ca, int64(c.Size), c.At.Unix())
}

// LatestAuditCheckpoint returns the newest checkpoint, signed or not.
func (t *Tx) LatestAuditCheckpoint(ca string) (*Checkpoint, error) {
	var c Checkpoint
	err := t.row(`SELECT `+checkpointColumns+` FROM audit_checkpoints WHERE ca = ? ORDER BY size DESC, at DESC LIMIT 1`, []any{ca}, c.dest()...)
	return &c, err
}

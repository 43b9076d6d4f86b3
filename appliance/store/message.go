package store

import (
	"database/sql"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// Messages for CA:SK are stored before they are signed, and signed as they
// were stored: docs/protocol.md section 2, "One way to sign with CA:SK".

// A Subtree is the message that certifies one batch of entries.
type Subtree struct {
	BatchStart uint64 // first index of the batch; the tree may begin earlier
	Tree       merkle.Subtree
	Root       merkle.Hash
	Signature  chancery.Signature // nil until signed

	// Cosignatures are those of witnesses that its certificates have, in the
	// order of the cosigners. Only [Tx.SubtreeOf] fills them in.
	Cosignatures []merkle.SubtreeSignature
}

const subtreeColumns = `batch_start, tree_start, tree_end, root, signature`

func (s *Subtree) dest() []any {
	return []any{&s.BatchStart, &s.Tree.Start, &s.Tree.End, fixed{s.Root[:]}, (*[]byte)(&s.Signature)}
}

// InsertSubtree fixes a subtree message.
func (t *Tx) InsertSubtree(l Log, s *Subtree) error {
	return t.exec(`INSERT INTO subtrees (ca, log, batch_start, tree_start, tree_end, root) VALUES (?, ?, ?, ?, ?, ?)`,
		l.CA, l.Number, int64(s.BatchStart), int64(s.Tree.Start), int64(s.Tree.End), s.Root[:])
}

// SignSubtree stores the signature of a subtree message, once.
func (t *Tx) SignSubtree(l Log, s *Subtree) error {
	return t.exec(`UPDATE subtrees SET signature = ? WHERE ca = ? AND log = ? AND tree_end = ? AND signature IS NULL`, []byte(s.Signature), l.CA, l.Number, int64(s.Tree.End))
}

// SubtreeOf returns the message that certifies the entry at an index.
func (t *Tx) SubtreeOf(l Log, index uint64) (*Subtree, error) {
	var s Subtree
	err := t.row(`SELECT `+subtreeColumns+` FROM subtrees WHERE ca = ? AND log = ? AND tree_end > ? AND batch_start <= ? ORDER BY tree_end LIMIT 1`,
		[]any{l.CA, l.Number, int64(index), int64(index)}, s.dest()...)
	if err != nil {
		return nil, err
	}
	s.Cosignatures, err = all(t, `SELECT cosigner, signature FROM cosignatures WHERE ca = ? AND log = ? AND tree_end = ?`, []any{l.CA, l.Number, int64(s.Tree.End)},
		func(r *sql.Rows) (c merkle.SubtreeSignature, err error) {
			var id string
			if err := r.Scan(&id, &c.Signature); err != nil {
				return c, err
			}
			c.Cosigner, err = merkle.ParseTrustAnchorID(id)
			return c, err
		})
	slices.SortFunc(s.Cosignatures, func(a, b merkle.SubtreeSignature) int { return a.Cosigner.Compare(b.Cosigner) })
	return &s, err
}

// InsertCosignatures stores what witnesses signed of a batch.
func (t *Tx) InsertCosignatures(l Log, s *Subtree, list []merkle.SubtreeSignature) error {
	for _, c := range list {
		err := t.exec(`INSERT INTO cosignatures (ca, log, tree_end, cosigner, signature) VALUES (?, ?, ?, ?, ?)`, l.CA, l.Number, int64(s.Tree.End), c.Cosigner.String(), c.Signature)
		if err != nil {
			return err
		}
	}
	return nil
}

// Subtrees returns up to limit messages whose batch begins at an index or
// after it.
func (t *Tx) Subtrees(l Log, from uint64, limit int) ([]Subtree, error) {
	return all(t, `SELECT `+subtreeColumns+` FROM subtrees WHERE ca = ? AND log = ? AND batch_start >= ? ORDER BY tree_end LIMIT ?`, []any{l.CA, l.Number, int64(from), limit},
		func(r *sql.Rows) (s Subtree, err error) { return s, r.Scan(s.dest()...) })
}

// UnsignedSubtrees returns the messages that a crash or a dead token left
// unsigned.
func (t *Tx) UnsignedSubtrees(l Log) ([]Subtree, error) {
	return all(t, `SELECT `+subtreeColumns+` FROM subtrees WHERE ca = ? AND log = ? AND signature IS NULL ORDER BY tree_end`, []any{l.CA, l.Number},
		func(r *sql.Rows) (s Subtree, err error) { return s, r.Scan(s.dest()...) })
}

// A Checkpoint is the message that states a log's size and root at a time.
type Checkpoint struct {
	Size      uint64
	Root      merkle.Hash
	At        time.Time
	Signature chancery.Signature // nil until signed
}

const checkpointColumns = `size, root, at, signature`

func (c *Checkpoint) dest() []any {
	return []any{&c.Size, fixed{c.Root[:]}, timeColumn{&c.At}, (*[]byte)(&c.Signature)}
}

// InsertCheckpoint fixes a checkpoint.
func (t *Tx) InsertCheckpoint(l Log, c *Checkpoint) error {
	return t.exec(`INSERT INTO checkpoints (ca, log, size, root, at) VALUES (?, ?, ?, ?, ?)`, l.CA, l.Number, int64(c.Size), c.Root[:], c.At.Unix())
}

// SignCheckpoint stores the signature of a checkpoint, once.
func (t *Tx) SignCheckpoint(l Log, c *Checkpoint) error {
	return t.exec(`UPDATE checkpoints SET signature = ? WHERE ca = ? AND log = ? AND size = ? AND at = ? AND signature IS NULL`, []byte(c.Signature), l.CA, l.Number, int64(c.Size), c.At.Unix())
}

// LatestCheckpoint returns the newest checkpoint, signed or not.
func (t *Tx) LatestCheckpoint(l Log) (*Checkpoint, error) {
	var c Checkpoint
	err := t.row(`SELECT `+checkpointColumns+` FROM checkpoints WHERE ca = ? AND log = ? ORDER BY size DESC, at DESC LIMIT 1`, []any{l.CA, l.Number}, c.dest()...)
	return &c, err
}

// UnsignedCheckpoints returns the checkpoints that were left unsigned.
func (t *Tx) UnsignedCheckpoints(l Log) ([]Checkpoint, error) {
	return all(t, `SELECT `+checkpointColumns+` FROM checkpoints WHERE ca = ? AND log = ? AND signature IS NULL ORDER BY size, at`, []any{l.CA, l.Number},
		func(r *sql.Rows) (c Checkpoint, err error) { return c, r.Scan(c.dest()...) })
}

// A CRL is a revocation list as fixed, and its signature once it has one.
type CRL struct {
	Number    uint64
	List      []byte // chancery.CRL.Marshal, without signature
	Signature chancery.Signature
}

// InsertCRL fixes a list. Lists before the last few are of no more use and
// are dropped.
func (t *Tx) InsertCRL(c *CRL) error {
	if err := t.exec(`INSERT INTO crls (number, list) VALUES (?, ?)`, int64(c.Number), c.List); err != nil {
		return err
	}
	_, err := t.execAny(`DELETE FROM crls WHERE number < ?`, int64(c.Number)-KeptCRLs)
	return err
}

// KeptCRLs is how many lists are kept before the current one.
const KeptCRLs = 16

// SignCRL stores the signature of a list, once.
func (t *Tx) SignCRL(number uint64, sig chancery.Signature) error {
	return t.exec(`UPDATE crls SET signature = ? WHERE number = ? AND signature IS NULL`, []byte(sig), int64(number))
}

// ReplaceCRLs drops all lists for a signed one that came from elsewhere.
func (t *Tx) ReplaceCRLs(c *CRL) error {
	if _, err := t.execAny(`DELETE FROM crls`); err != nil {
		return err
	}
	if err := t.InsertCRL(c); err != nil {
		return err
	}
	return t.SignCRL(c.Number, c.Signature)
}

// CRLs returns the lists that are kept, in ascending order.
func (t *Tx) CRLs() ([]CRL, error) {
	return all(t, `SELECT number, list, signature FROM crls ORDER BY number`, nil, func(r *sql.Rows) (c CRL, err error) {
		return c, r.Scan(&c.Number, &c.List, (*[]byte)(&c.Signature))
	})
}

// CRLNumber returns the number of the newest list, signed or not; 0 for none.
func (t *Tx) CRLNumber() (number uint64, err error) {
	err = t.row(`SELECT COALESCE(MAX(number), 0) FROM crls`, nil, &number)
	return number, err
}

// InsertPointer stores a signed pointer record.
func (t *Tx) InsertPointer(p *chancery.Pointer) error {
	return t.exec(`INSERT INTO pointers (seq, record) VALUES (?, ?)`, int64(p.Seq), p.Marshal())
}

// Pointer returns the newest pointer record.
func (t *Tx) Pointer() (*chancery.Pointer, error) {
	var b []byte
	if err := t.row(`SELECT record FROM pointers ORDER BY seq DESC LIMIT 1`, nil, &b); err != nil {
		return nil, err
	}
	return chancery.ParsePointer(b)
}

// PointerAt returns the pointer record of a sequence number.
func (t *Tx) PointerAt(seq uint64) (*chancery.Pointer, error) {
	var b []byte
	if err := t.row(`SELECT record FROM pointers WHERE seq = ?`, []any{int64(seq)}, &b); err != nil {
		return nil, err
	}
	return chancery.ParsePointer(b)
}

package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Reseal is a node's wish to have its present boot state approved.
type Reseal struct {
	NodeID    chancery.NodeID
	Epoch     uint64
	PCRs      map[int][]byte // as quoted by the node's AK
	Asked     time.Time
	Signature chancery.Signature // the approval; nil while pending
}

const resealColumns = `node_id, epoch, pcrs, asked, signature`

func (s *Reseal) dest() []any {
	return []any{fixed{s.NodeID[:]}, &s.Epoch, jsonColumn{&s.PCRs}, timeColumn{&s.Asked}, (*[]byte)(&s.Signature)}
}

// PutReseal stores a wish in place of the node's last one.
func (t *Tx) PutReseal(s *Reseal) error {
	return t.exec(`INSERT INTO reseals (node_id, epoch, pcrs, asked, state) VALUES (?, ?, ?, ?, 'pending')
		ON CONFLICT (node_id) DO UPDATE SET epoch = excluded.epoch, pcrs = excluded.pcrs, asked = excluded.asked, state = 'pending', signature = NULL`,
		s.NodeID[:], int64(s.Epoch), toJSON(s.PCRs), s.Asked.Unix())
}

// Reseal returns a node's wish.
func (t *Tx) Reseal(id chancery.NodeID) (*Reseal, error) {
	var s Reseal
	err := t.row(`SELECT `+resealColumns+` FROM reseals WHERE node_id = ?`, []any{id[:]}, s.dest()...)
	return &s, err
}

// Reseals returns all wishes, the oldest first.
func (t *Tx) Reseals() ([]Reseal, error) {
	return all(t, `SELECT `+resealColumns+` FROM reseals ORDER BY asked, node_id`, nil, func(r *sql.Rows) (s Reseal, err error) {
		return s, r.Scan(s.dest()...)
	})
}

// ApproveReseal stores the approval of a wish that is still the same.
func (t *Tx) ApproveReseal(s *Reseal) error {
	return t.exec(`UPDATE reseals SET state = 'approved', signature = ? WHERE node_id = ? AND epoch = ? AND pcrs = ? AND asked = ? AND state = 'pending'`,
		[]byte(s.Signature), s.NodeID[:], int64(s.Epoch), toJSON(s.PCRs), s.Asked.Unix())
}

package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// A BootState is a state that an operator approved ahead of time.
type BootState struct {
	ID       int64
	Names    string // glob of the nodes that it is for
	PCRs     map[int][]byte
	Operator string
	At       time.Time
}

const bootStateColumns = `id, names, pcrs, operator, at`

func (b *BootState) dest() []any {
	return []any{&b.ID, &b.Names, jsonColumn{&b.PCRs}, &b.Operator, timeColumn{&b.At}}
}

// InsertBootState stores a state and sets its ID.
func (t *Tx) InsertBootState(b *BootState) error {
	return t.row(`INSERT INTO boot_states (names, pcrs, operator, at) VALUES (?, ?, ?, ?) RETURNING id`,
		[]any{b.Names, toJSON(b.PCRs), b.Operator, b.At.Unix()}, &b.ID)
}

// BootStates returns all states, the oldest first.
func (t *Tx) BootStates() ([]BootState, error) {
	return all(t, `SELECT `+bootStateColumns+` FROM boot_states ORDER BY id`, nil, func(r *sql.Rows) (b BootState, err error) {
		return b, r.Scan(b.dest()...)
	})
}

// RemoveBootState removes a state. Approvals that nodes have stay good until
// their epoch is raised.
func (t *Tx) RemoveBootState(id int64) error {
	if _, err := t.execAny(`DELETE FROM boot_approvals WHERE state = ?`, id); err != nil {
		return err
	}
	return t.exec(`DELETE FROM boot_states WHERE id = ?`, id)
}

// BootApproval returns the signature that was made for a node, a state and an
// epoch.
func (t *Tx) BootApproval(state int64, id chancery.NodeID, epoch uint64) (sig []byte, err error) {
	err = t.row(`SELECT signature FROM boot_approvals WHERE state = ? AND node_id = ? AND epoch = ?`, []any{state, id[:], int64(epoch)}, &sig)
	return sig, err
}

// PutBootApproval stores it.
func (t *Tx) PutBootApproval(state int64, id chancery.NodeID, epoch uint64, sig []byte) error {
	return t.exec(`INSERT INTO boot_approvals (state, node_id, epoch, signature) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, state, id[:], int64(epoch), sig)
}

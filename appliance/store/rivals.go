package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Rival is a node, dead or alive, that has something which an enrolment
// wants: its key, its name, or its chip.
type Rival struct {
	ID       chancery.NodeID
	Name     string
	State    string
	Revoked  time.Time
	EKDigest [32]byte
}

// Rivals returns the nodes that have the key, the name or the chip, each once.
// It costs one look at three indexes, where whole rows would have to be parsed.
func (t *Tx) Rivals(id chancery.NodeID, name string, ek [32]byte) ([]Rival, error) {
	const columns = `SELECT node_id, name, state, revoked, ek_digest FROM nodes WHERE `
	return all(t, columns+`node_id = ? UNION `+columns+`name = ? UNION `+columns+`ek_digest = ?`, []any{id[:], name, ek[:]}, func(r *sql.Rows) (n Rival, err error) {
		return n, r.Scan(fixed{n.ID[:]}, &n.Name, &n.State, timeColumn{&n.Revoked}, fixed{n.EKDigest[:]})
	})
}

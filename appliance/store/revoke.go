package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Revocation is one act: what one command revokes, or the coordinator of its
// own accord. It may take several transactions.
type Revocation struct {
	ID       int64
	At       time.Time
	Code     chancery.ReasonCode
	Reason   string
	Operator string
	Action   string
	Subject  string
	List     []byte // SHA-256 over the selectors, as far as they were taken
	Tally
	UnderWay bool // it is not in the audit log yet
}

// A Tally says how far an act has come.
type Tally struct {
	Selectors    uint64 // lines of the list
	Unknown      uint64 // selectors that name nothing
	Nodes        uint64
	Certificates uint64
	Already      uint64 // selectors of nodes, and certificates, with nothing left to revoke
	Expired      uint64 // certificates that no list has to name any more
}

// Add adds another one.
func (t *Tally) Add(o Tally) {
	t.Selectors += o.Selectors
	t.Unknown += o.Unknown
	t.Nodes += o.Nodes
	t.Certificates += o.Certificates
	t.Already += o.Already
	t.Expired += o.Expired
}

const revocationColumns = `id, at, code, reason, operator, action, subject, list, selectors, unknown, nodes, certificates, already, expired, under_way`

func (r *Revocation) dest() []any {
	return []any{&r.ID, timeColumn{&r.At}, &r.Code, &r.Reason, &r.Operator, &r.Action, &r.Subject, &r.List,
		&r.Selectors, &r.Unknown, &r.Nodes, &r.Certificates, &r.Already, &r.Expired, &r.UnderWay}
}

// InsertRevocation stores an act and gives it its ID.
func (t *Tx) InsertRevocation(r *Revocation) error {
	if r.List == nil {
		r.List = []byte{}
	}
	return t.row(`INSERT INTO revocations (at, code, reason, operator, action, subject, list, selectors, unknown, nodes, certificates, already, expired, under_way)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		[]any{r.At.Unix(), r.Code, r.Reason, r.Operator, r.Action, r.Subject, r.List, r.Selectors, r.Unknown, r.Nodes, r.Certificates, r.Already, r.Expired, r.UnderWay}, &r.ID)
}

// NoteRevocation notes how far an act has come.
func (t *Tx) NoteRevocation(r *Revocation) error {
	return t.exec(`UPDATE revocations SET list = ?, selectors = ?, unknown = ?, nodes = ?, certificates = ?, already = ?, expired = ?, under_way = ? WHERE id = ?`,
		r.List, r.Selectors, r.Unknown, r.Nodes, r.Certificates, r.Already, r.Expired, r.UnderWay, r.ID)
}

// ForgetRevocation removes an act that came to nothing.
func (t *Tx) ForgetRevocation(id int64) error {
	return t.exec(`DELETE FROM revocations WHERE id = ?`, id)
}

// RevocationsUnderWay returns the acts that are not in the audit log yet.
func (t *Tx) RevocationsUnderWay() ([]Revocation, error) {
	return all(t, `SELECT `+revocationColumns+` FROM revocations WHERE under_way = 1 ORDER BY id`, nil, func(r *sql.Rows) (v Revocation, err error) {
		return v, r.Scan(v.dest()...)
	})
}

// RevokeSpan revokes the entries of a log from one index on and below another,
// and returns how many were not revoked before.
func (t *Tx) RevokeSpan(l Log, from, below uint64, revocation int64) (int64, error) {
	if below == from+1 {
		// The caller knows that the entry is there, so it is not looked up: an
		// act may name a million of them, one by one.
		return t.execAny(`INSERT INTO revoked (ca, log, idx, revocation) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, l.CA, l.Number, int64(from), revocation)
	}
	return t.execAny(`INSERT INTO revoked (ca, log, idx, revocation)
		SELECT ca, log, idx, ? FROM entries WHERE ca = ? AND log = ? AND idx >= ? AND idx < ? ON CONFLICT DO NOTHING`, revocation, l.CA, l.Number, int64(from), int64(below))
}

// CountRevoked returns how many entries from one index on and below another are
// revoked.
func (t *Tx) CountRevoked(l Log, from, below uint64) (n int64, err error) {
	err = t.row(`SELECT COUNT(*) FROM revoked WHERE ca = ? AND log = ? AND idx >= ? AND idx < ?`, []any{l.CA, l.Number, int64(from), int64(below)}, &n)
	return n, err
}

// RevokedFrom returns the revoked indexes from one on, ascending.
func (t *Tx) RevokedFrom(l Log, first uint64) ([]uint64, error) {
	return all(t, `SELECT idx FROM revoked WHERE ca = ? AND log = ? AND idx >= ? ORDER BY idx`, []any{l.CA, l.Number, int64(first)},
		func(r *sql.Rows) (v uint64, err error) { return v, r.Scan(&v) })
}

// RevokedIn calls f for the revoked entries from one index on and below
// another, ascending.
func (t *Tx) RevokedIn(l Log, from, below uint64, f func(index uint64, at time.Time, code chancery.ReasonCode)) error {
	return t.rows(`SELECT v.idx, r.at, r.code FROM revoked v JOIN revocations r ON r.id = v.revocation WHERE v.ca = ? AND v.log = ? AND v.idx >= ? AND v.idx < ? ORDER BY v.idx`,
		[]any{l.CA, l.Number, int64(from), int64(below)}, func(r *sql.Rows) error {
			var index uint64
			var at time.Time
			var code chancery.ReasonCode
			err := r.Scan(&index, timeColumn{&at}, &code)
			if err == nil {
				f(index, at, code)
			}
			return err
		})
}

// ChooseName puts the node that NodeByName returns among those that the
// transaction is about to revoke; line is where an operator's list names it. It
// returns 0 if there is none.
func (t *Tx) ChooseName(line uint64, name string) (int64, error) {
	return t.execAny(`INSERT INTO chosen (line, node_id, live)
		SELECT ?, node_id, state = 'active' FROM nodes WHERE name = ? ORDER BY state = 'active' DESC, revoked DESC LIMIT 1`, line, name)
}

// ChooseNode does the same with a node's identifier.
func (t *Tx) ChooseNode(line uint64, id chancery.NodeID) (int64, error) {
	return t.execAny(`INSERT INTO chosen (line, node_id, live) SELECT ?, node_id, state = 'active' FROM nodes WHERE node_id = ?`, line, id[:])
}

// ChooseChip does the same with all nodes on a chip.
func (t *Tx) ChooseChip(line uint64, ek [32]byte) (int64, error) {
	return t.execAny(`INSERT INTO chosen (line, node_id, live) SELECT ?, node_id, state = 'active' FROM nodes WHERE ek_digest = ?`, line, ek[:])
}

// Chosen returns the first nodes that were chosen, and the lines that name
// them.
func (t *Tx) Chosen(limit int) (lines []uint64, nodes []Node, err error) {
	err = t.rows(`SELECT c.line, n.* FROM (SELECT line, node_id FROM chosen ORDER BY line LIMIT ?) c
		JOIN (SELECT `+nodeColumns+` FROM nodes) n ON n.node_id = c.node_id ORDER BY c.line`, []any{limit}, func(r *sql.Rows) error {
		var line uint64
		var n Node
		if err := r.Scan(append([]any{&line}, n.dest()...)...); err != nil {
			return err
		}
		lines, nodes = append(lines, line), append(nodes, n)
		return nil
	})
	return lines, nodes, err
}

// CountChosen returns what [Tx.RevokeChosen] would revoke at a time. Already
// counts the lines that it would do nothing for; a node that two lines name is
// the first one's.
func (t *Tx) CountChosen(now time.Time) (c Tally, err error) {
	if c, err = t.countLines(); err != nil {
		return c, err
	}
	err = t.row(`SELECT COUNT(*) FROM entries e WHERE node_id IN (SELECT node_id FROM chosen WHERE live = 1) AND not_after >= ?
		AND NOT EXISTS (SELECT 1 FROM revoked r WHERE r.ca = e.ca AND r.log = e.log AND r.idx = e.idx)`, []any{now.Unix()}, &c.Certificates)
	return c, err
}

func (t *Tx) countLines() (c Tally, err error) {
	var lines, busy uint64
	err = t.row(`SELECT COUNT(DISTINCT line) FROM chosen`, nil, &lines)
	if err == nil {
		err = t.row(`SELECT COUNT(*), COUNT(DISTINCT line) FROM (SELECT MIN(line) AS line FROM chosen WHERE live = 1 GROUP BY node_id)`, nil, &c.Nodes, &busy)
	}
	c.Already = lines - busy
	return c, err
}

// RevokeChosen revokes the chosen nodes that are live, with all of their
// certificates that have not expired, and closes their intakes. It returns the
// same as CountChosen. Nothing is chosen afterwards.
func (t *Tx) RevokeChosen(r *Revocation) (c Tally, err error) {
	return t.endChosen(NodeRevoked, r)
}

func (t *Tx) endChosen(state string, r *Revocation) (c Tally, err error) {
	if c, err = t.countLines(); err != nil {
		return c, err
	}
	if _, err := t.execAny(`UPDATE nodes SET state = ?, revoked = ?, reason = ?, reason_code = ? WHERE node_id IN (SELECT node_id FROM chosen WHERE live = 1)`,
		state, r.At.Unix(), r.Reason, r.Code); err != nil {
		return c, err
	}
	// Not "state IN": with it SQLite goes through all intakes in these states.
	if _, err := t.execAny(`UPDATE intakes SET state = 'refused', reason = 'node revoked'
		WHERE node_id IN (SELECT node_id FROM chosen WHERE live = 1) AND state || '' IN ('open', 'pending', 'approved')`); err != nil {
		return c, err
	}
	n, err := t.execAny(`INSERT INTO revoked (ca, log, idx, revocation)
		SELECT ca, log, idx, ? FROM entries WHERE node_id IN (SELECT node_id FROM chosen WHERE live = 1) AND not_after >= ? ON CONFLICT DO NOTHING`, r.ID, r.At.Unix())
	if err != nil {
		return c, err
	}
	c.Certificates = uint64(n)
	_, err = t.execAny(`DELETE FROM chosen`)
	return c, err
}

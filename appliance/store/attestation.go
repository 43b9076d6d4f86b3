package store

import (
	"database/sql"
	"encoding/json"
	"time"

	"github.com/chancery-pki/chancery"
)

// An Attestation is what a node showed of its state after its enrolment.
type Attestation struct {
	ID       int64 // rises
	NodeID   chancery.NodeID
	At       time.Time
	Good     bool
	Reason   string          // why it is not
	Evidence json.RawMessage // what it sent
}

// InsertAttestation stores what a node showed, and sets its ID. A good one ends an operator's
// wish for one, and is when the node was last well.
func (t *Tx) InsertAttestation(a *Attestation) error {
	err := t.row(`INSERT INTO attestations (node_id, at, good, reason, evidence) VALUES (?, ?, ?, ?, ?) RETURNING id`,
		[]any{a.NodeID[:], a.At.Unix(), a.Good, a.Reason, string(a.Evidence)}, &a.ID)
	if err != nil || !a.Good {
		return err
	}
	return t.exec(`UPDATE nodes SET attested = ?, attest_now = 0 WHERE node_id = ?`, a.At.Unix(), a.NodeID[:])
}

// Attestations returns the last ones of a node, the newest first.
func (t *Tx) Attestations(id chancery.NodeID, limit int) ([]Attestation, error) {
	return all(t, `SELECT id, node_id, at, good, reason, evidence FROM attestations WHERE node_id = ? ORDER BY id DESC LIMIT ?`, []any{id[:], limit}, func(r *sql.Rows) (a Attestation, err error) {
		var evidence string
		err = r.Scan(&a.ID, fixed{a.NodeID[:]}, timeColumn{&a.At}, &a.Good, &a.Reason, &evidence)
		a.Evidence = json.RawMessage(evidence)
		return a, err
	})
}

// PruneAttestations keeps the last ones of a node.
func (t *Tx) PruneAttestations(id chancery.NodeID, keep int) error {
	_, err := t.execAny(`DELETE FROM attestations WHERE node_id = ?1 AND id NOT IN (SELECT id FROM attestations WHERE node_id = ?1 ORDER BY id DESC LIMIT ?2)`, id[:], keep)
	return err
}

// AskAttestation notes that an operator wants a live node to attest now.
func (t *Tx) AskAttestation(id chancery.NodeID) error {
	return t.exec(`UPDATE nodes SET attest_now = 1 WHERE node_id = ? AND state = 'active'`, id[:])
}

// AttestationsAsked returns the live nodes that an operator wants to attest.
func (t *Tx) AttestationsAsked() ([]chancery.NodeID, error) {
	return all(t, `SELECT node_id FROM nodes WHERE attest_now = 1 AND state = 'active'`, nil, func(r *sql.Rows) (id chancery.NodeID, err error) {
		return id, r.Scan(fixed{id[:]})
	})
}

// Unattested returns the live nodes that are not held and have not attested a
// good state since then.
func (t *Tx) Unattested(since time.Time) ([]Node, error) {
	return all(t, `SELECT `+nodeColumns+` FROM nodes WHERE state = 'active' AND held = '' AND COALESCE(attested, enrolled) < ?`, []any{since.Unix()}, func(r *sql.Rows) (n Node, err error) {
		return n, r.Scan(n.dest()...)
	})
}

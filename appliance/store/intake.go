package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// States of an intake.
const (
	IntakeOpen     = "open"     // CA:N:S was sent; N:S has not come
	IntakePending  = "pending"  // N:S verified; an operator has to approve
	IntakeApproved = "approved" // to be issued
	IntakeIssued   = "issued"
	IntakeRefused  = "refused"
)

// An Intake is one attempt at enrolment or renewal.
type Intake struct {
	ID         chancery.IntakeID
	NodeID     chancery.NodeID
	Name       string
	State      string
	Renewal    bool
	Token      []byte // of the token that was shown; nil for a renewal
	Facts      Facts
	Activation []byte // what the node must answer to prove activation
	CANSHash   [32]byte
	NS         []byte // as submitted; nil before
	CA         string // where the entry is, once issued
	Log        uint16
	Index      uint64
	Reason     string
	Created    time.Time
	Expires    time.Time
}

// Facts are what the initial connection established and the certificate or
// the node's row will say.
type Facts struct {
	NodeKey    []byte
	NodePublic []byte
	AKPublic   []byte
	EK         []byte   // SubjectPublicKeyInfo
	EKDigest   [32]byte // SHA-256 of EK
	Assurance  chancery.AssuranceLevel
	Simulator  bool
	Roles      []string
	Chip       chancery.Chip
	Seal       *chancery.Sealing
	Approve    bool // an operator has to approve
}

// Serial returns the serial number of the certificate that was issued.
func (i *Intake) Serial() (merkle.Serial, error) { return merkle.NewSerial(i.Log, i.Index) }

const intakeColumns = `id, node_id, name, state, renewal, token, facts, activation, cans_hash, n_s, COALESCE(ca, ''), COALESCE(log, 0), COALESCE(idx, 0), reason, created, expires`

func (i *Intake) dest() []any {
	return []any{fixed{i.ID[:]}, fixed{i.NodeID[:]}, &i.Name, &i.State, &i.Renewal, &i.Token, jsonColumn{&i.Facts}, &i.Activation, fixed{i.CANSHash[:]},
		&i.NS, &i.CA, &i.Log, &i.Index, &i.Reason, timeColumn{&i.Created}, timeColumn{&i.Expires}}
}

// InsertIntake stores a new, open intake.
func (t *Tx) InsertIntake(i *Intake) error {
	return t.exec(`INSERT INTO intakes (id, node_id, name, state, renewal, token, facts, activation, cans_hash, created, expires)
		VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?)`,
		i.ID[:], i.NodeID[:], i.Name, i.Renewal, i.Token, toJSON(i.Facts), i.Activation, i.CANSHash[:], i.Created.Unix(), i.Expires.Unix())
}

// Intake returns an intake.
func (t *Tx) Intake(id chancery.IntakeID) (*Intake, error) {
	var i Intake
	err := t.row(`SELECT `+intakeColumns+` FROM intakes WHERE id = ?`, []any{id[:]}, i.dest()...)
	return &i, err
}

// Intakes returns the intakes in a state, the oldest first.
func (t *Tx) Intakes(state string) ([]Intake, error) {
	return all(t, `SELECT `+intakeColumns+` FROM intakes WHERE state = ? ORDER BY created, id`, []any{state}, func(r *sql.Rows) (i Intake, err error) {
		return i, r.Scan(i.dest()...)
	})
}

// SubmitIntake notes the N:S of an open intake and the state that follows.
func (t *Tx) SubmitIntake(id chancery.IntakeID, state string, ns []byte, evidence string) error {
	return t.exec(`UPDATE intakes SET state = ?, n_s = ?, evidence = ? WHERE id = ? AND state = 'open'`, state, ns, evidence, id[:])
}

// MoveIntake takes an intake from one state to another; if it is not in the
// first it is ErrNotFound.
func (t *Tx) MoveIntake(id chancery.IntakeID, from, to, reason string) error {
	return t.exec(`UPDATE intakes SET state = ?, reason = ? WHERE id = ? AND state = ?`, to, reason, id[:], from)
}

// IssueIntake notes where the certificate of an approved intake is.
func (t *Tx) IssueIntake(id chancery.IntakeID, ca string, serial merkle.Serial) error {
	return t.exec(`UPDATE intakes SET state = 'issued', ca = ?, log = ?, idx = ? WHERE id = ? AND state = 'approved'`, ca, serial.Log(), int64(serial.Index()), id[:])
}

// ExpireIntakes refuses open intakes whose CA:N:S has expired.
func (t *Tx) ExpireIntakes(now time.Time) error {
	_, err := t.execAny(`UPDATE intakes SET state = 'refused', reason = 'CA:N:S expired' WHERE state = 'open' AND expires < ?`, now.Unix())
	return err
}

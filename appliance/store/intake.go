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
	Token      []byte           // of the token that was shown; nil for a renewal
	Replaces   *chancery.NodeID // the node whose place it takes
	Request    *chancery.InitialConnection
	Exporter   []byte // of the TLS connection that the request came over
	Facts      Facts
	Activation []byte // what the node must answer to prove activation
	CANSHash   [32]byte
	NS         []byte // as submitted; nil before
	Submission *chancery.Submission
	Submitted  time.Time
	CA         string // where the entry is, once issued
	Log        uint16
	Index      uint64
	Reason     string
	Created    time.Time
	Expires    time.Time
}

// Facts are what was found out about a request and decided on it, and what the
// certificate or the node's row will say.
type Facts struct {
	EK         []byte   // SubjectPublicKeyInfo
	EKDigest   [32]byte // SHA-256 of EK
	EKLists    []string // the lists that name it
	Vouched    []string // those by which the operator vouches for it
	Issuer     string   // of the EK certificate, if that counts
	Vendor     string   // as certified likewise
	Model      string   // as certified likewise
	Assurance  chancery.AssuranceLevel
	Simulator  bool
	TokenNames string // that the token was good for
	TokenRoles []string
	Roles      []string // all that it gets
	Approvals  int      // operators that have to approve
	Rule       string   // of the policy
	Policy     string   // its hash
	Life       time.Duration
	Live       int // live nodes that the chip may have
	Reenrol    bool
}

// Serial returns the serial number of the certificate that was issued.
func (i *Intake) Serial() (merkle.Serial, error) { return merkle.NewSerial(i.Log, i.Index) }

const intakeColumns = `id, node_id, name, state, renewal, token, replaces, request, exporter, facts, activation, cans_hash, n_s, evidence, submitted, COALESCE(ca, ''), COALESCE(log, 0), COALESCE(idx, 0), reason, created, expires`

func (i *Intake) dest() []any {
	return []any{fixed{i.ID[:]}, fixed{i.NodeID[:]}, &i.Name, &i.State, &i.Renewal, &i.Token, optionalID{&i.Replaces}, jsonColumn{&i.Request}, &i.Exporter,
		jsonColumn{&i.Facts}, &i.Activation, fixed{i.CANSHash[:]}, &i.NS, jsonColumn{&i.Submission}, timeColumn{&i.Submitted}, &i.CA, &i.Log, &i.Index, &i.Reason, timeColumn{&i.Created}, timeColumn{&i.Expires}}
}

// InsertIntake stores a new, open intake.
func (t *Tx) InsertIntake(i *Intake) error {
	return t.exec(`INSERT INTO intakes (id, node_id, name, state, renewal, token, replaces, request, exporter, facts, activation, cans_hash, evidence, created, expires)
		VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, 'null', ?, ?)`,
		i.ID[:], i.NodeID[:], i.Name, i.Renewal, i.Token, slicedID(i.Replaces), toJSON(i.Request), i.Exporter, toJSON(i.Facts), i.Activation, i.CANSHash[:], i.Created.Unix(), i.Expires.Unix())
}

// Intake returns an intake.
func (t *Tx) Intake(id chancery.IntakeID) (*Intake, error) {
	var i Intake
	err := t.row(`SELECT `+intakeColumns+` FROM intakes WHERE id = ?`, []any{id[:]}, i.dest()...)
	return &i, err
}

// IntakeState returns the state of an intake, which is all of it that changes
// once it is submitted.
func (t *Tx) IntakeState(id chancery.IntakeID) (state string, err error) {
	err = t.row(`SELECT state FROM intakes WHERE id = ?`, []any{id[:]}, &state)
	return state, err
}

// Intakes returns the intakes in a state, the oldest first.
func (t *Tx) Intakes(state string) ([]Intake, error) {
	return all(t, `SELECT `+intakeColumns+` FROM intakes WHERE state = ? ORDER BY created, id`, []any{state}, func(r *sql.Rows) (i Intake, err error) {
		return i, r.Scan(i.dest()...)
	})
}

// CountIntakes returns how many intakes are in a state.
func (t *Tx) CountIntakes(state string) (n int, err error) {
	err = t.row(`SELECT COUNT(*) FROM intakes WHERE state = ?`, []any{state}, &n)
	return n, err
}

// SubmitIntake notes the submission for an open intake, the facts as they are
// with it, and the state that follows.
func (t *Tx) SubmitIntake(i *Intake, state string) error {
	return t.exec(`UPDATE intakes SET state = ?, n_s = ?, evidence = ?, facts = ?, submitted = ? WHERE id = ? AND state = 'open'`,
		state, i.NS, toJSON(i.Submission), toJSON(i.Facts), i.Submitted.Unix(), i.ID[:])
}

// IntakeOf returns the intake that an entry of the log was issued for.
func (t *Tx) IntakeOf(l Log, index uint64) (*Intake, error) {
	var i Intake
	err := t.row(`SELECT `+intakeColumns+` FROM intakes WHERE ca = ? AND log = ? AND idx = ?`, []any{l.CA, l.Number, int64(index)}, i.dest()...)
	return &i, err
}

// Approve notes that an operator approves an intake, once, and returns how many
// have.
func (t *Tx) Approve(id chancery.IntakeID, operator string, now time.Time) (count int, err error) {
	if err := t.exec(`INSERT INTO approvals (intake, operator, at) VALUES (?, ?, ?)`, id[:], operator, now.Unix()); err != nil {
		return 0, err
	}
	err = t.row(`SELECT COUNT(*) FROM approvals WHERE intake = ?`, []any{id[:]}, &count)
	return count, err
}

// Approvals returns who has approved an intake.
func (t *Tx) Approvals(id chancery.IntakeID) ([]string, error) {
	return all(t, `SELECT operator FROM approvals WHERE intake = ? ORDER BY at, operator`, []any{id[:]}, func(r *sql.Rows) (s string, err error) {
		return s, r.Scan(&s)
	})
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

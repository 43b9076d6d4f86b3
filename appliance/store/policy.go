package store

import (
	"database/sql"
	"time"
)

// A Policy is a policy that was in force.
type Policy struct {
	Version  int
	Hash     string // SHA-256 over the text, hexadecimal
	Text     string
	Operator string // who put it into force
	At       time.Time
}

const policyColumns = `version, hash, text, operator, at`

func (p *Policy) dest() []any {
	return []any{&p.Version, &p.Hash, &p.Text, &p.Operator, timeColumn{&p.At}}
}

// InsertPolicy stores the policy that is in force from now on. A version that
// was is ErrTaken.
func (t *Tx) InsertPolicy(p *Policy) error {
	return t.exec(`INSERT INTO policies (`+policyColumns+`) VALUES (?, ?, ?, ?, ?)`, p.Version, p.Hash, p.Text, p.Operator, p.At.Unix())
}

// LatestPolicy returns the one that is in force.
func (t *Tx) LatestPolicy() (*Policy, error) {
	var p Policy
	err := t.row(`SELECT `+policyColumns+` FROM policies ORDER BY version DESC LIMIT 1`, nil, p.dest()...)
	return &p, err
}

// Policies returns all that ever were, the newest first.
func (t *Tx) Policies() ([]Policy, error) {
	return all(t, `SELECT `+policyColumns+` FROM policies ORDER BY version DESC`, nil, func(r *sql.Rows) (p Policy, err error) {
		return p, r.Scan(p.dest()...)
	})
}

package store

import (
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Token is a join token as the coordinator keeps it.
type Token struct {
	ID       chancery.TokenID
	Key      chancery.TokenKey
	Names    string // glob (path.Match) of the names it is good for
	Roles    []string
	Approve  bool // an operator has to approve each use
	UsesLeft int
	Created  time.Time
	Expires  time.Time
}

const tokenColumns = `id, key, names, roles, approve, uses_left, created, expires`

func (k *Token) dest() []any {
	return []any{fixed{k.ID[:]}, fixed{k.Key[:]}, &k.Names, jsonColumn{&k.Roles}, &k.Approve, &k.UsesLeft, timeColumn{&k.Created}, timeColumn{&k.Expires}}
}

// InsertToken stores a new token.
func (t *Tx) InsertToken(k *Token) error {
	return t.exec(`INSERT INTO tokens (`+tokenColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID[:], k.Key[:], k.Names, toJSON(k.Roles), k.Approve, k.UsesLeft, k.Created.Unix(), k.Expires.Unix())
}

// Token returns a token.
func (t *Tx) Token(id chancery.TokenID) (*Token, error) {
	var k Token
	err := t.row(`SELECT `+tokenColumns+` FROM tokens WHERE id = ?`, []any{id[:]}, k.dest()...)
	return &k, err
}

// Tokens returns all tokens, the newest first.
func (t *Tx) Tokens() ([]Token, error) {
	return all(t, `SELECT `+tokenColumns+` FROM tokens ORDER BY created DESC, id`, nil, func(r *sql.Rows) (k Token, err error) {
		return k, r.Scan(k.dest()...)
	})
}

// UseToken takes one use from a token; with none left it is ErrNotFound.
func (t *Tx) UseToken(id chancery.TokenID) error {
	return t.exec(`UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ? AND uses_left > 0`, id[:])
}

package store

import (
	"database/sql"
)

// An EKListed is a chip on a list of chips that the operator bought.
type EKListed struct {
	List string
	EK   [32]byte // SHA-256 over the EK's SubjectPublicKeyInfo
	Note string   // such as the machine's serial number
}

// PutEK puts a chip on a list; one that is there gets the new note. It returns
// whether it was not there.
func (t *Tx) PutEK(e *EKListed) (added bool, err error) {
	n, err := t.execAny(`INSERT INTO ek_lists (list, ek, note) VALUES (?, ?, ?) ON CONFLICT (list, ek) DO NOTHING`, e.List, e.EK[:], e.Note)
	if err != nil || n > 0 {
		return n > 0, err
	}
	return false, t.exec(`UPDATE ek_lists SET note = ? WHERE list = ? AND ek = ?`, e.Note, e.List, e.EK[:])
}

// RemoveEKList removes a list and returns how many chips were on it.
func (t *Tx) RemoveEKList(list string) (int64, error) {
	return t.execAny(`DELETE FROM ek_lists WHERE list = ?`, list)
}

// EKLists returns the names of the lists that a chip is on.
func (t *Tx) EKLists(ek [32]byte) ([]string, error) {
	return all(t, `SELECT list FROM ek_lists WHERE ek = ? ORDER BY list`, []any{ek[:]}, func(r *sql.Rows) (s string, err error) {
		return s, r.Scan(&s)
	})
}

// EKCounts returns how many chips are on each list.
func (t *Tx) EKCounts() (map[string]int, error) {
	counts := map[string]int{}
	err := t.rows(`SELECT list, COUNT(*) FROM ek_lists GROUP BY list`, nil, func(r *sql.Rows) error {
		var list string
		var n int
		err := r.Scan(&list, &n)
		counts[list] = n
		return err
	})
	return counts, err
}

// EKsOn returns the chips on a list.
func (t *Tx) EKsOn(list string) ([]EKListed, error) {
	return all(t, `SELECT list, ek, note FROM ek_lists WHERE list = ? ORDER BY ek`, []any{list}, func(r *sql.Rows) (e EKListed, err error) {
		return e, r.Scan(&e.List, fixed{e.EK[:]}, &e.Note)
	})
}

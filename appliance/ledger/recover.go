package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A Recovery is how a coordinator goes on with an older copy of its database
// when the newest one is lost. Nothing that was revoked comes back, and no place
// in a log is given out twice: the newest list that anybody has takes the place
// of the database's, and a new log begins.
type Recovery struct {
	// Held is the newest pointer record, which the database may not have.
	Held *chancery.Pointer
	// Next follows it, with one more log of the current CA key, and is signed.
	Next *chancery.Pointer
	// Newest is the newest list, verified and with its signature.
	Newest *chancery.CRL

	Operator string
	Now      time.Time
}

// A Recovered says what a recovery did.
type Recovered struct {
	CRL     uint64 `json:"crl"`     // number of the list that it goes on from
	Pointer uint64 `json:"pointer"` // sequence number
	Log     uint16 `json:"log"`     // the new one
	Revoked int    `json:"revoked"` // certificates that the database had as good
	Held    int    `json:"held"`    // nodes of those, which an operator looks at
	Lost    uint64 `json:"lost"`    // entries that the database does not have; they are revoked
}

// Draft returns the pointer record that follows held and begins a new log of the
// current CA key, for CA:SK to sign.
func Draft(held *chancery.Pointer, now time.Time) *chancery.Pointer {
	next := *held
	next.Seq, next.Previous = held.Seq+1, held.Hash()
	next.Issued = time.Unix(now.Unix(), 0).UTC()
	next.Expires = next.Issued.Add(held.Expires.Sub(held.Issued))
	next.Keys = slices.Clone(held.Keys)
	current := &next.Keys[0]
	current.Logs = append(slices.Clone(current.Logs), current.Log()+1)
	next.Signature = nil
	return &next
}

// Recover changes an older database so that the coordinator goes on from the
// newest list. It is one transaction with what the caller adds to it.
func (r *Recovery) Recover(tx *store.Tx) (*Recovered, error) {
	if err := chancery.AcceptPointer(r.Held.FleetID(), r.Held, r.Next, r.Now); err != nil {
		return nil, err
	}
	head := r.Newest.Head()
	number, err := tx.CRLNumber()
	if err == nil && number > head.Number {
		err = fmt.Errorf("the database has CRL %d, which is newer than number %d", number, head.Number)
	}
	if err != nil {
		return nil, err
	}
	done := &Recovered{CRL: head.Number, Pointer: r.Next.Seq, Log: r.Next.Current().Log()}
	ca := r.Held.Current().ID
	act := &store.Revocation{At: r.Now, Reason: fmt.Sprintf("in CRL %d, which the database had lost", done.CRL), Operator: r.Operator, Action: "database.recover"}
	if err := tx.InsertRevocation(act); err != nil {
		return nil, err
	}
	for _, log := range head.Logs {
		if log.CA != ca {
			continue // of a CA key before, whose database is not this one's alone
		}
		if err := r.revoke(tx, &log, act, done); err != nil {
			return nil, err
		}
	}
	if err := tx.ReplaceCRLs(&store.CRL{Number: head.Number, List: r.Newest.Marshal(), Signature: head.Signature}); err != nil {
		return nil, err
	}
	own, err := tx.Pointer()
	if err == nil && own.Seq < r.Held.Seq {
		err = tx.InsertPointer(r.Held)
	}
	if err != nil {
		return nil, err
	}
	if err := tx.InsertPointer(r.Next); err != nil {
		return nil, err
	}
	return done, ClearAlarm(tx)
}

// revoke takes over what the list says of a log, and revokes what the database
// does not have. Why a certificate was revoked, and whether its node was, the
// list does not say: the node is held until an operator has looked.
func (r *Recovery) revoke(tx *store.Tx, log *chancery.CRLLog, act *store.Revocation, done *Recovered) error {
	in := store.Log{CA: log.CA.String(), Number: log.Log}
	size, err := tx.LogSize(in)
	if err != nil {
		return err
	}
	for i := log.First; i < log.Size; i++ {
		if i < size {
			err = r.revokeKnown(tx, in, i, act, done)
		} else {
			done.Lost++
			_, err = tx.RevokeSpan(in, i, i+1, act.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Recovery) revokeKnown(tx *store.Tx, in store.Log, i uint64, act *store.Revocation, done *Recovered) error {
	serial, err := merkle.NewSerial(in.Number, i)
	if err != nil {
		return err
	}
	if err := r.Newest.Check(r.Held.Current().ID, serial, r.Now, r.Now); !errors.Is(err, chancery.ErrRevoked) {
		return nil
	}
	if n, err := tx.RevokeSpan(in, i, i+1, act.ID); n == 0 || err != nil {
		return err
	}
	done.Revoked++
	e, err := tx.Entry(in, i)
	if err != nil {
		return err
	}
	node, err := tx.Node(e.NodeID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (node.State != store.NodeActive || node.Held != "") {
		return nil
	}
	if err != nil {
		return err
	}
	done.Held++
	return tx.Hold(node.ID, fmt.Sprintf("its certificate %s is %s", serial, act.Reason))
}

package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/store"
)

// An Alarm is proof, by CA:SK's own signature, that this coordinator is not the
// only one, or not the newest: a node holds a list or a pointer record that the
// database does not have. It is an error; while it stands, nothing is signed.
type Alarm struct {
	Kind  AlarmKind `json:"kind"`
	What  AlarmWhat `json:"what"`
	Own   []byte    `json:"own"`   // what the coordinator has, of that number or its newest
	Shown []byte    `json:"shown"` // what it was shown
	At    time.Time `json:"at"`
}

// An AlarmKind tells what follows from an alarm.
type AlarmKind string

const (
	// AlarmBehind: what was shown is newer than everything in the database.
	AlarmBehind AlarmKind = "behind"
	// AlarmFork: the database has another one of the same number.
	AlarmFork AlarmKind = "fork"
)

// An AlarmWhat tells what there are two of.
type AlarmWhat string

const (
	AlarmCRL     AlarmWhat = "crl"     // heads of lists
	AlarmPointer AlarmWhat = "pointer" // pointer records
)

func (a *Alarm) Error() string {
	what := map[AlarmWhat]string{AlarmCRL: "CRL", AlarmPointer: "pointer record"}[a.What]
	own, shown := a.Numbers()
	if a.Kind == AlarmFork {
		return fmt.Sprintf("two of %s %d were signed: a node holds another one than this coordinator", what, shown)
	}
	return fmt.Sprintf("the database is an older copy: it ends at %s %d, and a node holds number %d", what, own, shown)
}

// Hint says what to do.
func (a *Alarm) Hint() string {
	if a.Kind == AlarmFork {
		return "CA:SK is in use elsewhere: by a coordinator that was restored or copied, or by a thief. Look at both with chancery fork show, stop the other one, then: chancery fork clear"
	}
	return "put the newest database back. If it is lost, nothing that it revoked must come back: chancery recover --crl FILE, with the newest list that any node has"
}

// Numbers returns the numbers of both sides.
func (a *Alarm) Numbers() (own, shown uint64) {
	number := func(b []byte) uint64 {
		if a.What == AlarmPointer {
			if p, err := chancery.ParsePointer(b); err == nil {
				return p.Seq
			}
			return 0
		}
		if h, err := chancery.ParseCRLHead(b); err == nil {
			return h.Number
		}
		return 0
	}
	return number(a.Own), number(a.Shown)
}

// settingAlarm is where the store keeps the alarm, so that it stays over
// restarts.
const settingAlarm = "alarm"

// StoredAlarm returns the alarm that stands, or nil.
func StoredAlarm(tx *store.Tx) (*Alarm, error) {
	b, err := tx.Setting(settingAlarm)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := new(Alarm)
	return a, json.Unmarshal(b, a)
}

// ClearAlarm ends the alarm. One that does not stand is no error.
func ClearAlarm(tx *store.Tx) error {
	err := tx.DeleteSetting(settingAlarm)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// Shown takes what somebody holds: the head of a list, or a pointer record, each
// as an artefact. Only what CA:SK signed counts, so nobody else stops a
// coordinator. What contradicts the database raises an alarm, after which the
// ledger signs nothing; see [Ledger.Halted].
func (l *Ledger) Shown(ctx context.Context, b []byte) error {
	var a *Alarm
	var err error
	switch chancery.Identify(b) {
	case "crl-head":
		a, err = l.shownHead(b)
	case "pointer":
		a, err = l.shownPointer(ctx, b)
	default:
		err = chancery.ErrMalformed
	}
	if a == nil || err != nil {
		return err
	}
	a.At, a.Shown = l.Now().UTC().Truncate(time.Second), b
	l.raise(a)
	return nil
}

func (l *Ledger) shownHead(b []byte) (*Alarm, error) {
	h, err := chancery.ParseCRLHead(b)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	lists := append(l.recent[:len(l.recent):len(l.recent)], l.current)
	l.mu.Unlock()
	// Which costs nothing, before a signature is verified.
	var a *Alarm
	if newest := lists[len(lists)-1].Head(); h.Number > newest.Number {
		a = &Alarm{Kind: AlarmBehind, What: AlarmCRL, Own: newest.Marshal()}
	}
	for _, list := range lists {
		if own := list.Head(); own.Number == h.Number && own.Hash() != h.Hash() {
			a = &Alarm{Kind: AlarmFork, What: AlarmCRL, Own: own.Marshal()}
		}
	}
	if a == nil {
		return nil, nil // as it should be, or too old to tell
	}
	return a, h.Verify(l.Pointer)
}

func (l *Ledger) shownPointer(ctx context.Context, b []byte) (*Alarm, error) {
	p, err := chancery.ParsePointer(b)
	if err != nil {
		return nil, err
	}
	var own *chancery.Pointer
	err = l.Store.View(ctx, func(tx *store.Tx) (err error) {
		own, err = tx.PointerAt(p.Seq)
		return err
	})
	a := &Alarm{Kind: AlarmFork, What: AlarmPointer}
	switch {
	case errors.Is(err, store.ErrNotFound) && p.Seq > l.Pointer.Seq:
		a.Kind, own = AlarmBehind, l.Pointer
	case errors.Is(err, store.ErrNotFound):
		return nil, nil // from before a recovery
	case err != nil:
		return nil, err
	case own.Hash() == p.Hash():
		return nil, nil
	}
	a.Own = own.Marshal()
	return a, p.Verify(l.fleet)
}

// raise keeps the alarm and stops the loop. A store that fails does not keep it
// from that.
func (l *Ledger) raise(a *Alarm) {
	l.mu.Lock()
	first := l.alarm == nil
	if first {
		l.alarm = a
	}
	l.mu.Unlock()
	if !first {
		return
	}
	b, err := json.Marshal(a)
	if err == nil {
		err = l.Store.Update(context.Background(), func(tx *store.Tx) error { return tx.SetSetting(settingAlarm, b) })
	}
	l.Logger.Error("alarm: nothing is signed any more", "error", a, "kept", err == nil)
	l.stop()
	close(l.halted)
}

// Halted is closed when an alarm has stopped the ledger; Err tells which.
func (l *Ledger) Halted() <-chan struct{} { return l.halted }

// Err returns the alarm that has stopped the ledger; nil while it works.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alarm == nil {
		return nil
	}
	return l.alarm
}

// closedErr is the answer to calls that the loop does not get to.
func (l *Ledger) closedErr() error {
	if err := l.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// MarkOf tells how far a database has come.
func MarkOf(tx *store.Tx, p *chancery.Pointer) (*anchor.Mark, error) {
	current := p.Current()
	log := store.Log{CA: current.ID.String(), Number: current.Log()}
	m := &anchor.Mark{Fleet: p.FleetID(), Pointer: p.Seq, CA: anchor.HashCA(current.ID), Log: log.Number}
	var err error
	if m.CRL, err = tx.CRLNumber(); err != nil {
		return nil, err
	}
	if m.Size, err = tx.LogSize(log); err != nil {
		return nil, err
	}
	m.Audit, err = tx.AuditSize(log.CA)
	return m, err
}

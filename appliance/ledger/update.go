package ledger

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// An Update leads a holder of an older list to the current one. All who ask
// from the same list share it; it must not be changed.
type Update struct {
	List       []byte   // a delta, or the full list
	Sum        [32]byte // SHA-256 over List
	NextUpdate time.Time
}

// updates makes each update to one list once, however many ask for it: when a
// list is published all nodes do, at the same moment and mostly from the list
// before it.
type updates struct {
	mu sync.Mutex                         // guards to; not held while an update is made
	to map[uint64]func() (*Update, error) // by the number of the list held, 0 for the full list
}

// CRLAfter returns what leads a holder of list number have to the current
// one: nothing if that is it, a delta if the list is among the last ones, else
// the full list. changed is closed when there is a newer one.
func (l *Ledger) CRLAfter(have uint64) (update *Update, changed <-chan struct{}, err error) {
	l.mu.Lock()
	current, recent, made := l.current, l.recent, l.updates
	changed = l.changed
	l.mu.Unlock()
	if current.Head().Number == have {
		return nil, changed, nil
	}
	var base *chancery.CRL
	for _, c := range recent {
		if c.Head().Number == have {
			base = c
		}
	}
	update, err = made.from(base, current)
	return update, changed, err
}

func (u *updates) from(base, current *chancery.CRL) (*Update, error) {
	var number uint64
	if base != nil {
		number = base.Head().Number
	}
	u.mu.Lock()
	once := u.to[number]
	if once == nil {
		once = sync.OnceValues(func() (*Update, error) { return newUpdate(base, current) })
		u.to[number] = once
	}
	u.mu.Unlock()
	return once()
}

func newUpdate(base, current *chancery.CRL) (*Update, error) {
	update := &Update{NextUpdate: current.Head().NextUpdate}
	if base == nil {
		update.List = current.Marshal()
	} else {
		var err error
		if update.List, err = current.Delta(base); err != nil {
			return nil, err
		}
	}
	update.Sum = sha256.Sum256(update.List)
	return update, nil
}

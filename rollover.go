package chancery

import (
	"bytes"
	"fmt"
	"time"
)

// A Rollover hands the fleet from one CA key to the next. The new key was
// committed to before (by the genesis or the rollover before this one), both
// keys sign, and the statement carries the commitment to the key after.
type Rollover struct {
	Old      [32]byte  // fingerprint of the key that hands over
	New      PublicKey // the key that takes over
	NextCA   [32]byte  // fingerprint of the key after New
	Created  time.Time
	OldSigns Signature
	NewSigns Signature
}

func (r *Rollover) encode(e *encoder) {
	r.encodeBody(e)
	e.vec8(r.OldSigns)
	e.vec8(r.NewSigns)
}

func (r *Rollover) encodeBody(e *encoder) {
	e.AddBytes(r.Old[:])
	e.key(r.New)
	e.AddBytes(r.NextCA[:])
	e.time(r.Created)
}

func (d *decoder) rollover() Rollover {
	return Rollover{Old: d.hash(), New: d.key(), NextCA: d.hash(), Created: d.time(), OldSigns: d.signature(), NewSigns: d.signature()}
}

func (r *Rollover) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	r.encodeBody(&e)
	return labelled(labelRollover, fleet, suite, e.BytesOrPanic())
}

// equal compares what was signed.
func (r Rollover) equal(o Rollover) bool {
	var a, b encoder
	r.encodeBody(&a)
	o.encodeBody(&b)
	return bytes.Equal(a.BytesOrPanic(), b.BytesOrPanic())
}

// followRollovers returns the CA keys that the genesis and the rollovers lead
// through, in order, and the commitment to the key after the last.
func followRollovers(g *Genesis, rollovers []Rollover) (keys []PublicKey, committed [32]byte, err error) {
	fleet := g.FleetID()
	keys, committed = []PublicKey{g.CA}, g.NextCA
	for i := range rollovers {
		r, old := &rollovers[i], keys[len(keys)-1]
		switch {
		case r.Old != old.Fingerprint():
			return nil, committed, fmt.Errorf("%w: rollover %d hands over from another key", ErrPointerKeys, i+1)
		case r.New.Fingerprint() != committed:
			return nil, committed, fmt.Errorf("%w: rollover %d goes to a key that was not committed to", ErrPointerKeys, i+1)
		}
		if err := old.Verify(fleet, r, r.OldSigns); err != nil {
			return nil, committed, fmt.Errorf("rollover %d, old key: %w", i+1, err)
		}
		if err := r.New.Verify(fleet, r, r.NewSigns); err != nil {
			return nil, committed, fmt.Errorf("rollover %d, new key: %w", i+1, err)
		}
		keys, committed = append(keys, r.New), r.NextCA
	}
	return keys, committed, nil
}

package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

// fetchPointer takes the fleet's pointer record under the pin.
func (j *joining) fetchPointer(ctx context.Context) error {
	p, err := coordinator.FetchPointer(ctx, j.URL)
	if err != nil {
		return err
	}
	stored, err := j.dir.Pointer()
	if errors.Is(err, fs.ErrNotExist) || err == nil && stored.FleetID() != j.Fleet {
		stored = nil // nothing, or the rest of an attempt at another fleet
	} else if err != nil {
		return err
	}
	if err := chancery.AcceptPointer(j.Fleet, stored, p, j.Now()); err != nil {
		if errors.Is(err, chancery.ErrPointerFork) {
			err = errors.Join(err, j.dir.RaiseAlarm(state.PointerFork, stored.Marshal(), p.Marshal()))
		}
		return &PointerError{URL: j.URL, Err: err}
	}
	if err := j.dir.SavePointer(p); err != nil {
		return err
	}
	j.pointer = p
	j.step("pointer", fmt.Sprintf("record %d of fleet %s, CA:PK %s", p.Seq, p.TrustDomain, short(p.Current().Key)))
	return nil
}

// A PointerError says that the pointer record that a coordinator published was
// not taken.
type PointerError struct {
	URL string
	Err error
}

func (e *PointerError) Error() string { return e.URL + ": " + e.Err.Error() }
func (e *PointerError) Unwrap() error { return e.Err }

// Hint tells what it may mean.
func (e *PointerError) Hint() string {
	switch {
	case errors.Is(e.Err, chancery.ErrPin):
		return "this is not the coordinator that the pin was made by; compare the pin with chancery pointer show, and do not take a new pin from this address"
	case errors.Is(e.Err, chancery.ErrPointerExpired), errors.Is(e.Err, chancery.ErrPointerFuture):
		return "compare this machine's clock with the coordinator's, then have the record published anew: chancery pointer publish"
	}
	return "somebody may be showing this node an old or a forged record; ask the operator of the coordinator before going on"
}

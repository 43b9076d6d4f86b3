package run

import (
	"time"

	"github.com/chancery-pki/chancery"
)

// A floor is a time that is known to have come: a verified list was made at
// made, and was here at at, by a clock that nobody sets.
type floor struct{ made, at time.Time }

// raiseFloor notes that the list held was made at a time.
func (a *agent) raiseFloor(made time.Time) {
	for {
		f := a.floor.Load()
		if f != nil && !made.After(f.now()) || a.floor.CompareAndSwap(f, &floor{made, time.Now()}) {
			return
		}
	}
}

// holdStored has the verifier hold the list that was on disk. The node took it
// once, so its time has come: one that is ahead of the clock tells that the
// clock was set back.
func (a *agent) holdStored(list []byte) error {
	head, err := chancery.ParseCRLHead(list)
	if err != nil {
		return err
	}
	now := a.Now()
	if made := head.ThisUpdate; now.Before(made) {
		now = made
	}
	crl, err := a.verifier.UpdateCRL(list, now)
	if err == nil {
		a.raiseFloor(crl.Head().ThisUpdate)
	}
	return err
}

func (f *floor) now() time.Time { return f.made.Add(time.Since(f.at)) }

// clock is the time to make and judge certificates, lists and records by. It is
// the machine's, unless that was set back: then it is the newest list's
// thisUpdate and what has passed since, so that the list ends when it should
// (docs/protocol.md section 6.3).
func (a *agent) clock() time.Time {
	now := a.Now()
	if f := a.floor.Load(); f != nil {
		if least := f.now(); now.Before(least) {
			return least
		}
	}
	return now
}

package state

import (
	"errors"
	"io/fs"
)

// An Alarm is a thing of which there may be one truth only.
type Alarm string

const (
	PointerFork Alarm = "pointer.fork" // two pointer records of one sequence number
	CRLFork     Alarm = "crl.fork"     // two CRLs of one number
)

// Alarms that there can be.
var alarms = []Alarm{PointerFork, CRLFork}

// RaiseAlarm keeps what was held and what contradicts it (docs/protocol.md
// sections 3 and 6). The first contradiction is kept. An alarm stays over
// restarts, until an operator has looked at it and clears it.
func (d *Dir) RaiseAlarm(a Alarm, held, other []byte) error {
	if d.exists(string(a)) {
		return nil
	}
	// The alarm stands with its own file, so the other one is there before.
	if err := d.write(a.held(), held); err != nil {
		return err
	}
	return d.write(string(a), other)
}

// held names the file of what was held when the alarm was raised.
func (a Alarm) held() string { return string(a) + ".held" }

// Alarms returns the alarms that stand.
func (d *Dir) Alarms() (standing []Alarm) {
	for _, a := range alarms {
		if d.exists(string(a)) {
			standing = append(standing, a)
		}
	}
	return standing
}

// Evidence returns what was held when an alarm was raised, and what contradicts
// it: pointer records, or CRLs as they came.
func (d *Dir) Evidence(a Alarm) (held, other []byte, err error) {
	held, err = d.root.ReadFile(a.held())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody tidied up
	}
	if err == nil {
		other, err = d.root.ReadFile(string(a))
	}
	return held, other, err
}

// ClearAlarm ends an alarm, and forgets the evidence.
func (d *Dir) ClearAlarm(a Alarm) error {
	return errors.Join(d.remove(string(a)), d.remove(a.held()))
}

// String describes the alarm for people.
func (a Alarm) String() string {
	switch a {
	case PointerFork:
		return "two pointer records of one sequence number were seen: somebody else may hold CA:SK"
	case CRLFork:
		return "two CRLs of one number were seen: somebody else may hold CA:SK"
	}
	return string(a)
}

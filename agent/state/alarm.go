package state

// An Alarm is a thing of which there may be one truth only.
type Alarm string

const (
	PointerFork Alarm = "pointer.fork" // two pointer records of one sequence number
	CRLFork     Alarm = "crl.fork"     // two CRLs of one number
)

// RaiseAlarm keeps what contradicts the value held (docs/protocol.md sections
// 3 and 6: a fork keeps both). The first contradiction is kept. An alarm stays
// over restarts, until an operator has looked at the file and removed it.
func (d *Dir) RaiseAlarm(a Alarm, evidence []byte) error {
	if d.exists(string(a)) {
		return nil
	}
	return d.write(string(a), evidence)
}

// Alarms returns the alarms that stand.
func (d *Dir) Alarms() (standing []Alarm) {
	for _, a := range []Alarm{PointerFork, CRLFork} {
		if d.exists(string(a)) {
			standing = append(standing, a)
		}
	}
	return standing
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

package eventlog

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
)

// PCRs is how many PCRs a chip has (PC Client Platform TPM Profile 1.05).
const PCRs = 24

// Replay returns what PCRs of the SHA-256 bank hold after these events and no
// others. PCRs 17 to 22 start with all bits set, as they are until a dynamic
// launch resets them; that keeps a log of its own.
func (l *Log) Replay() [PCRs][32]byte {
	var values [PCRs][32]byte
	values[0][31] = l.locality
	for n := 17; n <= 22; n++ {
		for i := range values[n] {
			values[n][i] = 0xff
		}
	}
	for _, e := range l.Events {
		if e.Extends() {
			values[e.PCR] = extend(values[e.PCR], e.Digest)
		}
	}
	return values
}

// extend is TPM2_PCR_Extend (TPM 2.0 Part 3, section 22.2).
func extend(value, digest [32]byte) [32]byte {
	var both [64]byte
	copy(both[:32], value[:])
	copy(both[32:], digest[:])
	return sha256.Sum256(both[:])
}

// Verify checks that each of these PCRs has the value that the log replays
// to, and refuses to check none. The error for the first that differs is a
// [*MismatchError]. The values are to come from a verified quote.
func (l *Log) Verify(values map[int][32]byte) error {
	numbers := slices.Sorted(maps.Keys(values))
	if len(numbers) == 0 || numbers[0] < 0 || numbers[len(numbers)-1] >= PCRs {
		return fmt.Errorf("%w: %v", ErrPCR, numbers)
	}
	replayed := l.Replay()
	for _, n := range numbers {
		if replayed[n] != values[n] {
			return &MismatchError{PCR: n, Replayed: replayed[n], Value: values[n]}
		}
	}
	return nil
}

// A MismatchError says that a PCR does not have the value that the log
// replays to.
type MismatchError struct {
	PCR      int
	Replayed [32]byte // from the log
	Value    [32]byte // of the PCR
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("eventlog: PCR %d is %x, the log replays to %x", e.PCR, e.Value, e.Replayed)
}

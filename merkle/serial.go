package merkle

import (
	"fmt"
	"strconv"
	"strings"
)

// A Serial is the serial number of a certificate: the number of the log in
// the upper 16 bits and the index of the entry in the lower 48 ("Certificate
// Format"). No certificate of log 0 verifies.
type Serial uint64

// NewSerial returns the serial number of an entry. It is [ErrSerial] if the
// log is 0 or the index does not fit 48 bits.
func NewSerial(log uint16, index uint64) (Serial, error) {
	if log == 0 || index > maxIndex {
		return 0, serialError("log %d, index %d", log, index)
	}
	return Serial(uint64(log)<<48 | index), nil
}

// ParseSerial parses "LOG:INDEX" or the whole number, both in decimal. It is
// [ErrSerial] if s is neither, or [NewSerial] refuses it.
func ParseSerial(s string) (Serial, error) {
	log, index, ok := strings.Cut(s, ":")
	if !ok {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, serialError("%q is neither LOG:INDEX nor a number", s)
		}
		return NewSerial(Serial(n).Log(), Serial(n).Index())
	}
	l, err := strconv.ParseUint(log, 10, 16)
	if err != nil {
		return 0, serialError("%q has no log number from 1 to 65535", s)
	}
	i, err := strconv.ParseUint(index, 10, 48)
	if err != nil {
		return 0, serialError("%q has no index below 2^48", s)
	}
	return NewSerial(uint16(l), i)
}

// Log is the log number.
func (s Serial) Log() uint16 { return uint16(s >> 48) }

// Index is the index of the entry in its log, from 0.
func (s Serial) Index() uint64 { return uint64(s) & maxIndex }

// String returns "LOG:INDEX".
func (s Serial) String() string {
	return strconv.FormatUint(uint64(s.Log()), 10) + ":" + strconv.FormatUint(s.Index(), 10)
}

func serialError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSerial, fmt.Sprintf(format, args...))
}

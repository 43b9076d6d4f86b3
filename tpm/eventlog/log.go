package eventlog

import (
	"bytes"
	"fmt"
)

// MaxSize is how many bytes a log may have. Firmware reserves 64 KiB; a
// machine with many boot options and option ROMs writes a hundred.
const MaxSize = 1 << 20

const (
	maxEvents = 16384
	maxData   = 64 << 10
)

// A Log is what one boot measured.
type Log struct {
	// Events in the order in which they were measured. The Spec ID event at
	// the head of the log is not among them.
	Events []Event

	// locality is the last byte of PCR 0 before its first event.
	locality byte
}

// Parse reads a log. Errors are [ErrNoSHA256], [ErrTooLarge] or
// [ErrMalformed]. The Log keeps nothing of b.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxSize)
	}
	b = bytes.Clone(b)
	r := &reader{rest: b}
	algorithms, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	l := new(Log)
	for len(r.rest) > 0 {
		if len(l.Events) == maxEvents {
			return nil, fmt.Errorf("%w: more than %d events", ErrTooLarge, maxEvents)
		}
		at := len(b) - len(r.rest)
		e, err := readEvent(r, algorithms)
		if err != nil {
			return nil, fmt.Errorf("%w (event %d, at byte %d)", err, len(l.Events)+1, at)
		}
		l.Events = append(l.Events, e)
	}
	if err := l.findLocality(); err != nil {
		return nil, err
	}
	return l, nil
}

// readEvent takes a TCG_PCR_EVENT2 (PFP section 10.2.2).
func readEvent(r *reader, algorithms []algorithm) (Event, error) {
	pcr, kind, count := r.uint32(), EventType(r.uint32()), r.uint32()
	switch {
	case r.short:
		return Event{}, fmt.Errorf("%w: cut short in its head", ErrMalformed)
	case pcr >= PCRs:
		return Event{}, fmt.Errorf("%w: PCR %d, at most %d", ErrMalformed, pcr, PCRs-1)
	case int64(count) != int64(len(algorithms)):
		return Event{}, fmt.Errorf("%w: %d digests for %d algorithms", ErrMalformed, count, len(algorithms))
	}
	e := Event{PCR: int(pcr), Type: kind}
	var seen uint // bit n for algorithms[n]; as many digests as algorithms, so all are seen when none is seen twice
	for range algorithms {
		id := r.uint16()
		n := index(algorithms, id)
		switch {
		case r.short:
			return Event{}, fmt.Errorf("%w: cut short in its digests", ErrMalformed)
		case n < 0:
			return Event{}, fmt.Errorf("%w: a digest of algorithm %#04x, which was not announced", ErrMalformed, id)
		case seen&(1<<n) != 0:
			return Event{}, fmt.Errorf("%w: two digests of algorithm %#04x", ErrMalformed, id)
		}
		seen |= 1 << n
		if digest := r.bytes(algorithms[n].size); id == algSHA256 {
			copy(e.Digest[:], digest)
		}
	}
	size := r.uint32()
	if !r.short && size > maxData {
		return Event{}, fmt.Errorf("%w: %d bytes of data, at most %d", ErrTooLarge, size, maxData)
	}
	e.Data = r.bytes(int(size))
	if r.short {
		return Event{}, fmt.Errorf("%w: cut short in its data", ErrMalformed)
	}
	return e, nil
}

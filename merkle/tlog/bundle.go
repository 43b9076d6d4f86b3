package tlog

import (
	"encoding/binary"

	"github.com/chancery-pki/chancery/merkle"
)

const (
	// MaxEntrySize is the largest entry that a bundle has room for (tlog-tiles,
	// "Log entries"), and also the draft's limit on an MTCLogEntry.
	MaxEntrySize = merkle.MaxEntrySize

	entryPrefix = 2 // bytes of an entry's length
)

// AppendEntry appends an entry to an entry bundle. It is [ErrMalformed] if the
// entry is larger than [MaxEntrySize]. That the bundle stays below
// [FullWidth] entries is up to the caller.
func AppendEntry(bundle, entry []byte) ([]byte, error) {
	if len(entry) > MaxEntrySize {
		return nil, malformed("entry of %d bytes, at most %d", len(entry), MaxEntrySize)
	}
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...), nil
}

// ParseBundle returns the entries of a bundle that has exactly so many. They
// are slices of b.
func ParseBundle(b []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, min(width, FullWidth))
	for range width {
		entry, rest, ok := cutEntry(b)
		if !ok {
			return nil, malformed("bundle ends in entry %d of %d", len(entries), width)
		}
		entries, b = append(entries, entry), rest
	}
	if len(b) > 0 {
		return nil, malformed("bundle has %d bytes after its %d entries", len(b), width)
	}
	return entries, nil
}

func cutEntry(b []byte) (entry, rest []byte, ok bool) {
	if len(b) < entryPrefix {
		return nil, nil, false
	}
	end := entryPrefix + int(binary.BigEndian.Uint16(b))
	if end > len(b) {
		return nil, nil, false
	}
	return b[entryPrefix:end:end], b[end:], true
}

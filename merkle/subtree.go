package merkle

import (
	"fmt"
	"math/bits"
)

// A Subtree is the interval [Start, End) of a log's entries, seen as a Merkle
// tree of its own ("Definition of a Subtree"). Not every interval is a
// subtree: see [Subtree.Valid].
type Subtree struct{ Start, End uint64 }

// Valid tells whether Start is a multiple of the smallest power of two that
// is not below the size. Empty intervals are valid.
func (s Subtree) Valid() bool {
	if s.Start > s.End {
		return false
	}
	if s.Start == s.End {
		return true
	}
	// The same thing said with bits: above the height of the subtree, the
	// paths of its first and last entry agree, and the first has only zeros
	// below.
	height := bits.Len64(s.Size() - 1)
	return s.Start&(1<<height-1) == 0
}

// Size is the number of entries.
func (s Subtree) Size() uint64 { return s.End - s.Start }

// Contains tells whether the entry is in the interval.
func (s Subtree) Contains(index uint64) bool { return s.Start <= index && index < s.End }

// String returns the interval as "[4, 8)".
func (s Subtree) String() string { return fmt.Sprintf("[%d, %d)", s.Start, s.End) }

// Cover returns the two adjacent subtrees that cover [start, end) with no
// entry after end and, before start, fewer extra entries in left than wanted
// ones ("Selecting Two Subtrees"). Either may be empty. It panics if start is
// above end.
func Cover(start, end uint64) (left, right Subtree) {
	checkInterval(start, end)
	if end-start <= 1 {
		return Subtree{start, end}, Subtree{end, end}
	}
	last := end - 1
	split := bits.Len64(start^last) - 1 // the height at which the two paths part
	below := uint64(1)<<split - 1
	mid := last &^ below
	height := bits.Len64(^start & below) // of the lowest node over [start, mid)
	return Subtree{start &^ (1<<height - 1), mid}, Subtree{mid, end}
}

// Smallest returns the smallest subtree that contains [start, end) and has
// no entry after end. It may be much larger than the interval, up to [0, end),
// when the interval crosses the middle of the tree; [Cover] bounds the excess
// at the price of two subtrees. It panics if start is above end.
func Smallest(start, end uint64) Subtree {
	checkInterval(start, end)
	if start == end {
		return Subtree{start, end}
	}
	height := bits.Len64(start ^ (end - 1)) // of the lowest node over both ends
	return Subtree{start >> height << height, end}
}

func checkInterval(start, end uint64) {
	if start > end {
		panic(fmt.Sprintf("merkle: interval [%d, %d) is reversed", start, end))
	}
}

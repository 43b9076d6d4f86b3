package chancery

import (
	"fmt"
	"iter"
	"math/bits"
)

// An indexMap holds which indexes of [first, size) of one log are revoked, a
// bit each: a lookup is one load.
type indexMap struct {
	first, size uint64
	base        uint64 // index of the lowest bit of words[0]: first, rounded down to a block
	words       []uint64
}

func newIndexMap(first, size uint64) *indexMap {
	base := first &^ (blockSpan - 1)
	return &indexMap{first: first, size: size, base: base, words: make([]uint64, (size-base+63)/64)}
}

// has reports whether index, which lies in [first, size), is revoked.
func (m *indexMap) has(index uint64) bool {
	at := index - m.base
	return m.words[at/64]>>(at%64)&1 != 0
}

func (m *indexMap) set(index uint64) {
	at := index - m.base
	m.words[at/64] |= 1 << (at % 64)
}

func (m *indexMap) count() (n uint64) {
	for _, w := range m.words {
		n += uint64(bits.OnesCount64(w))
	}
	return n
}

// all yields the revoked indexes in ascending order.
func (m *indexMap) all() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i, w := range m.words {
			for ; w != 0; w &= w - 1 {
				if !yield(m.base + uint64(i)*64 + uint64(bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// resized copies m, which may be nil, into a map of [first, size) that covers
// no less at the end and no more at the start.
func (m *indexMap) resized(first, size uint64) *indexMap {
	r := newIndexMap(first, size)
	if m == nil {
		return r
	}
	if skip := (r.base - m.base) / 64; skip < uint64(len(m.words)) {
		copy(r.words, m.words[skip:])
	}
	for i := r.base; i < first && i < size; i++ {
		at := i - r.base
		r.words[at/64] &^= 1 << (at % 64)
	}
	return r
}

// body returns the canonical encoding: one index set for each block of 2^16
// indexes from the block of first to the block of the last index, each over
// the part of the block that lies in [first, size).
func (m *indexMap) body() []byte {
	var dst []byte
	var set []uint64
	for lo, hi := range m.blocks() {
		set = set[:0]
		for at := (lo - m.base) / 64; at < (hi-m.base+63)/64; at++ {
			for w := m.words[at]; w != 0; w &= w - 1 {
				set = append(set, m.base+at*64+uint64(bits.TrailingZeros64(w))-lo)
			}
		}
		dst = appendIndexSet(dst, hi-lo, set)
	}
	return dst
}

// blocks yields the bounds of each block's part of [first, size).
func (m *indexMap) blocks() iter.Seq2[uint64, uint64] {
	return func(yield func(lo, hi uint64) bool) {
		for lo := m.first; lo < m.size; {
			hi := min(lo&^(blockSpan-1)+blockSpan, m.size)
			if !yield(lo, hi) {
				return
			}
			lo = hi
		}
	}
}

func decodeIndexMap(first, size uint64, body []byte) (*indexMap, error) {
	// A block takes at least a byte, so the body bounds the map.
	if blocks := (size - first&^(blockSpan-1) + blockSpan - 1) >> blockBits; size > first && blocks > uint64(len(body)) {
		return nil, fmt.Errorf("%w: %d bytes for %d blocks", errIndexSet, len(body), blocks)
	}
	m := newIndexMap(first, size)
	for lo, hi := range m.blocks() {
		set, rest, err := readIndexSet(body, hi-lo, hi-lo)
		if err != nil {
			return nil, err
		}
		body = rest
		for _, v := range set {
			m.set(lo + v)
		}
	}
	if len(body) != 0 {
		return nil, fmt.Errorf("%w: trailing bytes", errIndexSet)
	}
	return m, nil
}

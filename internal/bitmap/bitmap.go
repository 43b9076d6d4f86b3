// Package bitmap holds a bit for each of many numbers, such that one is looked
// up with one access to memory while others are being set: start with [New].
//
// Bits are only ever set. So a reader needs no lock and never has to look
// again, and what it has seen set stays set.
//
// # Memory
//
// A lookup in a table that is larger than the caches costs a miss of the TLB
// besides the one of the cache, unless the pages are huge. Go's heap does not
// get such pages where the system gives them on request only (Linux, with
// transparent_hugepage/enabled at madvise), so large maps are outside of it.
// That memory goes back to the system after the [Map] has become unreachable,
// never before: who holds the Map may read it.
package bitmap

import (
	"math/bits"
	"runtime"
	"sync/atomic"
)

// A Map has bits 0 to [Map.Len]-1. Its methods may be called concurrently, but
// for [Map.Fill].
type Map struct {
	words []uint64 // not always of Go's heap, so every use of it must keep the Map alive
}

// New returns a map of at least n bits, none of them set. Memory is taken page
// by page as bits are set, so what is not used costs addresses only.
func New(n uint64) *Map {
	m := &Map{}
	var release func()
	m.words, release = allocate(int((n + 63) / 64))
	if release != nil {
		runtime.AddCleanup(m, func(release func()) { release() }, release)
	}
	return m
}

// Len returns how many bits there are.
func (m *Map) Len() uint64 { return 64 * uint64(len(m.words)) }

// Has reports whether bit i is set.
func (m *Map) Has(i uint64) bool {
	w := atomic.LoadUint64(&m.words[i/64])
	runtime.KeepAlive(m)
	return w>>(i%64)&1 != 0
}

// Word returns bits 64*i to 64*i+63, the first in the lowest place.
func (m *Map) Word(i uint64) uint64 {
	w := atomic.LoadUint64(&m.words[i])
	runtime.KeepAlive(m)
	return w
}

// Prefetch begins to load bit i. A loop over many bits that are far apart in a
// large map takes a quarter of the time if another one has gone before it that
// prefetches them: then the loads are under way at the same time.
func (m *Map) Prefetch(i uint64) {
	prefetch(&m.words[i/64])
	runtime.KeepAlive(m)
}

// Set sets the n bits from i on.
func (m *Map) Set(i, n uint64) {
	for n > 0 {
		at, mask, took := piece(i, n)
		atomic.OrUint64(&m.words[at], mask)
		i, n = i+took, n-took
	}
	runtime.KeepAlive(m)
}

// Fill is Set for a map that nobody else knows yet.
func (m *Map) Fill(i, n uint64) {
	for n > 0 {
		at, mask, took := piece(i, n)
		m.words[at] |= mask
		i, n = i+took, n-took
	}
	runtime.KeepAlive(m)
}

// FillWord is Fill for bits 64*i to 64*i+63 at once.
func (m *Map) FillWord(i, w uint64) {
	m.words[i] |= w
	runtime.KeepAlive(m)
}

// Count returns how many of the n bits from i on are set.
func (m *Map) Count(i, n uint64) (count uint64) {
	for n > 0 {
		at, mask, took := piece(i, n)
		count += uint64(bits.OnesCount64(atomic.LoadUint64(&m.words[at]) & mask))
		i, n = i+took, n-took
	}
	runtime.KeepAlive(m)
	return count
}

// piece returns the word of bit i, and a mask of those of the n bits from i on
// that are in it, and how many they are.
func piece(i, n uint64) (at, mask, took uint64) {
	took = min(64-i%64, n)
	return i / 64, (1<<took - 1) << (i % 64), took
}

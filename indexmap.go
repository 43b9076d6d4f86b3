package chancery

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/chancery-pki/chancery/internal/bitmap"
)

// An indexMap holds which indexes of [first, size) of one log are revoked, a
// bit each: a lookup is one load. It never changes.
//
// The maps of lists that follow one another share their bits: the next list
// sets some more of them in place, and notes first which ones, so that the
// maps before it can tell that those are not theirs.
type indexMap struct {
	first, size uint64
	revoked     uint64 // how many of [first, size)
	*sharedBits
	// version is where the map stands among those that share its bits. Of the
	// newest one, no bit is set but its own, and below first those that have
	// expired.
	version *version
}

// sharedBits are the bits of one log in some lists that follow one another.
type sharedBits struct {
	base uint64 // index of bit 0: a multiple of the blocks' span
	bits *bitmap.Map
	// mu is held by who adds to the newest map. Readers do without.
	mu sync.Mutex
}

// A version is one map's place in the order. It knows what came later, not
// what was before: an addition goes with the last list that does without it.
type version struct{ later atomic.Pointer[addition] }

type addition struct {
	added []run // of indexes
	to    *version
}

// next returns the addition after the version, nil for the newest one.
func (v *version) next() *addition { return v.later.Load() }

// newIndexMap returns a map without revoked indexes, and with room for some
// more than those below size.
func newIndexMap(first, size uint64) *indexMap {
	base := first &^ (blockSpan - 1)
	room := size - base + max((size-base)/4, blockSpan)
	return &indexMap{first: first, size: size, sharedBits: &sharedBits{base: base, bits: bitmap.New(room)}, version: &version{}}
}

// has reports whether index, which lies in [first, size), is revoked. What is
// not takes one load; only a bit that is set may be a later list's.
func (m *indexMap) has(index uint64) bool {
	return m.bits.Has(index-m.base) && !m.addedLater(index)
}

func (m *indexMap) addedLater(index uint64) bool {
	for a := m.version.next(); a != nil; a = a.to.next() {
		i, found := slices.BinarySearchFunc(a.added, index, func(r run, index uint64) int { return cmp.Compare(r.at, index) })
		if found || i > 0 && index < a.added[i-1].end() {
			return true
		}
	}
	return false
}

// fill marks indexes in a map that nobody else knows yet.
func (m *indexMap) fill(r run) {
	m.bits.Fill(r.at-m.base, r.n)
	m.revoked += r.n
}

// window appends the words of [lo, hi) to dst, the first one the one that has
// the bit of lo; other bits of the first and of the last one are zero.
func (m *indexMap) window(dst []uint64, lo, hi uint64) []uint64 {
	lo, hi = lo-m.base, hi-m.base
	start := len(dst)
	for at := lo / 64; at < (hi+63)/64; at++ {
		dst = append(dst, m.bits.Word(at))
	}
	words := dst[start:]
	if len(words) == 0 {
		return dst
	}
	words[0] &= ^uint64(0) << (lo % 64)
	words[len(words)-1] &= ^uint64(0) >> (-hi % 64)
	// The words were read first: an addition is known before its bits are set.
	for a := m.version.next(); a != nil; a = a.to.next() {
		i, _ := slices.BinarySearchFunc(a.added, lo+m.base, func(r run, lo uint64) int { return cmp.Compare(r.end(), lo) })
		for ; i < len(a.added) && a.added[i].at < hi+m.base; i++ {
			r := a.added[i]
			for v := max(r.at-m.base, lo); v < min(r.end()-m.base, hi); v++ {
				words[v/64-lo/64] &^= 1 << (v % 64)
			}
		}
	}
	return dst
}

// runs appends the revoked indexes of [lo, hi) to dst. buf is memory to work
// with, given back for the next call.
func (m *indexMap) runs(dst []run, buf []uint64, lo, hi uint64) ([]run, []uint64) {
	buf = m.window(buf[:0], lo, hi)
	at := lo &^ 63
	for i, w := range buf {
		if w != 0 {
			dst = appendWord(dst, at+uint64(i)*64, w)
		}
	}
	return dst, buf
}

// copied returns a map of [first, size) with the indexes of m, which may be
// nil, in bits of its own. It covers no less at the end and no more at the
// start.
func (m *indexMap) copied(first, size uint64) *indexMap {
	r := newIndexMap(first, size)
	if m == nil {
		return r
	}
	var buf []uint64
	for lo, hi := range blocksOf(max(first, m.first), m.size) {
		buf = m.window(buf[:0], lo, hi)
		for i, w := range buf {
			if w != 0 {
				r.bits.FillWord((lo-r.base)/64+uint64(i), w)
			}
		}
	}
	r.revoked = r.bits.Count(0, r.bits.Len())
	return r
}

// extended returns the map of [first, size) that has the added indexes besides
// those of m, which may be nil; they must be within it, and none of m's. It
// must cover no less at the end and no more at the start. revoked is how many
// there must be; otherwise it is [ErrCRLBody], and nothing has changed.
//
// Where m is the newest map of its bits, and there is room, they are set in
// place, while readers look into m and the maps before it. That costs what is
// added and what has expired, and nothing for what is kept.
func (m *indexMap) extended(first, size uint64, added []run, revoked uint64) (*indexMap, error) {
	if m != nil && (m.first > first || m.size > size) {
		return nil, fmt.Errorf("%w: [%d, %d) shrank to [%d, %d)", ErrCRLBody, m.first, m.size, first, size)
	}
	if m.hasRoom(first, size) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.version.next() == nil {
			return m.extendedInPlace(first, size, added, revoked)
		}
	}
	r := m.copied(first, size)
	for _, a := range added {
		r.fill(a)
	}
	if n := r.bits.Count(0, r.bits.Len()); n != r.revoked || n != revoked { // one of m's, or of another number
		return nil, fmt.Errorf("%w: %d indexes, head says %d", ErrCRLBody, n, revoked)
	}
	return r, nil
}

// hasRoom tells whether the bits can be those of [first, size). When most of
// what they cover has expired they are too many.
func (m *indexMap) hasRoom(first, size uint64) bool {
	return m != nil && size-m.base <= m.bits.Len() && (first-m.base <= blockSpan || first-m.base <= (size-m.base)/2)
}

func (m *indexMap) extendedInPlace(first, size uint64, added []run, revoked uint64) (*indexMap, error) {
	for _, r := range added {
		m.bits.Prefetch(r.at - m.base) // all at a time: of a long list none is in the caches
	}
	for _, r := range added {
		if m.bits.Count(r.at-m.base, r.n) != 0 {
			return nil, fmt.Errorf("%w: index %d is revoked already, or another one of its run", ErrCRLBody, r.at)
		}
	}
	n := m.revoked + countRuns(added)
	if from, to := m.first, min(first, m.size); from < to {
		n -= m.bits.Count(from-m.base, to-from)
	}
	if n != revoked {
		return nil, fmt.Errorf("%w: %d indexes, head says %d", ErrCRLBody, n, revoked)
	}
	next := &version{}
	m.version.later.Store(&addition{added, next}) // before the first bit is set, see has and window
	for _, r := range added {
		m.bits.Set(r.at-m.base, r.n)
	}
	return &indexMap{first: first, size: size, revoked: n, sharedBits: m.sharedBits, version: next}, nil
}

// since returns the indexes that are revoked in m and not in before, which may
// be nil. It is an error if one was revoked before, is not, and has not
// expired.
func (m *indexMap) since(before *indexMap) (added []run, err error) {
	if before != nil && before.sharedBits == m.sharedBits {
		if added, ok := m.additionsSince(before); ok {
			return added, nil
		}
	}
	var now, then []uint64
	for lo, hi := range m.blocks() {
		now = m.window(now[:0], lo, hi)
		then = then[:0]
		if before != nil && max(lo, before.first) < min(hi, before.size) {
			// In the words of this block: its start and its end may differ.
			from, to := max(lo, before.first), min(hi, before.size)
			then = append(then, make([]uint64, from/64-lo/64)...)
			then = before.window(then, from, to)
		}
		for i, w := range now {
			old := uint64(0)
			if i < len(then) {
				old = then[i]
			}
			if old&^w != 0 {
				return nil, errors.New("an index is no longer revoked")
			}
			if w &^= old; w != 0 {
				added = appendWord(added, lo&^63+uint64(i)*64, w)
			}
		}
	}
	return added, nil
}

// additionsSince puts together what was added between two maps of the same
// bits, if before is one of those that m was made from.
func (m *indexMap) additionsSince(before *indexMap) (added []run, ok bool) {
	var all []run
	for v := before.version; v != m.version; {
		a := v.next()
		if a == nil {
			return nil, false
		}
		all, v = append(all, a.added...), a.to
	}
	slices.SortFunc(all, func(a, b run) int { return cmp.Compare(a.at, b.at) })
	for _, r := range all {
		if r.end() <= m.first {
			continue // expired
		}
		if r.at < m.first {
			r = run{m.first, r.end() - m.first}
		}
		added = appendRun(added, r)
	}
	return added, true
}

// body returns the canonical encoding: one index set for each block of 2^16
// indexes from the block of first to the block of the last index, each over
// the part of the block that lies in [first, size).
func (m *indexMap) body() []byte {
	var dst []byte
	var set []run
	var buf []uint64
	for lo, hi := range m.blocks() {
		set, buf = m.runs(set[:0], buf, lo, hi)
		for i := range set {
			set[i].at -= lo
		}
		dst = appendIndexSet(dst, hi-lo, set)
	}
	return dst
}

// blocks yields the bounds of each block's part of [first, size).
func (m *indexMap) blocks() iter.Seq2[uint64, uint64] { return blocksOf(m.first, m.size) }

func blocksOf(first, size uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(lo, hi uint64) bool) {
		for lo := first; lo < size; {
			hi := min(lo&^(blockSpan-1)+blockSpan, size)
			if !yield(lo, hi) {
				return
			}
			lo = hi
		}
	}
}

// decodeIndexMap reads a body straight into a map: what is in memory besides
// is one block's runs.
func decodeIndexMap(first, size uint64, body []byte) (*indexMap, error) {
	// A block takes at least a byte, so the body bounds the map.
	if blocks := (size - first&^(blockSpan-1) + blockSpan - 1) >> blockBits; size > first && blocks > uint64(len(body)) {
		return nil, fmt.Errorf("%w: %d bytes for %d blocks", errIndexSet, len(body), blocks)
	}
	m := newIndexMap(first, size)
	var set []run
	var err error
	for lo, hi := range m.blocks() {
		if set, body, err = readIndexSet(body, hi-lo, hi-lo, set[:0]); err != nil {
			return nil, err
		}
		for _, r := range set {
			m.fill(run{lo + r.at, r.n})
		}
	}
	if len(body) != 0 {
		return nil, fmt.Errorf("%w: trailing bytes", errIndexSet)
	}
	return m, nil
}

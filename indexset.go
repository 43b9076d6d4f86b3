package chancery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// A set of indexes is written in whichever of five forms is the smallest, and
// where two are equally small in the first of them, so that a set has one
// encoding (docs/protocol.md section 6). The first byte holds the form in its
// high three bits and, for gaps, the Rice parameter in its low five.
const (
	setEmpty  = 0
	setGaps   = 1 // count, then Rice-coded distances
	setBitmap = 2 // one bit an index, least significant first
	setRuns   = 3 // count, then pairs of distance and length
	setFull   = 4
)

const maxRice = 31

var errIndexSet = errors.New("index set is not in canonical form")

// appendIndexSet appends the encoding of a strictly ascending list of
// positions below span.
func appendIndexSet(dst []byte, span uint64, set []uint64) []byte {
	n := uint64(len(set))
	switch n {
	case 0:
		return append(dst, setEmpty<<5)
	case span:
		return append(dst, setFull<<5)
	}
	k, riceBits := riceParameter(set)
	gaps := 1 + uvarintLen(n) + (riceBits+7)/8
	bitmap := 1 + (span+7)/8
	runs, runsSize := findRuns(set)
	switch {
	case gaps <= bitmap && gaps <= runsSize:
		return appendGaps(dst, k, set)
	case bitmap <= runsSize:
		return appendBitmap(dst, span, set)
	}
	return appendRuns(dst, runs)
}

// riceParameter returns the parameter that codes the distances in the fewest
// bits, the smaller one of two equals, and how many bits that is. The number
// of bits is convex in k, so the first k that the next one does not beat is it.
func riceParameter(set []uint64) (k uint, size uint64) {
	cost := func(k uint) uint64 {
		total, next := uint64(len(set))*uint64(k+1), uint64(0)
		for _, v := range set {
			total += (v - next) >> k
			next = v + 1
		}
		return total
	}
	// The mean distance gives a start that is off by one at the most in
	// practice; the walk from there makes the answer exact.
	mean := (set[len(set)-1] + 1) / uint64(len(set))
	k = min(uint(bits.Len64(mean)), maxRice)
	size = cost(k)
	for k > 0 {
		c := cost(k - 1)
		if c > size {
			break
		}
		k, size = k-1, c
	}
	for k < maxRice {
		c := cost(k + 1)
		if c >= size {
			break
		}
		k, size = k+1, c
	}
	return k, size
}

func appendGaps(dst []byte, k uint, set []uint64) []byte {
	dst = append(dst, setGaps<<5|byte(k))
	dst = binary.AppendUvarint(dst, uint64(len(set)))
	w := bitWriter{dst: dst}
	next := uint64(0)
	for _, v := range set {
		w.rice(v-next, k)
		next = v + 1
	}
	return w.flush()
}

func appendBitmap(dst []byte, span uint64, set []uint64) []byte {
	dst = append(dst, setBitmap<<5)
	at := len(dst)
	dst = append(dst, make([]byte, (span+7)/8)...)
	for _, v := range set {
		dst[at+int(v/8)] |= 1 << (v % 8)
	}
	return dst
}

// A run is length consecutive positions after a distance of gap from the end
// of the run before.
type run struct{ gap, length uint64 }

func findRuns(set []uint64) (runs []run, size uint64) {
	next := uint64(0)
	for i := 0; i < len(set); {
		j := i + 1
		for j < len(set) && set[j] == set[j-1]+1 {
			j++
		}
		r := run{set[i] - next, uint64(j - i)}
		runs = append(runs, r)
		size += uvarintLen(r.gap) + uvarintLen(r.length-1)
		next = set[j-1] + 1
		i = j
	}
	return runs, 1 + uvarintLen(uint64(len(runs))) + size
}

func appendRuns(dst []byte, runs []run) []byte {
	dst = append(dst, setRuns<<5)
	dst = binary.AppendUvarint(dst, uint64(len(runs)))
	for _, r := range runs {
		dst = binary.AppendUvarint(dst, r.gap)
		dst = binary.AppendUvarint(dst, r.length-1)
	}
	return dst
}

func uvarintLen(v uint64) uint64 { return uint64(bits.Len64(v|1)+6) / 7 }

// readIndexSet reads one set of positions below span from b and returns what
// follows it. At most limit positions are accepted. Only the canonical
// encoding is; the set is encoded again to make sure.
func readIndexSet(b []byte, span, limit uint64) (set []uint64, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("%w: truncated", errIndexSet)
	}
	form, k, rest := b[0]>>5, uint(b[0]&31), b[1:]
	if form != setGaps && k != 0 {
		return nil, nil, errIndexSet
	}
	switch form {
	case setEmpty:
	case setFull:
		if span > limit {
			return nil, nil, fmt.Errorf("%w: %d indexes, at most %d", errIndexSet, span, limit)
		}
		set = make([]uint64, span)
		for i := range set {
			set[i] = uint64(i)
		}
	case setGaps:
		set, rest, err = readGaps(rest, k, span, limit)
	case setBitmap:
		set, rest, err = readBitmap(rest, span, limit)
	case setRuns:
		set, rest, err = readRuns(rest, span, limit)
	default:
		err = fmt.Errorf("%w: form %d", errIndexSet, form)
	}
	if err != nil {
		return nil, nil, err
	}
	used := b[:len(b)-len(rest)]
	if !slices.Equal(appendIndexSet(make([]byte, 0, len(used)), span, set), used) {
		return nil, nil, errIndexSet
	}
	return set, rest, nil
}

// readCount reads a number of items of which each takes at least one bit.
func readCount(b []byte, limit uint64) (n uint64, rest []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n == 0 || n > limit || n > 8*uint64(len(b)) {
		return 0, nil, fmt.Errorf("%w: count", errIndexSet)
	}
	return n, b[used:], nil
}

func readGaps(b []byte, k uint, span, limit uint64) ([]uint64, []byte, error) {
	n, b, err := readCount(b, min(limit, span))
	if err != nil {
		return nil, nil, err
	}
	set := make([]uint64, 0, n)
	r := bitReader{src: b}
	next := uint64(0)
	for range n {
		gap, ok := r.rice(k, (span-next)>>k)
		if !ok || gap >= span-next {
			return nil, nil, fmt.Errorf("%w: distance", errIndexSet)
		}
		set = append(set, next+gap)
		next += gap + 1
	}
	return set, r.rest(), nil
}

func readBitmap(b []byte, span, limit uint64) ([]uint64, []byte, error) {
	size := (span + 7) / 8
	if size > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: truncated", errIndexSet)
	}
	count := uint64(0)
	for _, c := range b[:size] {
		count += uint64(bits.OnesCount8(c))
	}
	if count > limit {
		return nil, nil, fmt.Errorf("%w: %d indexes, at most %d", errIndexSet, count, limit)
	}
	set := make([]uint64, 0, count)
	for i, c := range b[:size] {
		for ; c != 0; c &= c - 1 {
			v := uint64(i)*8 + uint64(bits.TrailingZeros8(c))
			if v >= span {
				return nil, nil, fmt.Errorf("%w: bit beyond the end", errIndexSet)
			}
			set = append(set, v)
		}
	}
	return set, b[size:], nil
}

func readRuns(b []byte, span, limit uint64) ([]uint64, []byte, error) {
	n, b, err := readCount(b, limit)
	if err != nil {
		return nil, nil, err
	}
	var set []uint64
	next := uint64(0)
	for range n {
		gap, used := binary.Uvarint(b)
		if used <= 0 {
			return nil, nil, fmt.Errorf("%w: truncated", errIndexSet)
		}
		b = b[used:]
		length, used := binary.Uvarint(b)
		if used <= 0 || gap >= span-next || length >= span-next-gap || length >= limit-uint64(len(set)) {
			return nil, nil, fmt.Errorf("%w: run", errIndexSet)
		}
		b = b[used:]
		for i := range length + 1 {
			set = append(set, next+gap+i)
		}
		next += gap + length + 1
	}
	return set, b, nil
}

// A bitWriter writes bits from the most significant bit of each byte on.
type bitWriter struct {
	dst  []byte
	used uint
}

func (w *bitWriter) bits(v uint64, n uint) {
	for n > 0 {
		take := min(n, 8-w.used%8)
		chunk := byte(v>>(n-take)) & (1<<take - 1)
		if w.used%8 == 0 {
			w.dst = append(w.dst, 0)
		}
		w.dst[len(w.dst)-1] |= chunk << (8 - w.used%8 - take)
		w.used += take
		n -= take
	}
}

// rice writes v / 2^k ones, a zero, and the low k bits of v (Golomb-Rice).
func (w *bitWriter) rice(v uint64, k uint) {
	for q := v >> k; q > 0; {
		ones := uint(min(q, 32))
		w.bits(1<<ones-1, ones)
		q -= uint64(ones)
	}
	w.bits(0, 1)
	w.bits(v&(1<<k-1), k)
}

func (w *bitWriter) flush() []byte { return w.dst }

// A bitReader reads what a bitWriter wrote.
type bitReader struct {
	src []byte
	pos uint64 // in bits
}

func (r *bitReader) bit() (v byte, ok bool) {
	at := r.pos / 8
	if at >= uint64(len(r.src)) {
		return 0, false
	}
	v = r.src[at] >> (7 - r.pos%8) & 1
	r.pos++
	return v, true
}

// rice reads a number whose quotient by 2^k is at most most.
func (r *bitReader) rice(k uint, most uint64) (v uint64, ok bool) {
	var q uint64
	for {
		b, ok := r.bit()
		if !ok {
			return 0, false
		}
		if b == 0 {
			break
		}
		if q++; q > most {
			return 0, false
		}
	}
	for range k {
		b, ok := r.bit()
		if !ok {
			return 0, false
		}
		v = v<<1 | uint64(b)
	}
	return q<<k | v, true
}

// rest returns the bytes after the last one that was begun.
func (r *bitReader) rest() []byte { return r.src[(r.pos+7)/8:] }

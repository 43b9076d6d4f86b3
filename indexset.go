package chancery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
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
	switch form, k := chooseForm(span, set); form {
	case setGaps:
		return appendGaps(dst, k, set)
	case setBitmap:
		return appendBitmap(dst, span, set)
	case setRuns:
		return appendRuns(dst, set)
	default:
		return append(dst, form<<5)
	}
}

// chooseForm returns the form of a set and, for gaps, the Rice parameter.
func chooseForm(span uint64, set []uint64) (form byte, k uint) {
	n := uint64(len(set))
	switch n {
	case 0:
		return setEmpty, 0
	case span:
		return setFull, 0
	}
	k, riceBits := riceParameter(set)
	gaps := 1 + uvarintLen(n) + (riceBits+7)/8
	bitmap := 1 + (span+7)/8
	runs := runsSize(set)
	switch {
	case gaps <= bitmap && gaps <= runs:
		return setGaps, k
	case bitmap <= runs:
		return setBitmap, 0
	}
	return setRuns, 0
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

// eachRun calls f with every run of consecutive positions: the distance from
// the end of the run before, and the length.
func eachRun(set []uint64, f func(gap, length uint64)) {
	next := uint64(0)
	for i := 0; i < len(set); {
		j := i + 1
		for j < len(set) && set[j] == set[j-1]+1 {
			j++
		}
		f(set[i]-next, uint64(j-i))
		next = set[j-1] + 1
		i = j
	}
}

// runsSize returns how many bytes appendRuns will append.
func runsSize(set []uint64) uint64 {
	n, size := uint64(0), uint64(0)
	eachRun(set, func(gap, length uint64) {
		n++
		size += uvarintLen(gap) + uvarintLen(length-1)
	})
	return 1 + uvarintLen(n) + size
}

func appendRuns(dst []byte, set []uint64) []byte {
	n := uint64(0)
	eachRun(set, func(uint64, uint64) { n++ })
	dst = append(dst, setRuns<<5)
	dst = binary.AppendUvarint(dst, n)
	eachRun(set, func(gap, length uint64) {
		dst = binary.AppendUvarint(dst, gap)
		dst = binary.AppendUvarint(dst, length-1)
	})
	return dst
}

func uvarintLen(v uint64) uint64 { return uint64(bits.Len64(v|1)+6) / 7 }

// readIndexSet reads one set of positions below span from b and returns what
// follows it. At most limit positions are accepted, and only the canonical
// encoding: each form's reader takes one encoding of a set only, and the form
// must be the one that the set has.
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
	if want, wantK := chooseForm(span, set); form != want || form == setGaps && k != wantK {
		return nil, nil, errIndexSet
	}
	return set, rest, nil
}

// readUvarint reads a number in its shortest form.
func readUvarint(b []byte) (v uint64, rest []byte, err error) {
	v, used := binary.Uvarint(b)
	if used <= 0 || uint64(used) != uvarintLen(v) {
		return 0, nil, fmt.Errorf("%w: number", errIndexSet)
	}
	return v, b[used:], nil
}

// readCount reads a number of items of which each takes at least one bit.
func readCount(b []byte, limit uint64) (n uint64, rest []byte, err error) {
	n, rest, err = readUvarint(b)
	if err == nil && (n == 0 || n > limit || n > 8*uint64(len(b))) {
		err = fmt.Errorf("%w: count", errIndexSet)
	}
	return n, rest, err
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
	rest, ok := r.rest()
	if !ok {
		return nil, nil, fmt.Errorf("%w: padding", errIndexSet)
	}
	return set, rest, nil
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
	for i := range n {
		var gap, more uint64
		if gap, b, err = readUvarint(b); err != nil {
			return nil, nil, err
		}
		if more, b, err = readUvarint(b); err != nil {
			return nil, nil, err
		}
		// Two runs with nothing between them would be one.
		if i > 0 && gap == 0 || gap >= span-next || more >= span-next-gap || more >= limit-uint64(len(set)) {
			return nil, nil, fmt.Errorf("%w: run", errIndexSet)
		}
		for j := range more + 1 {
			set = append(set, next+gap+j)
		}
		next += gap + more + 1
	}
	return set, b, nil
}

// A bitWriter writes bits from the most significant bit of each byte on.
type bitWriter struct {
	dst  []byte
	acc  uint64 // the last bits, in its low end
	have uint   // how many, below 8 between calls
}

// bits writes the low n bits of v, at most 56.
func (w *bitWriter) bits(v uint64, n uint) {
	w.acc, w.have = w.acc<<n|v, w.have+n
	for w.have >= 8 {
		w.have -= 8
		w.dst = append(w.dst, byte(w.acc>>w.have))
	}
}

// rice writes v / 2^k ones, a zero, and the low k bits of v (Golomb-Rice).
func (w *bitWriter) rice(v uint64, k uint) {
	q := v >> k
	for ; q >= 32; q -= 32 {
		w.bits(1<<32-1, 32)
	}
	w.bits((1<<q-1)<<1, uint(q)+1)
	w.bits(v&(1<<k-1), k)
}

// flush pads the last byte with zeros.
func (w *bitWriter) flush() []byte {
	if w.have > 0 {
		w.bits(0, 8-w.have)
	}
	return w.dst
}

// A bitReader reads what a bitWriter wrote.
type bitReader struct {
	src []byte
	pos uint64 // in bits
}

// peek returns the next 57 bits or more in the high end of a word, with zeros
// after the end of the source.
func (r *bitReader) peek() uint64 {
	at := r.pos / 8
	if at+8 <= uint64(len(r.src)) {
		return binary.BigEndian.Uint64(r.src[at:]) << (r.pos % 8)
	}
	var tail [8]byte
	if at < uint64(len(r.src)) {
		copy(tail[:], r.src[at:])
	}
	return binary.BigEndian.Uint64(tail[:]) << (r.pos % 8)
}

// rice reads a number whose quotient by 2^k is at most most.
func (r *bitReader) rice(k uint, most uint64) (v uint64, ok bool) {
	var q uint64
	for {
		ones := uint64(bits.LeadingZeros64(^r.peek()))
		ones = min(ones, 56) // of what peek vouches for
		q, r.pos = q+ones, r.pos+ones
		if q > most || r.pos >= 8*uint64(len(r.src)) {
			return 0, false
		}
		if ones < 56 {
			break
		}
	}
	r.pos++ // the zero
	if k > 0 {
		v = r.peek() >> (64 - k)
		r.pos += uint64(k)
	}
	return q<<k | v, r.pos <= 8*uint64(len(r.src))
}

// rest returns the bytes after the last one that was begun, whose padding must
// be zeros.
func (r *bitReader) rest() (rest []byte, ok bool) {
	if used := r.pos % 8; used != 0 && r.src[r.pos/8]<<used != 0 {
		return nil, false
	}
	return r.src[(r.pos+7)/8:], true
}

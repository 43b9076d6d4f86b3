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
// encoding (docs/protocol.md section 6.1). The first byte holds the form in its
// high three bits and, for gaps and runs, a parameter in its low five.
const (
	setEmpty  = 0
	setGaps   = 1 // count, then Rice-coded distances
	setBitmap = 2 // one bit an index, least significant first
	setRuns   = 3 // parameter, count, then pairs of distance and length in exponential Golomb code
	setFull   = 4
)

const maxParameter = 31

var errIndexSet = errors.New("index set is not in canonical form")

// A run is the positions [at, at+n), n at least 1. Sets are lists of runs,
// ascending and with a gap between any two: what is clustered stays small in
// memory too, and all that decides on the form depends on the runs alone.
type run struct{ at, n uint64 }

func (r run) end() uint64 { return r.at + r.n }

// appendPosition adds a position that is not below the end of the last run.
func appendPosition(set []run, v uint64) []run { return appendRun(set, run{v, 1}) }

func appendRun(set []run, r run) []run {
	if i := len(set) - 1; i >= 0 && set[i].end() == r.at {
		set[i].n += r.n
		return set
	}
	return append(set, r)
}

func countRuns(set []run) (n uint64) {
	for _, r := range set {
		n += r.n
	}
	return n
}

// appendIndexSet appends the encoding of a set of positions below span.
func appendIndexSet(dst []byte, span uint64, set []run) []byte {
	switch f := chooseForm(span, set); f.form {
	case setGaps:
		return appendGaps(dst, f.k, set)
	case setBitmap:
		return appendBitmap(dst, span, set)
	case setRuns:
		return appendRuns(dst, f, set)
	default:
		return append(dst, f.form<<5)
	}
}

// A setForm is the form of a set and what goes with it.
type setForm struct {
	form   byte
	k      uint // of the distances in gaps and runs
	length uint // of the lengths in runs
}

// chooseForm returns the one form that a set is written in.
func chooseForm(span uint64, set []run) setForm {
	n := countRuns(set)
	switch n {
	case 0:
		return setForm{form: setEmpty}
	case span:
		return setForm{form: setFull}
	}
	gaps, runs := gapsForm(n, set), runsForm(n, set)
	gapsBits, runsBits, next := n*uint64(gaps.k+1), uint64(0), uint64(0)
	for i, r := range set {
		gapsBits += (r.at - next) >> gaps.k // within a run the distance is 0
		runsBits += golombLen(runDistance(i, r, next), runs.k)
		if r.n == 1 {
			runsBits += uint64(1 + runs.length) // as below, for most of what is scattered
		} else {
			runsBits += golombLen(r.n-1, runs.length)
		}
		next = r.end()
	}
	gapsSize := 1 + uvarintLen(n) + (gapsBits+7)/8
	bitmapSize := 1 + (span+7)/8
	runsSize := 2 + uvarintLen(uint64(len(set))) + (runsBits+7)/8
	switch {
	case gapsSize <= bitmapSize && gapsSize <= runsSize:
		return gaps
	case bitmapSize <= runsSize:
		return setForm{form: setBitmap}
	}
	return runs
}

// gapsForm is how n positions are written as gaps.
func gapsForm(n uint64, set []run) setForm {
	return setForm{form: setGaps, k: parameter(set[len(set)-1].end()-n, n)}
}

// runsForm is how n positions are written as runs.
func runsForm(n uint64, set []run) setForm {
	runs := uint64(len(set))
	between := set[len(set)-1].end() - n - (runs - 1) // see runDistance
	return setForm{form: setRuns, k: parameter(between, runs), length: parameter(n-runs, runs)}
}

// parameter returns the parameter for n numbers with that sum: the binary
// logarithm of their mean, rounded down. To search for the best one would save
// a hundredth or so of what is scattered, and a decoder would have to search
// too; the sums are known without looking at the numbers.
func parameter(sum, n uint64) uint {
	return min(uint(bits.Len64(sum/n|1))-1, maxParameter)
}

// runDistance is what is written of the place of run i, where next is the end
// of the one before it. Two runs have a gap between them, so that one position
// of it goes without saying.
func runDistance(i int, r run, next uint64) uint64 {
	if i == 0 {
		return r.at
	}
	return r.at - next - 1
}

func appendGaps(dst []byte, k uint, set []run) []byte {
	dst = append(dst, setGaps<<5|byte(k))
	dst = binary.AppendUvarint(dst, countRuns(set))
	w := bitWriter{dst: dst}
	next := uint64(0)
	for _, r := range set {
		w.rice(r.at-next, k)
		for range r.n - 1 {
			w.rice(0, k)
		}
		next = r.end()
	}
	return w.flush()
}

func appendBitmap(dst []byte, span uint64, set []run) []byte {
	dst = append(dst, setBitmap<<5)
	at := len(dst)
	dst = append(dst, make([]byte, (span+7)/8)...)
	for _, r := range set {
		for v := r.at; v < r.end(); v++ {
			dst[at+int(v/8)] |= 1 << (v % 8)
		}
	}
	return dst
}

func appendRuns(dst []byte, f setForm, set []run) []byte {
	dst = append(dst, setRuns<<5|byte(f.k), byte(f.length))
	dst = binary.AppendUvarint(dst, uint64(len(set)))
	w := bitWriter{dst: dst}
	next := uint64(0)
	for i, r := range set {
		w.golomb(runDistance(i, r, next), f.k)
		w.golomb(r.n-1, f.length)
		next = r.end()
	}
	return w.flush()
}

func uvarintLen(v uint64) uint64 { return uint64(bits.Len64(v|1)+6) / 7 }

// readIndexSet reads one set of positions below span from b, appends it to
// set, which is empty and lends its memory, and returns what follows it. At
// most limit positions are accepted, and only the canonical encoding: each
// form's reader takes one encoding of a set only, and the form must be the one
// that the set has.
//
// What a count promises takes no memory before the bytes are there.
func readIndexSet(b []byte, span, limit uint64, set []run) (_ []run, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("%w: truncated", errIndexSet)
	}
	f, rest := setForm{form: b[0] >> 5, k: uint(b[0] & 31)}, b[1:]
	if f.form != setGaps && f.form != setRuns && f.k != 0 {
		return nil, nil, errIndexSet
	}
	switch f.form {
	case setEmpty:
	case setFull:
		if span == 0 || span > limit {
			return nil, nil, fmt.Errorf("%w: %d indexes, at most %d", errIndexSet, span, limit)
		}
		set = append(set, run{0, span})
	case setGaps:
		set, rest, err = readGaps(rest, f.k, span, limit, set)
	case setBitmap:
		set, rest, err = readBitmap(rest, span, limit, set)
	case setRuns:
		if len(rest) == 0 || rest[0] > maxParameter {
			return nil, nil, fmt.Errorf("%w: parameter", errIndexSet)
		}
		f.length = uint(rest[0])
		set, rest, err = readRuns(rest[1:], f, span, limit, set)
	default:
		err = fmt.Errorf("%w: form %d", errIndexSet, f.form)
	}
	if err != nil {
		return nil, nil, err
	}
	if chooseForm(span, set) != f {
		return nil, nil, errIndexSet
	}
	return set, rest, nil
}

// readCount reads a number from 1 to limit in its shortest form.
func readCount(b []byte, limit uint64) (n uint64, rest []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || uint64(used) != uvarintLen(n) || n == 0 || n > limit {
		return 0, nil, fmt.Errorf("%w: count", errIndexSet)
	}
	return n, b[used:], nil
}

// lent is how many runs memory is taken for before they are read: a count may
// be a lie, and most are smaller.
const lent = 4096

func readGaps(b []byte, k uint, span, limit uint64, set []run) ([]run, []byte, error) {
	n, b, err := readCount(b, min(limit, span))
	if err != nil {
		return nil, nil, err
	}
	set = slices.Grow(set, int(min(n, lent)))
	r := bitReader{src: b}
	next := uint64(0)
	for range n {
		gap, ok := r.rice(k, (span-next)>>k)
		if !ok || gap >= span-next {
			return nil, nil, fmt.Errorf("%w: distance", errIndexSet)
		}
		set = appendPosition(set, next+gap)
		next += gap + 1
	}
	rest, ok := r.rest()
	if !ok {
		return nil, nil, fmt.Errorf("%w: padding", errIndexSet)
	}
	return set, rest, nil
}

func readBitmap(b []byte, span, limit uint64, set []run) ([]run, []byte, error) {
	size := (span + 7) / 8
	if size > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: truncated", errIndexSet)
	}
	if used := span % 8; used != 0 && b[size-1]>>used != 0 {
		return nil, nil, fmt.Errorf("%w: bit beyond the end", errIndexSet)
	}
	count := uint64(0)
	for _, c := range b[:size] {
		count += uint64(bits.OnesCount8(c))
	}
	if count > limit {
		return nil, nil, fmt.Errorf("%w: %d indexes, at most %d", errIndexSet, count, limit)
	}
	at := uint64(0)
	for ; at+8 <= size; at += 8 {
		set = appendWord(set, 8*at, binary.LittleEndian.Uint64(b[at:]))
	}
	for ; at < size; at++ {
		set = appendWord(set, 8*at, uint64(b[at]))
	}
	return set, b[size:], nil
}

// appendWord adds the positions whose bits are set in w, the lowest one being
// that of position at.
func appendWord(set []run, at, w uint64) []run {
	for w != 0 {
		skip := bits.TrailingZeros64(w)
		n := bits.TrailingZeros64(^(w >> skip))
		set = appendRun(set, run{at + uint64(skip), uint64(n)})
		if skip+n == 64 {
			break
		}
		w = w >> (skip + n) << (skip + n)
	}
	return set
}

func readRuns(b []byte, f setForm, span, limit uint64, set []run) ([]run, []byte, error) {
	n, b, err := readCount(b, min(limit, span))
	if err != nil {
		return nil, nil, err
	}
	set = slices.Grow(set, int(min(n, lent)))
	r := bitReader{src: b}
	next, left := uint64(0), limit
	for i := range n {
		at, ok := r.golomb(f.k, span)
		if i > 0 {
			at++ // the position that goes without saying
		}
		if !ok || at >= span-next {
			return nil, nil, fmt.Errorf("%w: distance", errIndexSet)
		}
		at += next
		more, ok := r.golomb(f.length, span)
		if !ok || more >= span-at || more >= left {
			return nil, nil, fmt.Errorf("%w: length", errIndexSet)
		}
		set = append(set, run{at, more + 1})
		next, left = at+more+1, left-more-1
	}
	rest, ok := r.rest()
	if !ok {
		return nil, nil, fmt.Errorf("%w: padding", errIndexSet)
	}
	return set, rest, nil
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

// golomb writes v / 2^k + 1, which has n bits, after n-1 zeros, and the low k
// bits of v (exponential Golomb). Distances and lengths of what is clustered
// spread wider than the distances of what is revoked at random: the number of
// bits grows with the logarithm.
func (w *bitWriter) golomb(v uint64, k uint) {
	q := v>>k + 1
	n := uint(bits.Len64(q))
	w.bits(0, n-1)
	w.bits(q, n)
	w.bits(v&(1<<k-1), k)
}

// golombLen returns how many bits golomb writes.
func golombLen(v uint64, k uint) uint64 { return uint64(2*bits.Len64(v>>k+1)-1) + uint64(k) }

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

// take reads the next n bits, at most 56.
func (r *bitReader) take(n uint) (v uint64) {
	if n > 0 {
		v = r.peek() >> (64 - n)
		r.pos += uint64(n)
	}
	return v
}

// rice reads a number whose quotient by 2^k is at most most.
func (r *bitReader) rice(k uint, most uint64) (v uint64, ok bool) {
	word := r.peek()
	ones := uint(bits.LeadingZeros64(^word))
	if used := ones + 1 + k; used <= 56 { // all of it is in the word
		r.pos += uint64(used)
		q := uint64(ones)
		return q<<(k&63) | word>>(-used&63)&(1<<(k&63)-1), q <= most && r.pos <= 8*uint64(len(r.src))
	}
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
	v = r.take(k)
	return q<<k | v, r.pos <= 8*uint64(len(r.src))
}

// golomb reads a number that is at most most, which is below 2^40.
func (r *bitReader) golomb(k uint, most uint64) (v uint64, ok bool) {
	zeros := uint(bits.LeadingZeros64(r.peek()))
	if zeros > 40 {
		return 0, false
	}
	r.pos += uint64(zeros)
	q := r.take(zeros+1) - 1
	if q > most>>k {
		return 0, false
	}
	v = q<<k | r.take(k)
	return v, v <= most && r.pos <= 8*uint64(len(r.src))
}

// rest returns the bytes after the last one that was begun, whose padding must
// be zeros.
func (r *bitReader) rest() (rest []byte, ok bool) {
	if used := r.pos % 8; used != 0 && r.src[r.pos/8]<<used != 0 {
		return nil, false
	}
	return r.src[(r.pos+7)/8:], true
}

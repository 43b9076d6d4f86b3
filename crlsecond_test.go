package chancery

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A second implementation of index sets and bodies, from section 6.1 of
// docs/protocol.md and nothing else: bits are characters, sets are maps, and
// a form is chosen by writing all of them.

type simpleSet map[uint64]bool

func (s simpleSet) sorted() (list []uint64) {
	for v := range s {
		list = append(list, v)
	}
	slices.Sort(list)
	return list
}

// A simpleRun is the distance to the run before and the length.
type simpleRun struct{ distance, length uint64 }

func (s simpleSet) runs() (runs []simpleRun) {
	after := uint64(0) // the position after the last run
	for _, v := range s.sorted() {
		switch {
		case len(runs) == 0:
			runs = append(runs, simpleRun{v, 1})
		case v == after:
			runs[len(runs)-1].length++
		default:
			runs = append(runs, simpleRun{v - after, 1})
		}
		after = v + 1
	}
	return runs
}

func simpleLEB128(v uint64) []byte {
	if v < 128 {
		return []byte{byte(v)}
	}
	return append([]byte{byte(v%128 + 128)}, simpleLEB128(v/128)...)
}

// simpleBinary writes the low n bits of v.
func simpleBinary(v uint64, n int) string {
	if n == 0 {
		return ""
	}
	return simpleBinary(v/2, n-1) + string(rune('0'+v%2))
}

func simpleWidth(v uint64) (n int) {
	for ; v > 0; v /= 2 {
		n++
	}
	return n
}

// simpleParameter is the greatest k up to 31 with 2^k no more than the mean, 0
// if there is none.
func simpleParameter(numbers []uint64) (k int) {
	sum := uint64(0)
	for _, v := range numbers {
		sum += v
	}
	for k < 31 && uint64(len(numbers))<<(k+1) <= sum {
		k++
	}
	return k
}

func simpleRice(v uint64, k int) string {
	return strings.Repeat("1", int(v>>k)) + "0" + simpleBinary(v, k)
}

func simpleGolomb(v uint64, k int) string {
	n := simpleWidth(v>>k + 1)
	return strings.Repeat("0", n-1) + simpleBinary(v>>k+1, n) + simpleBinary(v, k)
}

// simpleBytes fills the last byte with zeros.
func simpleBytes(bits string) (b []byte) {
	for len(bits)%8 != 0 {
		bits += "0"
	}
	for ; bits != ""; bits = bits[8:] {
		v := byte(0)
		for _, c := range bits[:8] {
			v = v*2 + byte(c-'0')
		}
		b = append(b, v)
	}
	return b
}

func (s simpleSet) encode(span uint64) []byte {
	switch uint64(len(s)) {
	case 0:
		return []byte{0 << 5}
	case span:
		return []byte{4 << 5}
	}
	var distances []uint64
	next := uint64(0)
	for _, v := range s.sorted() {
		distances = append(distances, v-next)
		next = v + 1
	}
	k := simpleParameter(distances)
	var bits strings.Builder
	for _, d := range distances {
		bits.WriteString(simpleRice(d, k))
	}
	best := slices.Concat([]byte{byte(1<<5 + k)}, simpleLEB128(uint64(len(s))), simpleBytes(bits.String()))

	if span < 1<<20 { // wider ones are never the smallest here
		bitmap := make([]byte, 1+(span+7)/8)
		bitmap[0] = 2 << 5
		for v := range s {
			bitmap[1+v/8] += 1 << (v % 8)
		}
		if len(bitmap) < len(best) {
			best = bitmap
		}
	}

	runs := s.runs()
	var places, lengths []uint64
	for i, r := range runs {
		places, lengths = append(places, r.distance), append(lengths, r.length-1)
		if i > 0 {
			places[i]--
		}
	}
	k, l := simpleParameter(places), simpleParameter(lengths)
	bits.Reset()
	for i := range runs {
		bits.WriteString(simpleGolomb(places[i], k) + simpleGolomb(lengths[i], l))
	}
	if b := slices.Concat([]byte{byte(3<<5 + k), byte(l)}, simpleLEB128(uint64(len(runs))), simpleBytes(bits.String())); len(b) < len(best) {
		best = b
	}
	return best
}

// A simpleReader reads bits or bytes; after the end it has failed.
type simpleReader struct {
	b    []byte
	bits string // of the byte that was begun
	bad  bool
}

func (r *simpleReader) byte() (c byte) {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c, r.b = r.b[0], r.b[1:]
	return c
}

func (r *simpleReader) bit() (c byte) {
	if r.bits == "" {
		r.bits = simpleBinary(uint64(r.byte()), 8)
	}
	c, r.bits = r.bits[0], r.bits[1:]
	return c
}

func (r *simpleReader) binary(n int) (v uint64) {
	for ; n > 0; n-- {
		v = v*2 + uint64(r.bit()-'0')
	}
	return v
}

func (r *simpleReader) leb128() (v uint64) {
	for shift := 0; shift < 63; shift += 7 {
		c := r.byte()
		v += uint64(c%128) << shift
		if c < 128 {
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *simpleReader) rice(k int) uint64 {
	q := uint64(0)
	for ; r.bit() == '1'; q++ {
	}
	return q<<k + r.binary(k)
}

func (r *simpleReader) golomb(k int) uint64 {
	n := 1
	for ; !r.bad && r.bit() == '0'; n++ {
		if n > 40 {
			r.bad = true
		}
	}
	if r.bad {
		return 0
	}
	q := uint64(1)<<(n-1) + r.binary(n-1) - 1
	return q<<k + r.binary(k)
}

// simpleDecode reads a set and what follows it. It believes what it reads as
// far as it can, and then writes it and compares.
func simpleDecode(b []byte, span uint64) (set simpleSet, rest []byte, ok bool) {
	r, set := &simpleReader{b: b}, simpleSet{}
	first := r.byte()
	k, next := int(first%32), uint64(0)
	add := func(distance, length uint64) {
		if distance >= span || length > span || next+distance+length > span {
			r.bad = true
			return
		}
		for i := range length {
			set[next+distance+i] = true
		}
		next += distance + length
	}
	switch first / 32 {
	case 0:
	case 1:
		for n := r.leb128(); n > 0 && !r.bad; n-- {
			add(r.rice(k), 1)
		}
	case 2:
		for at := uint64(0); at < span && !r.bad; at += 8 {
			c := r.byte()
			for i := range uint64(8) {
				if c>>i%2 == 1 {
					set[at+i] = true
				}
			}
		}
	case 3:
		l := int(r.byte())
		r.bad = r.bad || l > 31
		for n, more := r.leb128(), uint64(0); n > 0 && !r.bad; n, more = n-1, 1 {
			distance := r.golomb(k) + more
			add(distance, r.golomb(l)+1)
		}
	case 4:
		add(0, span)
	default:
		r.bad = true
	}
	if r.bad {
		return nil, nil, false
	}
	for v := range set {
		if v >= span {
			return nil, nil, false
		}
	}
	if used := b[:len(b)-len(r.b)]; !bytes.Equal(used, set.encode(span)) {
		return nil, nil, false
	}
	return set, r.b, true
}

// simpleBlocks calls f for each block's part of [first, size).
func simpleBlocks(first, size uint64, f func(lo, hi uint64)) {
	for j := first / 65536; j*65536 < size; j++ {
		if lo, hi := max(j*65536, first), min(j*65536+65536, size); lo < hi {
			f(lo, hi)
		}
	}
}

func (s simpleSet) body(first, size uint64) (b []byte) {
	simpleBlocks(first, size, func(lo, hi uint64) {
		block := simpleSet{}
		for v := range s {
			if v >= lo && v < hi {
				block[v-lo] = true
			}
		}
		b = append(b, block.encode(hi-lo)...)
	})
	return b
}

func simpleReadBody(first, size uint64, b []byte) (set simpleSet, ok bool) {
	set, ok = simpleSet{}, true
	simpleBlocks(first, size, func(lo, hi uint64) {
		var block simpleSet
		if ok {
			block, b, ok = simpleDecode(b, hi-lo)
		}
		for v := range block {
			set[lo+v] = true
		}
	})
	return set, ok && len(b) == 0
}

// clusters are ways in which sets of [first, size) come about. Some of them
// put together are a mixture.
var clusters = map[string]func(r *rand.Rand, first, size uint64, s simpleSet){
	"few":              func(r *rand.Rand, first, size uint64, s simpleSet) { scatter(r, first, size, s, 0.001) },
	"one in a hundred": func(r *rand.Rand, first, size uint64, s simpleSet) { scatter(r, first, size, s, 0.01) },
	"one in twenty":    func(r *rand.Rand, first, size uint64, s simpleSet) { scatter(r, first, size, s, 0.05) },
	"half":             func(r *rand.Rand, first, size uint64, s simpleSet) { scatter(r, first, size, s, 0.5) },
	"all but few":      func(r *rand.Rand, first, size uint64, s simpleSet) { scatter(r, first, size, s, 7) },
	"batches": func(r *rand.Rand, first, size uint64, s simpleSet) {
		length := uint64(1) << r.UintN(14)
		for range 1 + r.UintN(20) {
			from := first + r.Uint64N(size-first)
			fillSimple(s, from, min(from+length, size))
		}
	},
	"runs": func(r *rand.Rand, first, size uint64, s simpleSet) {
		for v := first; v < size; v += 1 + r.Uint64N(2000) {
			n := 1 + r.Uint64N(1<<r.UintN(9))
			fillSimple(s, v, min(v+n, size))
			v += n
		}
	},
	"part of a batch": func(r *rand.Rand, first, size uint64, s simpleSet) {
		for range 1 + r.UintN(3) {
			from := first + r.Uint64N(size-first)
			scatter(r, from, min(from+5000, size), s, []float64{0.1, 0.5, 0.9}[r.UintN(3)])
		}
	},
	"every few": func(r *rand.Rand, first, size uint64, s simpleSet) {
		step := 2 + r.Uint64N(9)
		for v := first + r.Uint64N(step); v < size; v += step {
			s[v] = true
		}
	},
	"whole blocks": func(r *rand.Rand, first, size uint64, s simpleSet) {
		simpleBlocks(first, size, func(lo, hi uint64) {
			if r.UintN(2) == 0 {
				fillSimple(s, lo, hi)
			}
		})
	},
	"edges": func(r *rand.Rand, first, size uint64, s simpleSet) {
		simpleBlocks(first, size, func(lo, hi uint64) {
			for _, v := range []uint64{lo, lo + 1, lo + 63, lo + 64, hi - 64, hi - 2, hi - 1} {
				if v >= lo && v < hi && r.UintN(2) == 0 {
					s[v] = true
				}
			}
		})
	},
	"over an edge": func(r *rand.Rand, first, size uint64, s simpleSet) {
		simpleBlocks(first, size, func(lo, _ uint64) {
			fillSimple(s, max(first+r.Uint64N(300), lo)-min(lo-first, r.Uint64N(300)), min(lo+r.Uint64N(300), size))
		})
	},
}

func scatter(r *rand.Rand, first, size uint64, s simpleSet, part float64) {
	if part > 1 { // so many are not in it
		fillSimple(s, first, size)
		for range uint64(part) {
			delete(s, first+r.Uint64N(size-first))
		}
		return
	}
	for v := first; v < size; v++ {
		if r.Float64() < part {
			s[v] = true
		}
	}
}

func fillSimple(s simpleSet, from, to uint64) {
	for v := from; v < to; v++ {
		s[v] = true
	}
}

// eachCluster calls f with sets of all kinds, alone and mixed.
func eachCluster(t *testing.T, f func(name string, r *rand.Rand, first, size uint64, s simpleSet)) {
	var names []string
	for name := range clusters {
		names = append(names, name)
	}
	slices.Sort(names)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		for i, name := range names {
			r := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			first := r.Uint64N(3 * blockSpan)
			size := first + 1 + r.Uint64N(2*blockSpan)
			if round == 0 {
				first, size = 0, 2*blockSpan
			}
			s := simpleSet{}
			clusters[name](r, first, size, s)
			f(name, r, first, size, s)
			other := names[r.IntN(len(names))]
			clusters[other](r, first, size, s)
			f(name+" and "+other, r, first, size, s)
			if t.Failed() {
				return
			}
		}
	}
}

// The two implementations write the same bytes, and each reads the other's.
func TestSecondImplementation(t *testing.T) {
	forms := map[byte]int{}
	eachCluster(t, func(name string, _ *rand.Rand, first, size uint64, s simpleSet) {
		m := newIndexMap(first, size)
		for v := range s {
			m.fill(run{v, 1})
		}
		ours, theirs := m.body(), s.body(first, size)
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%s in [%d, %d): bodies of %d and %d bytes differ", name, first, size, len(ours), len(theirs))
			return
		}
		if read, ok := simpleReadBody(first, size, ours); !ok || !slices.Equal(read.sorted(), s.sorted()) {
			t.Errorf("%s in [%d, %d): the other one does not read ours", name, first, size)
		}
		read, err := decodeIndexMap(first, size, theirs)
		if err != nil || !slices.Equal(slices.Collect(read.all()), s.sorted()) || read.revoked != uint64(len(s)) {
			t.Errorf("%s in [%d, %d): we do not read the other one's: %v", name, first, size, err)
		}
		rest := ours
		for lo, hi := range m.blocks() {
			forms[rest[0]>>5]++
			if _, rest, err = readIndexSet(rest, hi-lo, hi-lo, nil); err != nil {
				t.Error(err)
				return
			}
		}
		// A change is one set over all of it.
		change := simpleSet{}
		for v := range s {
			change[v-first] = true
		}
		if ours, theirs := appendIndexSet(nil, size-first, runsOf(change.sorted()...)), change.encode(size-first); !bytes.Equal(ours, theirs) {
			t.Errorf("%s in [%d, %d): changes of %d and %d bytes differ", name, first, size, len(ours), len(theirs))
		}
	})
	if len(forms) != 5 {
		t.Errorf("block forms seen: %v, want all five", forms)
	}
}

// What one of the two refuses, the other one does not take either.
func TestSecondImplementationRefuses(t *testing.T) {
	taken := 0
	eachCluster(t, func(name string, r *rand.Rand, first, size uint64, s simpleSet) {
		span := min(size-first, 3000)
		cut := simpleSet{}
		for v := range s {
			if v < first+span {
				cut[v-first] = true
			}
		}
		good := cut.encode(span)
		for range 60 {
			b := bytes.Clone(good)
			for range 1 + r.UintN(3) { // mostly where the form, the parameters and the count are
				at := r.IntN(len(b))
				if r.UintN(2) == 0 {
					at = min(at, r.IntN(6))
				}
				b[at] ^= 1 << r.UintN(8)
			}
			if sameVerdict(t, b, span) {
				taken++
			}
		}
		sameVerdict(t, good[:r.IntN(len(good))], span)
		sameVerdict(t, append(good, byte(r.UintN(256))), span)
	})
	if taken == 0 {
		t.Error("none of the changed sets is a set: the test is too coarse")
	}
}

// sameVerdict has both implementations read b and tells whether they take it.
func sameVerdict(t *testing.T, b []byte, span uint64) bool {
	t.Helper()
	ours, ourRest, err := readIndexSet(b, span, span, nil)
	theirs, theirRest, ok := simpleDecode(b, span)
	if ok != (err == nil) {
		t.Fatalf("%x below %d: %v, the other one takes it: %v", b, span, err, ok)
	}
	if ok && (!slices.Equal(positions(ours), theirs.sorted()) || !bytes.Equal(ourRest, theirRest)) {
		t.Fatalf("%x below %d: %v, the other one reads %v", b, span, positions(ours), theirs.sorted())
	}
	return ok
}

package chancery

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// sets are one for each form, and the borders between them.
func sets() map[string]struct {
	span uint64
	set  []uint64
	form byte
} {
	every := func(step, span uint64) (set []uint64) {
		for v := uint64(0); v < span; v += step {
			set = append(set, v)
		}
		return set
	}
	span := func(from, to uint64) (set []uint64) {
		for v := from; v < to; v++ {
			set = append(set, v)
		}
		return set
	}
	type s = struct {
		span uint64
		set  []uint64
		form byte
	}
	return map[string]s{
		"nothing":              {1000, nil, setEmpty},
		"nothing of nothing":   {0, nil, setEmpty},
		"all":                  {1000, span(0, 1000), setFull},
		"the one there is":     {1, []uint64{0}, setFull},
		"first of two":         {2, []uint64{0}, setBitmap},
		"one in a block":       {blockSpan, []uint64{40000}, setGaps},
		"the last of a block":  {blockSpan, []uint64{blockSpan - 1}, setGaps},
		"every hundredth":      {blockSpan, every(100, blockSpan), setGaps},
		"every other":          {blockSpan, every(2, blockSpan), setBitmap},
		"half, at random":      {blockSpan, sample(blockSpan, blockSpan/2, 1), setBitmap},
		"a quarter, at random": {blockSpan, sample(blockSpan, blockSpan/4, 1), setGaps},
		"one long run":         {blockSpan, span(100, 60000), setRuns},
		"two runs":             {blockSpan, append(span(0, 20000), span(30000, 50000)...), setRuns},
		"all but the first":    {blockSpan, span(1, blockSpan), setRuns},
		"all but the last":     {blockSpan, span(0, blockSpan-1), setRuns},
		"wide span, one index": {maxCRLSpan, []uint64{maxCRLSpan - 1}, setGaps},
		"wide span, far apart": {maxCRLSpan, []uint64{0, maxCRLSpan / 2, maxCRLSpan - 1}, setGaps},
		"span that is no byte": {13, []uint64{0, 2, 4, 6, 8, 10, 12}, setBitmap},
	}
}

// sample draws n of span, the same in every run.
func sample(span, n uint64, seed uint64) []uint64 {
	r := rand.New(rand.NewPCG(seed, n))
	chosen := make(map[uint64]bool, n)
	for uint64(len(chosen)) < n {
		chosen[r.Uint64N(span)] = true
	}
	set := make([]uint64, 0, n)
	for v := range chosen {
		set = append(set, v)
	}
	slices.Sort(set)
	return set
}

// runsOf makes a set of ascending positions, positions the other way.
func runsOf(positions ...uint64) (set []run) {
	for _, v := range positions {
		set = appendPosition(set, v)
	}
	return set
}

func positions(set []run) (list []uint64) {
	for _, r := range set {
		for v := r.at; v < r.end(); v++ {
			list = append(list, v)
		}
	}
	return list
}

func TestIndexSetForms(t *testing.T) {
	seen := map[byte]bool{}
	for name, s := range sets() {
		b := appendIndexSet(nil, s.span, runsOf(s.set...))
		seen[b[0]>>5] = true
		if b[0]>>5 != s.form {
			t.Errorf("%s: form %d in %d bytes, want %d", name, b[0]>>5, len(b), s.form)
		}
		got, rest, err := readIndexSet(append(bytes.Clone(b), 0xaa), s.span, s.span, nil)
		if err != nil || !slices.Equal(positions(got), s.set) || !bytes.Equal(rest, []byte{0xaa}) {
			t.Errorf("%s: reads %d indexes and leaves %x, %v", name, countRuns(got), rest, err)
		}
		// The smallest of all five, and among equals the first.
		for form, other := range encodings(s.span, runsOf(s.set...)) {
			if other != nil && (len(other) < len(b) || len(other) == len(b) && byte(form) < s.form) {
				t.Errorf("%s: form %d has %d bytes, the chosen %d has %d", name, form, len(other), s.form, len(b))
			}
			if other == nil || byte(form) == s.form || s.span > 1<<20 {
				continue
			}
			if _, _, err := readIndexSet(other, s.span, s.span, nil); !errors.Is(err, errIndexSet) {
				t.Errorf("%s in form %d: %v, want errIndexSet", name, form, err)
			}
		}
		for i := range b {
			if _, _, err := readIndexSet(b[:i], s.span, s.span, nil); !errors.Is(err, errIndexSet) {
				t.Fatalf("%s: the first %d bytes of %d: %v", name, i, len(b), err)
			}
		}
		if n := uint64(len(s.set)); n > 0 {
			if _, _, err := readIndexSet(b, s.span, n-1, nil); !errors.Is(err, errIndexSet) {
				t.Errorf("%s: more indexes than the limit: %v", name, err)
			}
		}
	}
	if len(seen) != 5 {
		t.Errorf("forms seen: %v", seen)
	}
}

// encodings are the forms that can write the set, by their number; nil where
// one cannot.
func encodings(span uint64, set []run) (all [5][]byte) {
	n := countRuns(set)
	if n == 0 {
		all[setEmpty] = []byte{setEmpty << 5}
	} else {
		all[setGaps] = appendGaps(nil, gapsForm(n, set).k, set)
		all[setRuns] = appendRuns(nil, runsForm(n, set), set)
	}
	if n == span && span > 0 {
		all[setFull] = []byte{setFull << 5}
	}
	if span <= 1<<20 {
		all[setBitmap] = appendBitmap(nil, span, set)
	}
	return all
}

// The parameters, which nobody searches for, take hardly more than the best of
// all 32 do: of scattered sets and of runs that are as irregular.
func TestParameters(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	geometric := func(mean float64) uint64 { return uint64(r.ExpFloat64() * mean) }
	for mean := 4.0; mean < 3000; mean *= 1.17 { // of denser ones bitmaps are not much larger
		var scattered, runs []run
		next := uint64(0)
		for range 10_000 {
			next += 1 + geometric(mean)
			scattered = appendPosition(scattered, next-1)
		}
		next = 0
		for range 10_000 {
			r := run{next + 1 + geometric(mean), 1 + geometric(12_000/mean)}
			runs, next = append(runs, r), r.end()
		}
		for name, test := range map[string]struct {
			size, best int
			limit      float64
		}{
			"gaps": {len(appendGaps(nil, gapsForm(10_000, scattered).k, scattered)), best(func(k uint) []byte { return appendGaps(nil, k, scattered) }), 1.02},
			"runs": {len(appendRuns(nil, runsForm(countRuns(runs), runs), runs)), best(func(k uint) []byte {
				return appendRuns(nil, setForm{setRuns, k, runsForm(countRuns(runs), runs).length}, runs)
			}), 1.05},
			"lengths of runs": {len(appendRuns(nil, runsForm(countRuns(runs), runs), runs)), best(func(k uint) []byte {
				return appendRuns(nil, setForm{setRuns, runsForm(countRuns(runs), runs).k, k}, runs)
			}), 1.05},
		} {
			if ratio := float64(test.size) / float64(test.best); ratio > test.limit {
				t.Errorf("%s, mean distance %.1f: %.4f of the best, want at most %.2f", name, mean, ratio, test.limit)
			}
		}
	}
}

// best returns the fewest bytes that a parameter makes of something.
func best(write func(k uint) []byte) (size int) {
	for k := range uint(maxParameter + 1) {
		if n := len(write(k)); k == 0 || n < size {
			size = n
		}
	}
	return size
}

// A set has one encoding. Whoever applies deltas recomputes the hash of the
// body, so anything else is refused.
func TestIndexSetIsCanonical(t *testing.T) {
	u := binary.AppendUvarint
	for name, test := range map[string]struct {
		span uint64
		b    []byte
	}{
		"nothing":                     {100, nil},
		"form 5":                      {100, []byte{5 << 5}},
		"form 7":                      {100, []byte{7 << 5}},
		"empty with a parameter":      {100, []byte{setEmpty<<5 | 1}},
		"full with a parameter":       {100, []byte{setFull<<5 | 1}},
		"full, of nothing":            {0, []byte{setFull << 5}},
		"bitmap of nothing":           {100, append([]byte{setBitmap << 5}, make([]byte, 13)...)},
		"bitmap that is full":         {8, []byte{setBitmap << 5, 0xff}},
		"bit beyond the end":          {13, []byte{setBitmap << 5, 0x55, 0x35}},
		"gaps, none":                  {100, u([]byte{setGaps << 5}, 0)},
		"gaps, count without entries": {100, u([]byte{setGaps << 5}, 3)},
		"gaps, count above the span":  {4, append(u([]byte{setGaps << 5}, 5), 0, 0)},
		"gaps, huge count":            {100, append(u([]byte{setGaps << 5}, 1<<62), 0)},
		"gaps, count in long form":    {blockSpan, append([]byte{setGaps<<5 | 15, 0x81, 0}, 0x4e, 0x20)},
		"gaps, another parameter":     {blockSpan, appendGaps(nil, 3, runsOf(1000, 2000))},
		"gaps, padding is not zero":   {blockSpan, func() []byte { b := appendIndexSet(nil, blockSpan, runsOf(40000)); b[len(b)-1] |= 1; return b }()},
		"gaps, beyond the span":       {1000, appendGaps(nil, 9, runsOf(1000))},
		"gaps, endless ones":          {1000, append(u([]byte{setGaps << 5}, 1), bytes.Repeat([]byte{0xff}, 200)...)},
		"runs, no parameter":          {1000, []byte{setRuns << 5}},
		"runs, none":                  {100, u([]byte{setRuns << 5, 0}, 0)},
		"runs, huge count":            {100, append(u([]byte{setRuns << 5, 0}, 1<<62), 0)},
		"runs, huge parameter":        {1000, append(u([]byte{setRuns<<5 | 7, 32}, 1), 0x48, 0, 0, 0, 0, 0, 0)},
		"runs, other parameters":      {1000, appendRuns(nil, setForm{setRuns, 5, 9}, []run{{100, 800}})},
		"runs, beyond the span":       {1000, appendRuns(nil, setForm{setRuns, 6, 9}, []run{{100, 901}})},
		"runs, beyond any span":       {1000, appendRuns(nil, setForm{setRuns, 31, 31}, []run{{1 << 40, 1 << 40}})},
		"runs, endless zeros":         {1000, append(u([]byte{setRuns << 5, 0}, 1), make([]byte, 200)...)},
		"runs, cut off":               {1000, u([]byte{setRuns << 5, 0}, 1)},
		"runs, padding is not zero":   {1000, func() []byte { b := appendIndexSet(nil, 1000, []run{{100, 800}}); b[len(b)-1] |= 1; return b }()},
		"runs, as varints":            {1000, []byte{0x60, 1, 0x64, 0x9f, 0x06}},
	} {
		if set, _, err := readIndexSet(test.b, test.span, test.span, nil); !errors.Is(err, errIndexSet) {
			t.Errorf("%s: %d indexes, %v, want errIndexSet", name, countRuns(set), err)
		}
	}
}

// The list is close to the least that any exact list can take: the logarithm
// of the number of ways to choose that many of a million.
func TestBodySizeAgainstEntropy(t *testing.T) {
	const size = 1_000_000
	for _, test := range []struct{ revoked, limit float64 }{{0.001, 1.04}, {0.01, 1.02}, {0.05, 1.02}} {
		n := uint64(test.revoked * size)
		m := newIndexMap(0, size)
		for _, v := range sample(size, n, 42) {
			m.fill(run{v, 1})
		}
		body := m.body()
		entropy := (lgamma(size+1) - lgamma(float64(n)+1) - lgamma(float64(size-n)+1)) / math.Ln2 / 8
		ratio := float64(len(body)) / entropy
		t.Logf("%.1f %% of %d: %d bytes, %.4f of the entropy", 100*test.revoked, size, len(body), ratio)
		if ratio > test.limit {
			t.Errorf("%.1f %%: %d bytes are %.4f of the entropy, want at most %.2f", 100*test.revoked, len(body), ratio, test.limit)
		}
		if got, err := decodeIndexMap(0, size, body); err != nil || !slices.Equal(slices.Collect(got.all()), slices.Collect(m.all())) {
			t.Errorf("%.1f %%: does not read back: %v", 100*test.revoked, err)
		}
	}
}

func lgamma(x float64) float64 { v, _ := math.Lgamma(x); return v }

func TestDecodeIndexMapBounds(t *testing.T) {
	m := newIndexMap(70000, 200000)
	for _, v := range []uint64{70000, 131071, 131072, 199999} {
		m.fill(run{v, 1})
	}
	body := m.body()
	got, err := decodeIndexMap(70000, 200000, body)
	if err != nil || !slices.Equal(slices.Collect(got.all()), []uint64{70000, 131071, 131072, 199999}) || !bytes.Equal(got.body(), body) {
		t.Fatalf("%v", err)
	}
	for name, test := range map[string]struct {
		first, size uint64
		body        []byte
	}{
		"trailing byte":          {70000, 200000, append(bytes.Clone(body), 0)},
		"block is missing":       {70000, 200000, body[:len(body)-4]},
		"one block more":         {70000, 270000, body},
		"other first":            {131072, 200000, body},
		"body of nothing":        {5, 5, []byte{0}},
		"blocks without a byte":  {0, maxCRLSpan, []byte{0, 0, 0}}, // refused before a gigabyte is taken
		"nothing for some block": {0, 1, nil},
	} {
		if _, err := decodeIndexMap(test.first, test.size, test.body); !errors.Is(err, errIndexSet) {
			t.Errorf("%s: %v, want errIndexSet", name, err)
		}
	}
}

// A long list is read into its bitmap and nowhere else.
func TestDecodeIndexMapMemory(t *testing.T) {
	const size = 40_000_000
	m, r := newIndexMap(0, size), rand.New(rand.NewPCG(1, 2))
	for range size / 20 {
		m.bits.Fill(r.Uint64N(size), 1)
	}
	body := m.body()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := decodeIndexMap(0, size, body)
	runtime.ReadMemStats(&after)
	if err != nil || got.revoked != m.bits.Count(0, m.bits.Len()) {
		t.Fatalf("%v", err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > size/8*5/4+1<<20 {
		t.Errorf("%d bytes taken for %d of %d indexes", taken, got.revoked, size)
	}
}

// Counts and spans that a few bytes promise take no memory: the bytes bound it.
func TestIndexSetPromisesTooMuch(t *testing.T) {
	few := []byte{1, 2, 3, 4, 5}
	for name, read := range map[string]func() error{
		"count of gaps": func() error {
			_, _, err := readIndexSet(append(binary.AppendUvarint([]byte{setGaps << 5}, maxDeltaSet), few...), maxCRLSpan, maxDeltaSet, nil)
			return err
		},
		"bitmap of the whole span": func() error {
			_, _, err := readIndexSet(append([]byte{setBitmap << 5}, few...), maxCRLSpan, maxDeltaSet, nil)
			return err
		},
		"full": func() error {
			_, _, err := readIndexSet([]byte{setFull << 5}, maxCRLSpan, maxDeltaSet, nil)
			return err
		},
		"blocks of a map": func() error {
			_, err := decodeIndexMap(0, maxCRLSpan, few)
			return err
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read()
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 1<<20 || !errors.Is(err, errIndexSet) {
			t.Errorf("%s: %d bytes taken, %v", name, taken, err)
		}
	}
}

// all yields the revoked indexes in ascending order.
func (m *indexMap) all() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		var set []run
		var buf []uint64
		for lo, hi := range m.blocks() {
			set, buf = m.runs(set[:0], buf, lo, hi)
			for _, r := range set {
				for v := r.at; v < r.end(); v++ {
					if !yield(v) {
						return
					}
				}
			}
		}
	}
}

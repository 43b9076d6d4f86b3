package chancery

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A modelLog is one log as a child would keep it: a set of numbers.
type modelLog struct {
	first, size uint64
	revoked     map[uint64]bool
}

// A crlModel runs the coordinator's lists and the nodes' deltas against sets.
type crlModel struct {
	pointer *Pointer
	ca      softKey
	logs    map[logRef]*modelLog
	lists   []*CRL                // every list that was published
	states  []map[logRef]modelLog // the model when it was
	held    []*CRL                // every list that a node had which took each delta
	now     time.Time
}

func (m *crlModel) refs() []logRef {
	return slices.SortedFunc(maps.Keys(m.logs), func(a, b logRef) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
}

func (m *crlModel) publish(t *rapid.T) {
	var sets []RevokedSet
	state := map[logRef]modelLog{}
	for _, ref := range m.refs() {
		l := m.logs[ref]
		sets = append(sets, RevokedSet{ref.ca, ref.log, l.first, l.size, slices.Sorted(maps.Keys(l.revoked))})
		state[ref] = modelLog{l.first, l.size, maps.Clone(l.revoked)}
	}
	var previous *CRL
	if len(m.lists) > 0 {
		previous = m.lists[len(m.lists)-1]
	}
	m.now = m.now.Add(time.Minute)
	c, err := NextCRL(previous, sets, m.now, m.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c.Sign(m.ca.must(m.pointer.FleetID(), c.Head()))
	m.lists, m.states = append(m.lists, c), append(m.states, state)
}

// check holds a list that a node has against the model at that number.
func (m *crlModel) check(t *rapid.T, c *CRL) {
	state := m.states[c.head.Number-1]
	if len(c.head.Logs) != len(state) {
		t.Fatalf("%d logs, want %d", len(c.head.Logs), len(state))
	}
	for ref, l := range state {
		got := slices.Collect(c.log(ref.ca, ref.log).all())
		if want := slices.Sorted(maps.Keys(l.revoked)); !slices.Equal(got, want) {
			t.Fatalf("%v: %d revoked, want %d", ref, len(got), len(want))
		}
		ask := []uint64{0, l.first, l.first - 1, l.size, l.size - 1, l.first + (l.size-l.first)/2}
		for v := range l.revoked {
			if ask = append(ask, v-1, v, v+1); len(ask) > 60 {
				break
			}
		}
		for _, v := range ask {
			if v >= maxLogSize {
				continue // below 0
			}
			var want error
			switch {
			case v < l.first:
				want = ErrBelowFirst
			case v >= l.size:
				want = ErrNewerThanCRL
			case l.revoked[v]:
				want = ErrRevoked
			}
			if err := c.Check(ref.ca, serial(ref.log, v), epoch.AddDate(-1, 0, 0), m.now); !errors.Is(err, want) {
				t.Fatalf("%v, index %d of [%d, %d): %v, want %v", ref, v, l.first, l.size, err, want)
			}
		}
	}
}

// Lists, deltas of one step and of several, and lookups do what sets do,
// whatever is revoked, expires and is appended in whichever order.
func TestCRLAgainstModel(t *testing.T) {
	w := newWorld(t)
	forms := map[byte]bool{}
	rapid.Check(t, func(t *rapid.T) {
		m := &crlModel{pointer: w.pointer(), ca: w.ca(), logs: map[logRef]*modelLog{}, now: epoch}
		m.logs[logRef{caID("32473.1.1"), 1}] = &modelLog{revoked: map[uint64]bool{}}
		ended := map[logRef]bool{} // a log number is never used again
		m.publish(t)
		pick := func(t *rapid.T) *modelLog { return m.logs[rapid.SampledFrom(m.refs()).Draw(t, "log")] }
		revoke := func(l *modelLog, from, n uint64) {
			for v := max(from, l.first); v < min(from+n, l.size); v++ {
				l.revoked[v] = true
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append few":  func(t *rapid.T) { pick(t).size += rapid.Uint64Range(1, 50).Draw(t, "n") },
			"append many": func(t *rapid.T) { pick(t).size += rapid.Uint64Range(1, 2*blockSpan).Draw(t, "n") },
			"revoke some": func(t *rapid.T) {
				l := pick(t)
				if l.size == 0 {
					t.Skip("empty log")
				}
				for _, v := range rapid.SliceOfN(rapid.Uint64Range(0, l.size-1), 1, 40).Draw(t, "indexes") {
					revoke(l, v, 1)
				}
			},
			"revoke a cluster": func(t *rapid.T) {
				l := pick(t)
				revoke(l, rapid.Uint64Range(0, l.size).Draw(t, "from"), rapid.Uint64Range(1, 3000).Draw(t, "n"))
			},
			"revoke every few": func(t *rapid.T) {
				l, step := pick(t), rapid.Uint64Range(2, 9).Draw(t, "step")
				for v := l.first; v < min(l.first+8000, l.size); v += step {
					l.revoked[v] = true
				}
			},
			"revoke a whole block": func(t *rapid.T) {
				l := pick(t)
				if l.size>>blockBits > l.first>>blockBits+3 {
					t.Skip("enough of them")
				}
				revoke(l, l.first&^(blockSpan-1), blockSpan)
			},
			"expire": func(t *rapid.T) {
				l := pick(t)
				l.first = rapid.Uint64Range(l.first, l.size).Draw(t, "first")
				maps.DeleteFunc(l.revoked, func(v uint64, _ bool) bool { return v < l.first })
			},
			"new log": func(t *rapid.T) {
				ref := logRef{caID("32473.1." + rapid.SampledFrom([]string{"1", "2", "300"}).Draw(t, "ca")), rapid.Uint16Range(1, 3).Draw(t, "log")}
				if m.logs[ref] == nil && !ended[ref] {
					m.logs[ref] = &modelLog{revoked: map[uint64]bool{}}
				}
			},
			"log ends": func(t *rapid.T) {
				ref := rapid.SampledFrom(m.refs()).Draw(t, "log")
				if len(m.logs) == 1 || m.logs[ref].first < m.logs[ref].size {
					t.Skip("in use")
				}
				delete(m.logs, ref)
				ended[ref] = true
			},
			"publish": func(t *rapid.T) { // and a node catches up, from wherever it was
				m.publish(t)
				last := m.lists[len(m.lists)-1]
				full, err := OpenCRL(m.pointer, nil, last.Marshal(), m.now)
				if err != nil {
					t.Fatal(err)
				}
				m.check(t, full)
				from := m.lists[rapid.IntRange(0, len(m.lists)-1).Draw(t, "held")]
				delta, err := last.Delta(from)
				if err != nil {
					t.Fatal(err)
				}
				got, err := from.Apply(m.pointer, delta, m.now)
				if err != nil {
					t.Fatalf("%d to %d: %v", from.head.Number, last.head.Number, err)
				}
				m.check(t, got)
				if !bytes.Equal(got.Marshal(), full.Marshal()) {
					t.Fatal("the delta leads to other bytes than the full list")
				}
				m.canonical(t, full, forms)
				m.follow(t, full)
			},
		})
	})
	if len(forms) != 5 {
		t.Errorf("block forms seen: %v, want all five", forms)
	}
}

// follow has a node take the newest list by a delta, and checks that none of
// those it had before has changed.
func (m *crlModel) follow(t *rapid.T, newest *CRL) {
	if len(m.held) == 0 {
		m.held = append(m.held, newest)
		return
	}
	before := m.held[len(m.held)-1]
	delta, err := m.lists[len(m.lists)-1].Delta(m.lists[before.head.Number-1])
	if err != nil {
		t.Fatal(err)
	}
	next, err := before.Apply(m.pointer, delta, m.now)
	if err != nil {
		t.Fatal(err)
	}
	m.held = append(m.held, next)
	for _, c := range m.held[max(0, len(m.held)-3):] {
		m.check(t, c)
		if !bytes.Equal(c.Marshal(), m.lists[c.head.Number-1].Marshal()) {
			t.Fatalf("list %d is another one since list %d", c.head.Number, next.head.Number)
		}
	}
	from := m.held[rapid.IntRange(0, len(m.held)-1).Draw(t, "from")]
	want, err := m.lists[len(m.lists)-1].Delta(m.lists[from.head.Number-1])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := next.Delta(from); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("delta from %d to %d differs from the coordinator's: %v", from.head.Number, next.head.Number, err)
	}
}

// canonical checks that the same sets, however they came about, have the same
// bytes, and notes the forms of the blocks.
func (m *crlModel) canonical(t *rapid.T, c *CRL, forms map[byte]bool) {
	for ref, l := range m.states[c.head.Number-1] {
		fresh := newIndexMap(l.first, l.size)
		for v := range l.revoked {
			fresh.fill(run{v, 1})
		}
		body := fresh.body()
		if !bytes.Equal(body, c.log(ref.ca, ref.log).body()) {
			t.Fatal("equal sets, different bodies")
		}
		if _, err := decodeIndexMap(l.first, l.size, append(body[:len(body):len(body)], 0)); err == nil {
			t.Fatal("a body with a trailing byte is accepted")
		}
		for lo, hi := range fresh.blocks() {
			forms[body[0]>>5] = true
			var err error
			if _, body, err = readIndexSet(body, hi-lo, hi-lo, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

package chancery

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A listMaker makes signed lists of one log, and what leads to them.
type listMaker struct {
	*world
	lists   []*CRL
	deltas  [][]byte // deltas[i] leads to lists[i]
	revoked map[uint64]bool
}

func (m *listMaker) next(first, size uint64, added ...uint64) *CRL {
	m.t.Helper()
	if m.revoked == nil {
		m.revoked = map[uint64]bool{}
	}
	for _, v := range added {
		m.revoked[v] = true
	}
	var indexes []uint64
	for v := range m.revoked {
		if v >= first {
			indexes = append(indexes, v)
		}
	}
	slices.Sort(indexes)
	var previous *CRL
	if len(m.lists) > 0 {
		previous = m.lists[len(m.lists)-1]
	}
	l := m.currentLog()
	c, err := NextCRL(previous, []RevokedSet{{l.ca, l.log, first, size, indexes}}, m.now, m.now.Add(time.Hour))
	if err != nil {
		m.t.Fatal(err)
	}
	c.Sign(m.ca().must(m.fleet(), c.Head()))
	var delta []byte
	if previous != nil {
		if delta, err = c.Delta(previous); err != nil {
			m.t.Fatal(err)
		}
	}
	m.lists, m.deltas = append(m.lists, c), append(m.deltas, delta)
	return c
}

// open is the list as a node has it that fetched it.
func (m *listMaker) open(c *CRL) *CRL {
	m.t.Helper()
	got, err := OpenCRL(m.pointer(), nil, c.Marshal(), m.now)
	if err != nil {
		m.t.Fatal(err)
	}
	return got
}

// TestSharedBits follows lists in place: which ones share memory, and that
// none changes by it.
func TestSharedBits(t *testing.T) {
	m := &listMaker{world: newWorld(t)}
	const size = 3 * blockSpan
	m.next(0, size, 5, 70_000)
	m.next(0, size, 6, 7, 8, 140_000)
	m.next(0, size)               // a heartbeat
	m.next(6, size+500, size+100) // 5 expires
	m.next(6, size+500, 69_999, 70_001, 9)
	m.next(2*blockSpan, size+501)                    // most of it expires
	m.next(2*blockSpan, size+3*blockSpan, size+2000) // more than there is room for
	shares := []bool{false, true, true, true, true, false, false}
	for _, side := range []string{"coordinator", "node"} {
		lists := m.lists
		if side == "node" {
			lists = []*CRL{m.open(m.lists[0])}
			for i, delta := range m.deltas[1:] {
				c, err := lists[i].Apply(m.pointer(), delta, m.now)
				if err != nil {
					t.Fatalf("list %d: %v", i+2, err)
				}
				lists = append(lists, c)
			}
		}
		for i, c := range lists {
			if shared := i > 0 && c.logs[0].sharedBits == lists[i-1].logs[0].sharedBits; shared != shares[i] {
				t.Errorf("%s's list %d shares its bits with the one before: %v", side, i+1, shared)
			}
			if body := c.logs[0].body(); sha256.Sum256(body) != c.head.Logs[0].Body {
				t.Errorf("%s's list %d is another one than it was", side, i+1)
			}
			for _, from := range lists[:i] {
				delta, err := c.Delta(from)
				if err != nil {
					t.Fatal(err)
				}
				// From a copy of one's own, by the hashes of the bodies.
				got, err := m.open(from).Apply(m.pointer(), delta, m.now)
				if err != nil || !bytes.Equal(got.Marshal(), c.Marshal()) {
					t.Errorf("%s: delta from %d to %d: %v", side, from.head.Number, c.head.Number, err)
				}
			}
		}
	}
}

// Two lists may be made from one: only one of them has its memory.
func TestSharedBitsFork(t *testing.T) {
	m := &listMaker{world: newWorld(t)}
	base := m.open(m.next(0, 1000, 1))
	m.next(0, 1000, 2)
	delta := m.deltas[1]
	var lists []*CRL
	var group sync.WaitGroup
	var mu sync.Mutex
	for range 8 { // at the same time
		group.Go(func() {
			c, err := base.Apply(m.pointer(), delta, m.now)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			lists = append(lists, c)
		})
	}
	group.Wait()
	shared := 0
	for _, c := range lists {
		if c.logs[0].sharedBits == base.logs[0].sharedBits {
			shared++
		}
		if !bytes.Equal(c.Marshal(), m.lists[1].Marshal()) {
			t.Error("another list than the coordinator's")
		}
	}
	if shared != 1 {
		t.Errorf("%d lists share their memory with the one that they were made from, want 1", shared)
	}
	if !bytes.Equal(base.Marshal(), m.lists[0].Marshal()) {
		t.Error("the list that they were made from has changed")
	}
}

// What does not prove itself leaves no trace: no bit is set, and the list is
// still the newest one, which the next delta can be applied to in place.
func TestSharedBitsAfterRefusal(t *testing.T) {
	m := &listMaker{world: newWorld(t)}
	m.next(0, 1000, 1)
	m.next(0, 1000, 2)
	m.next(0, 1000, 3)
	held := m.open(m.lists[0])
	write := func(head *CRLHead, added ...uint64) []byte {
		e := artefact(kindDelta)
		e.AddUint64(1)
		head.encode(e)
		e.vec32(appendIndexSet(nil, 1000, runsOf(added...)))
		return e.BytesOrPanic()
	}
	lie := func(revoked uint64, added ...uint64) []byte { // that the CA signed
		return write(m.resign(m.lists[1], func(h *CRLHead) {
			h.Logs[0].Revoked = revoked
			h.Change = sha256.Sum256(appendIndexSet(nil, 1000, runsOf(added...)))
		}).head, added...)
	}
	for name, b := range map[string][]byte{
		"one step, other bytes than the head names": write(m.lists[1].head, 900),
		"two steps, another index":                  write(m.lists[2].head, 2, 900),
		"revoked already":                           lie(2, 1),
		"count is a lie":                            lie(4, 900),
	} {
		if _, err := held.Apply(m.pointer(), b, m.now); !errors.Is(err, ErrCRLBody) {
			t.Errorf("%s: %v", name, err)
		}
		if held.logs[0].bits.Has(900) {
			t.Fatalf("%s: it is marked all the same", name)
		}
	}
	next, err := held.Apply(m.pointer(), m.deltas[1], m.now)
	if err != nil || next.logs[0].sharedBits != held.logs[0].sharedBits {
		t.Errorf("not in place after what was refused: %v", err)
	}
}

// While lists follow one another in place, readers that ask what the verifier
// holds never see a revoked certificate become good again, and readers that
// keep a list see what it says and nothing else.
func TestReadWhileApplying(t *testing.T) {
	for name, size := range map[string]uint64{"few": 4 * blockSpan, "many": 40_000_000} { // on the heap, and with huge pages
		t.Run(name, func(t *testing.T) {
			m := &listMaker{world: newWorld(t)}
			r := rand.New(rand.NewPCG(1, 2))
			const watched = 2000 // indexes that readers ask for, close together: they share words
			order := r.Perm(watched)
			m.next(0, size, 10)
			steps := 40
			for i := range steps {
				var added []uint64
				for _, v := range order[i*watched/steps : (i+1)*watched/steps] {
					added = append(added, blockSpan-watched/2+uint64(v))
				}
				m.next(uint64(i/20), size+uint64(i)*10, added...)
			}
			v := NewVerifier(Trust{Pointer: m.pointer(), CRL: m.open(m.lists[0])})
			ca := m.currentLog().ca
			done := make(chan struct{})
			var readers sync.WaitGroup
			reader := func(read func() bool) {
				readers.Go(func() {
					for {
						select {
						case <-done:
							read() // once more, of the last one
							return
						default:
						}
						if !read() {
							return
						}
					}
				})
			}
			for range 2 {
				seen, number := map[uint64]bool{}, uint64(0)
				reader(func() bool {
					for i := range uint64(watched) {
						index := blockSpan - watched/2 + i
						c := v.Trust().CRL
						err := c.Check(ca, serial(1, index), epoch, m.now)
						if revoked := errors.Is(err, ErrRevoked); seen[index] && !revoked {
							t.Errorf("index %d was revoked and is %v in list %d", index, err, c.head.Number)
							return false
						} else if revoked {
							seen[index] = true
						}
						if c.head.Number < number {
							t.Errorf("list %d after %d", c.head.Number, number)
							return false
						}
						number = c.head.Number
					}
					return true
				})
			}
			var kept []*CRL
			reader(func() bool { // of a list that is being left behind
				c := v.Trust().CRL
				kept = append(kept, c)
				for i := range uint64(watched) {
					index := blockSpan - watched/2 + i
					want := m.lists[c.head.Number-1].log(ca, 1).has(index)
					if got := c.log(ca, 1).has(index); got != want {
						t.Errorf("index %d is revoked in list %d: %v, want %v", index, c.head.Number, got, want)
						return false
					}
				}
				return true
			})
			for _, delta := range m.deltas[1:] {
				if _, err := v.UpdateCRL(delta, m.now); err != nil {
					t.Error(err)
					break
				}
				time.Sleep(time.Millisecond)
			}
			close(done)
			readers.Wait()
			last := v.Trust().CRL
			kept = append(kept, last)
			for _, c := range slices.Compact(kept) {
				if sha256.Sum256(c.logs[0].body()) != c.head.Logs[0].Body {
					t.Errorf("list %d is another one than it was", c.head.Number)
				}
			}
			if last.head.Number != uint64(steps+1) || last.Revoked() != m.lists[steps].Revoked() {
				t.Errorf("list %d with %d revoked", last.head.Number, last.Revoked())
			}
			if last.logs[0].sharedBits != kept[0].logs[0].sharedBits {
				t.Error("the lists were not applied in place: the test shows nothing")
			}
		})
	}
}

// A map says no more than it did while others are made from it, not even for
// a moment: what is added is known as another's before its bits are set.
func TestAdditionIsKnownBeforeItsBits(t *testing.T) {
	const rounds, size = 30, 20_000
	var current atomic.Pointer[indexMap]
	current.Store(newIndexMap(0, rounds*size))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, read := range []func(m *indexMap) uint64{
		func(m *indexMap) (n uint64) {
			for v := range uint64(rounds * size) {
				if m.has(v) {
					n++
				}
			}
			return n
		},
		func(m *indexMap) uint64 {
			set, _ := m.runs(nil, nil, 0, m.size)
			return countRuns(set)
		},
	} {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				m := current.Load()
				if n := read(m); n != m.revoked {
					t.Errorf("%d are revoked of %d", n, m.revoked)
					return
				}
			}
		})
	}
	for i := range uint64(rounds) {
		var added []run
		for v := i; v < rounds*size; v += rounds {
			added = append(added, run{v, 1})
		}
		m := current.Load()
		next, err := m.extended(0, m.size, added, m.revoked+size)
		if err != nil {
			t.Fatal(err)
		}
		current.Store(next)
	}
	close(done)
	readers.Wait()
	if m := current.Load(); m.revoked != m.size {
		t.Errorf("%d of %d", m.revoked, m.size)
	}
}

package bitmap

import (
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

// sizes are those of a map on Go's heap and of one that is not.
var sizes = map[string]uint64{"few": 100_000, "many": 8 * 5 << 20}

// A map does what single bits do.
func TestMap(t *testing.T) {
	for name, size := range sizes {
		m, want := New(size), make([]uint64, (size+63)/64)
		if m.Len() < size {
			t.Fatalf("%s: room for %d, want %d", name, m.Len(), size)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 400 {
			at := r.Uint64N(size)
			n := min(r.Uint64N(300), size-at)
			if i%2 == 0 {
				m.Set(at, n)
			} else {
				m.Fill(at, n)
			}
			for j := at; j < at+n; j++ {
				want[j/64] |= 1 << (j % 64)
			}
		}
		m.Set(size-1, 1)
		m.FillWord(0, 1<<5)
		want[(size-1)/64] |= 1 << ((size - 1) % 64)
		want[0] |= 1 << 5
		count := uint64(0)
		for i, w := range want {
			if m.Word(uint64(i)) != w {
				t.Fatalf("%s: word %d is %x, want %x", name, i, m.Word(uint64(i)), w)
			}
			count += uint64(bits.OnesCount64(w))
		}
		m.Prefetch(0)
		m.Prefetch(size - 1) // neither moves anything
		for range 1000 {
			if i := r.Uint64N(size); m.Has(i) != (want[i/64]>>(i%64)&1 != 0) {
				t.Fatalf("%s: bit %d is %v", name, i, m.Has(i))
			}
		}
		if got := m.Count(0, size); got != count {
			t.Errorf("%s: %d bits are set, want %d", name, got, count)
		}
		if got := m.Count(5, 1) + m.Count(size-1, 1) + m.Count(size-1, 0); got != 2 {
			t.Errorf("%s: %d of two single bits", name, got)
		}
	}
}

// A bit that was seen is there for good, also while its neighbours are set.
func TestSetWhileReading(t *testing.T) {
	for name, size := range sizes {
		m, stop := New(size), make(chan struct{})
		var readers, writers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				seen := map[uint64]bool{}
				for {
					select {
					case <-stop:
						return
					default:
					}
					for i := range uint64(256) {
						if m.Has(i) {
							seen[i] = true
						} else if seen[i] {
							t.Errorf("%s: bit %d was set and is not", name, i)
							return
						}
					}
				}
			})
		}
		for w := range uint64(4) { // of each word, every writer sets some
			writers.Go(func() {
				for i := w; i < 256; i += 4 {
					m.Set(i, 1)
					runtime.Gosched()
				}
			})
		}
		writers.Wait()
		close(stop)
		readers.Wait()
		if got := m.Count(0, 256); got != 256 {
			t.Errorf("%s: %d of 256 bits are set", name, got)
		}
	}
}

// Memory outside of Go's heap goes back when the map is gone, and not before.
func TestRelease(t *testing.T) {
	words, release := allocate(hugeWords)
	if release == nil {
		t.Skip("all memory is of Go's heap on this system")
	}
	words[0], words[len(words)-1] = 1, 1
	release()

	m := New(64 * hugeWords)
	released := make(chan struct{})
	runtime.AddCleanup(m, func(struct{}) { close(released) }, struct{}{})
	for range 3 {
		runtime.GC()
		m.Set(3, 1)
	}
	select {
	case <-released:
		t.Fatal("a map that is in use was released")
	default:
	}
	runtime.KeepAlive(m)
	m = nil
	for deadline := time.Now().Add(10 * time.Second); ; {
		runtime.GC()
		select {
		case <-released:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("a map that nobody holds is kept")
		}
	}
}

const hugeWords = 5 << 20 / 8

package merkle

import (
	"math/rand/v2"
	"testing"
)

func TestSubtreeValid(t *testing.T) {
	// By the definition, with a loop instead of bits.
	byDefinition := func(s Subtree) bool {
		ceil := uint64(1)
		for ceil < s.End-s.Start {
			ceil *= 2
		}
		return s.Start%ceil == 0
	}
	for end := range uint64(100) {
		for start := range end + 1 {
			s := Subtree{start, end}
			if s.Valid() != byDefinition(s) {
				t.Errorf("%v.Valid() = %v", s, s.Valid())
			}
		}
	}
	for _, c := range []struct {
		s    Subtree
		want bool
	}{
		{Subtree{5, 4}, false},
		{Subtree{1<<64 - 1, 0}, false},
		{Subtree{0, 1<<64 - 1}, true},
		{Subtree{0, 1<<63 + 1}, true},
		{Subtree{1 << 62, 1<<63 + 1<<62 + 1}, false},
		{Subtree{1, 1<<63 + 2}, false},
		{Subtree{1 << 63, 1<<64 - 1}, true},
		{Subtree{1<<64 - 1, 1<<64 - 1}, true},
		{Subtree{1<<64 - 2, 1<<64 - 1}, true},
		{Subtree{1<<64 - 3, 1<<64 - 1}, false},
	} {
		if got := c.s.Valid(); got != c.want {
			t.Errorf("%v.Valid() = %v, want %v", c.s, got, c.want)
		}
	}
}

func TestSmallest(t *testing.T) {
	for end := range uint64(130) {
		for start := range end + 1 {
			got := Smallest(start, end)
			want := Subtree{start, end} // found by trying
			for !want.Valid() {
				want.Start--
			}
			if got != want {
				t.Errorf("Smallest(%d, %d) = %v, want %v", start, end, got, want)
			}
		}
	}
}

// The properties that the draft states for the two subtrees, and those of
// the one, up to the ends of the numbers.
func TestCoverProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		end := random.Uint64() >> random.IntN(64)
		start := end - min(end, random.Uint64()>>random.IntN(64))
		left, right := Cover(start, end)
		one := Smallest(start, end)
		switch {
		case !left.Valid() || !right.Valid() || !one.Valid():
			t.Fatalf("[%d, %d): %v, %v and %v are not all valid", start, end, left, right, one)
		case left.End != right.Start || right.End != end || left.Start > start:
			t.Fatalf("[%d, %d): %v and %v do not cover it", start, end, left, right)
		case start != end && start-left.Start >= left.End-start:
			t.Fatalf("[%d, %d): more extra than wanted entries in %v", start, end, left)
		case one.Start > start || one.End != end:
			t.Fatalf("[%d, %d): %v does not contain it", start, end, one)
		}
	}
}

func TestReversedIntervalPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"Cover":    func() { Cover(5, 4) },
		"Smallest": func() { Smallest(5, 4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s(5, 4) does not panic", name)
				}
			}()
			f()
		}()
	}
}

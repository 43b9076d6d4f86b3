package tlog

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

func TestPath(t *testing.T) {
	for path, want := range map[string]Tile{
		"tile/0/x001/x234/067":       {0, 1234067, 256}, // the example of tlog-tiles
		"tile/0/000":                 {0, 0, 256},
		"tile/0/000.p/1":             {0, 0, 1},
		"tile/0/273.p/112":           {0, 273, 112},
		"tile/1/001.p/17":            {1, 1, 17},
		"tile/2/000.p/1":             {2, 0, 1},
		"tile/63/999.p/255":          {63, 999, 255},
		"tile/7/x001/000":            {7, 1000, 256},
		"tile/entries/x999/999.p/9":  {Entries, 999999, 9},
		"tile/entries/x001/x000/000": {Entries, 1000000, 256},
		"tile/0/x018/x446/x744/x073/x709/x551/615.p/255": {0, math.MaxUint64, 255},
	} {
		if got, err := ParsePath(path); err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", path, got, err, want)
		}
		if bundle, err := ParsePath(want.Bundle().Path()); err != nil || bundle != (Tile{Entries, want.Index, want.Width}) {
			t.Errorf("the bundle of %s is %s, %v", path, bundle, err)
		}
		if got := want.Path(); got != path {
			t.Errorf("%+v is at %s, want %s", want, got, path)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/1000",
		"/tile/0/000", "tile/0/000/", "tile//000", "tiles/0/000", "tile/0/ 00", "tile/0/+00", "tile/0/-01",
		"tile/00/000", "tile/01/000", "tile/64/000", "tile/-1/000", "tile/+1/000", "tile/x/000", "tile/Entries/000",
		"tile/0/x000/000", "tile/0/x000/001", "tile/0/x001", "tile/0/x001/x000", "tile/0/001/000", "tile/0/x1/000", "tile/0/x001/00", "tile/0/x001x000", "tile/0/X001/000",
		"tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0", "tile/0/000.p/00", "tile/0/000.p/01", "tile/0/000.p/256", "tile/0/000.p/+1", "tile/0/000.p/1/", "tile/0/000.p/1.p/1", "tile/0/x000.p/1",
		"tile/0/x018/x446/x744/x073/x709/x551/616", "tile/0/x999/x999/x999/x999/x999/x999/x999/999", "tile/0/../000", "tile/0/000?",
	} {
		if got, err := ParsePath(path); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is %+v, %v, want ErrMalformed", path, got, err)
		}
	}
}

// The examples of tlog-tiles, "Partial Tiles".
func TestTilesOfSpecification(t *testing.T) {
	count := func(size uint64) map[string]int {
		n := map[string]int{}
		for tile := range TilesSince(0, size) {
			switch {
			case !tile.Full():
				n[tile.Path()]++
			case tile.Level == Entries:
				n["full bundles"]++
			default:
				n[[]string{"full 0", "full 1", "full 2"}[tile.Level]]++
			}
		}
		return n
	}
	equal := func(size uint64, want map[string]int) {
		t.Helper()
		got := count(size)
		for k, n := range want {
			if got[k] != n {
				t.Errorf("%d entries: %d of %s, want %d", size, got[k], k, n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d entries: %v, want %v", size, got, want)
		}
	}
	equal(0, map[string]int{})
	equal(256, map[string]int{"full bundles": 1, "full 0": 1, "tile/1/000.p/1": 1})
	equal(70000, map[string]int{
		"full bundles": 273, "tile/entries/273.p/112": 1,
		"full 0": 273, "tile/0/273.p/112": 1,
		"full 1": 1, "tile/1/001.p/17": 1,
		"tile/2/000.p/1": 1,
	})
}

// anySize draws a size, often one at which a tile ends.
func anySize(t *rapid.T, label string, limit uint64) uint64 {
	near := rapid.SampledFrom([]uint64{0, 1, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537}).Draw(t, label+" near")
	return min(limit, rapid.OneOf(rapid.Just(near), rapid.Uint64Range(0, 2000), rapid.Uint64Range(0, limit)).Draw(t, label))
}

func TestTileAt(t *testing.T) {
	for _, level := range []int{-2, 64} {
		if tile, ok := TileAt(MaxSize, level, 0); ok {
			t.Errorf("there is a tile %+v", tile)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		size := anySize(t, "size", MaxSize)
		for level := range maxLevel + 1 {
			// The width of the specification: floor(s / 256^l) mod 256.
			hashes := size
			for range level {
				hashes /= 256
			}
			full := hashes / 256
			if tile, ok := TileAt(size, level, full); ok != (hashes%256 > 0) || ok && tile.Width != int(hashes%256) {
				t.Fatalf("%d entries have %+v, %t on level %d", size, tile, ok, level)
			}
			if _, ok := TileAt(size, level, full+1); ok {
				t.Fatalf("%d entries have tile %d on level %d", size, full+1, level)
			}
			if full > 0 {
				index := rapid.Uint64Range(0, full-1).Draw(t, "index")
				if tile, ok := TileAt(size, level, index); !ok || !tile.Full() || tile.Level != level || tile.Index != index {
					t.Fatalf("%d entries have %+v, %t", size, tile, ok)
				}
			}
		}
	})
}

// What the growths add is what the tree has, each tile once.
func TestTilesSince(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := []uint64{0}
		for range rapid.IntRange(1, 5).Draw(t, "growths") {
			sizes = append(sizes, anySize(t, "size", 70000))
		}
		slices.Sort(sizes)
		have := map[Tile]bool{}
		for i, size := range sizes[1:] {
			for tile := range TilesSince(sizes[i], size) {
				if have[tile] {
					t.Fatalf("%s is new at %d and was there at %d", tile, size, sizes[i])
				}
				have[tile] = true
			}
			for tile := range TilesSince(0, size) {
				if !have[tile] {
					t.Fatalf("%s is in the tree of %d and was not new", tile, size)
				}
			}
			for range TilesSince(size, sizes[i]) {
				t.Fatal("a tree that shrinks has new tiles")
			}
		}
		for range TilesSince(0, sizes[len(sizes)-1]) {
			break // an iterator may be left
		}
	})
}

// A name stands for the same bytes at all sizes, a wider tile begins with the
// narrower one, and a tile is what its lower tiles make.
func TestImmutable(t *testing.T) {
	w := newWorld("a", 70000)
	store := map[Tile][]byte{}
	var before uint64
	for _, size := range []uint64{1, 2, 200, 256, 257, 600, 65536, 65600, 70000} {
		for tile := range TilesSince(before, size) {
			b, err := w.tile(tile)
			must(t, err)
			store[tile] = b
		}
		before = size
	}
	for tile, b := range store {
		widest, _ := TileAt(w.tree.Size(), tile.Level, tile.Index)
		wide, err := w.tile(widest)
		must(t, err)
		if !bytes.HasPrefix(wide, b) {
			t.Errorf("%s does not begin with %s", widest, tile)
		}
		if tile.Level < 1 {
			continue
		}
		raised, err := Raise(tile, func(t Tile) ([]byte, error) { return store[t], nil })
		if err != nil || !bytes.Equal(raised, b) {
			t.Errorf("%s is not what the tiles under it make: %v", tile, err)
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	w := newWorld("a", 300)
	for _, tile := range []Tile{{Entries, 0, 1}, {0, 1, 256}, {1, 0, 2}, {1, 1, 1}, {8, 0, 1}, {63, 0, 1}, {0, math.MaxUint64, 1}, {0, 1 << 56, 1}, {0, MaxSize / 256, 256}} {
		if b, err := Make(tile, &w.tree); !errors.Is(err, merkle.ErrRange) {
			t.Errorf("%s has %d bytes, %v", tile, len(b), err)
		}
	}
	if _, err := Raise(Tile{0, 0, 1}, nil); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("level 0 was raised: %v", err)
	}
	short := func(Tile) ([]byte, error) { return make([]byte, 255*hashSize), nil }
	if _, err := Raise(Tile{1, 0, 1}, short); !isTileError(err, Tile{0, 0, 256}) {
		t.Errorf("a partial tile was raised: %v", err)
	}
	no := errors.New("no")
	if _, err := Raise(Tile{1, 0, 1}, func(Tile) ([]byte, error) { return nil, no }); !errors.Is(err, no) {
		t.Error(err)
	}
}

func isTileError(err error, tile Tile) bool {
	e, ok := errors.AsType[*TileError](err)
	return ok && e.Tile == tile && e.Hint() != "" && e.Error() != ""
}

func TestBundle(t *testing.T) {
	large := bytes.Repeat([]byte("x"), MaxEntrySize)
	in := [][]byte{{}, []byte("a"), large, {0, 0}}
	var b []byte
	for _, e := range in {
		var err error
		b, err = AppendEntry(b, e)
		must(t, err)
	}
	out, err := ParseBundle(b, len(in))
	if err != nil || !slices.EqualFunc(in, out, bytes.Equal) {
		t.Errorf("%d entries come back as %d, %v", len(in), len(out), err)
	}
	if _, err := AppendEntry(nil, append(large, 'x')); !errors.Is(err, ErrMalformed) {
		t.Errorf("an entry of 65536 bytes: %v", err)
	}
	for what, in := range map[string][]byte{"cut short": b[:len(b)-1], "a byte too many": append(slices.Clone(b), 0), "another entry": append(slices.Clone(b), 0, 0), "empty": nil} {
		if _, err := ParseBundle(in, 4); !errors.Is(err, ErrMalformed) {
			t.Errorf("bundle %s: %v", what, err)
		}
	}
}

func TestMemory(t *testing.T) {
	if _, err := NewMemory(0); err == nil {
		t.Error("a cache without room")
	}
	m, err := NewMemory(3)
	must(t, err)
	keep := Tile{0, 0, 256}
	m.Put(keep, []byte("keep"))
	for i := range uint64(100) {
		m.Put(Tile{1, i, 256}, nil)
		if b, ok := m.Get(keep); !ok || string(b) != "keep" {
			t.Fatalf("a tile in use was forgotten after %d others", i)
		}
		if n := len(m.young) + len(m.old); n > 6 {
			t.Fatalf("%d tiles in a cache of 3", n)
		}
	}
	if _, ok := m.Get(Tile{1, 0, 256}); ok {
		t.Error("nothing is forgotten")
	}
}

package tlog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

// anySubtree draws a valid subtree of a tree, often one that begins at 0.
func anySubtree(t *rapid.T, size uint64) merkle.Subtree {
	end := rapid.Uint64Range(0, size).Draw(t, "end")
	if rapid.Bool().Draw(t, "from 0") || end == 0 {
		return merkle.Subtree{End: end}
	}
	return merkle.Smallest(rapid.Uint64Range(0, end-1).Draw(t, "start"), end)
}

// The tree out of tiles says what the tree in memory says, at all sizes.
func TestTreeAgrees(t *testing.T) {
	w := newWorld("a", 70000)
	cache, err := NewMemory(16)
	must(t, err)
	rapid.Check(t, func(rt *rapid.T) {
		size := anySize(rt, "size", w.tree.Size())
		tree := w.open(t, size, rapid.SampledFrom([]Cache{nil, cache}).Draw(rt, "cache"))
		if tree.Size() != size || tree.Root() != w.root(t, size) {
			rt.Fatalf("tree of %d, %v", tree.Size(), tree.Root())
		}
		s := anySubtree(rt, size)
		want, err := w.tree.Subtree(s)
		must(t, err)
		if got, err := tree.Subtree(t.Context(), s); err != nil || got != want {
			rt.Fatalf("%v has the hash %v, %v, want %v", s, got, err, want)
		}

		at := rapid.Uint64Range(s.End, size).Draw(rt, "at")
		proof, err := w.tree.Consistency(s, at)
		must(t, err)
		if got, err := tree.Consistency(t.Context(), s, at); err != nil || !slices.Equal(got, proof) {
			rt.Fatalf("%v in %d: %v, %v, want %v", s, at, got, err, proof)
		}
		if s.Size() == 0 {
			return
		}
		index := rapid.Uint64Range(s.Start, s.End-1).Draw(rt, "index")
		proof, err = w.tree.Inclusion(index, s)
		must(t, err)
		leaf, got, err := tree.Inclusion(t.Context(), index, s)
		if err != nil || !slices.Equal(got, proof) || leaf != merkle.HashLeaf(w.entries[index]) {
			rt.Fatalf("entry %d of %v: %v, %v, want %v", index, s, got, err, proof)
		}
	})
}

// A uniform is a log of any size whose entries are all the same, so that all
// of its complete subtrees of one height have the same hash.
type uniform struct{ heights [64]merkle.Hash }

func newUniform() *uniform {
	u := new(uniform)
	u.heights[0] = merkle.HashLeaf([]byte("same"))
	for k := 1; k < len(u.heights); k++ {
		u.heights[k] = merkle.HashChildren(u.heights[k-1], u.heights[k-1])
	}
	return u
}

func (u *uniform) root(size uint64) merkle.Hash {
	if size == 0 {
		return emptyRoot
	}
	top := bits.Len64(size-1) - 1
	if size == 1 {
		return u.heights[0]
	}
	return merkle.HashChildren(u.heights[top], u.root(size-1<<top))
}

func (u *uniform) ReadTile(_ context.Context, t Tile) ([]byte, error) {
	h := u.heights[tileHeight*t.Level]
	return bytes.Repeat(h[:], t.Width), nil
}

// Trees up to the greatest, whose proofs verify.
func TestHugeTrees(t *testing.T) {
	u := newUniform()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Uint64Range(1, 1<<rapid.IntRange(1, 63).Draw(rt, "bits")-1).Draw(rt, "size")
		tree, err := Open(t.Context(), u, size, u.root(size), nil)
		if err != nil {
			rt.Fatal(err)
		}
		index := rapid.Uint64Range(0, size-1).Draw(rt, "index")
		leaf, proof, err := tree.Inclusion(t.Context(), index, merkle.Subtree{End: size})
		if err != nil {
			rt.Fatal(err)
		}
		if err := merkle.VerifyInclusion(index, merkle.Subtree{End: size}, leaf, proof, tree.Root()); err != nil {
			rt.Fatal(err)
		}
		old := merkle.Subtree{End: rapid.Uint64Range(0, size).Draw(rt, "old")}
		proof, err = tree.Consistency(t.Context(), old, size)
		if err != nil {
			rt.Fatal(err)
		}
		if err := merkle.VerifyConsistency(old, size, proof, u.root(old.End), tree.Root()); err != nil {
			rt.Fatal(err)
		}
	})
	if _, err := Open(t.Context(), u, MaxSize+1, emptyRoot, nil); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("a tree above the greatest: %v", err)
	}
}

func TestTreeRange(t *testing.T) {
	tree := newWorld("a", 300).open(t, 300, nil)
	ctx := t.Context()
	for _, s := range []merkle.Subtree{{Start: 0, End: 301}, {Start: 3, End: 5}, {Start: 5, End: 4}, {Start: 1 << 63, End: 1<<63 + 1}} {
		_, subtree := tree.Subtree(ctx, s)
		_, _, inclusion := tree.Inclusion(ctx, s.Start, s)
		_, consistency := tree.Consistency(ctx, s, 300)
		for _, err := range []error{subtree, inclusion, consistency} {
			if !errors.Is(err, merkle.ErrRange) {
				t.Errorf("%v: %v", s, err)
			}
		}
	}
	if _, _, err := tree.Inclusion(ctx, 8, merkle.Subtree{Start: 4, End: 8}); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("entry 8 of [4, 8): %v", err)
	}
	for _, size := range []uint64{7, 301} {
		if _, err := tree.Consistency(ctx, merkle.Subtree{Start: 4, End: 8}, size); !errors.Is(err, merkle.ErrRange) {
			t.Errorf("[4, 8) in %d: %v", size, err)
		}
	}
	if _, err := tree.Bundle(ctx, 2); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("bundle 2: %v", err)
	}
	for _, err := range tree.Entries(ctx, 299, 301) {
		if !errors.Is(err, merkle.ErrRange) {
			t.Errorf("entry 300: %v", err)
		}
	}
}

// audit reads everything that the tree has.
func audit(ctx context.Context, w *world, size uint64, root merkle.Hash) error {
	tree, err := Open(ctx, w, size, root, nil)
	if err != nil {
		return err
	}
	var n uint64
	for entry, err := range tree.Entries(ctx, 0, size) {
		if err != nil {
			return err
		}
		if !bytes.Equal(entry, w.entries[n]) {
			return errors.New("an entry of another log was believed")
		}
		n++
	}
	return nil
}

// No byte of any tile or bundle can be changed, nor its length.
func TestTampering(t *testing.T) {
	const size = FullWidth + 40
	w := newWorld("a", size)
	root := w.root(t, size)
	must(t, audit(t.Context(), w, size, root))
	used := maps.Clone(w.reads)
	for tile := range TilesSince(0, size) {
		if used[tile] == 0 {
			t.Errorf("%s was not read", tile)
		}
		b, err := w.tile(tile)
		must(t, err)
		refuse := func(what string, bad []byte) {
			t.Helper()
			w.change = func(at Tile, good []byte) ([]byte, error) {
				if at == tile {
					return bytes.Clone(bad), nil
				}
				return good, nil
			}
			err := audit(t.Context(), w, size, root)
			if _, wrongRoot := errors.AsType[*RootError](err); !isTileError(err, tile) && !wrongRoot {
				t.Fatalf("%s %s: %v", tile, what, err)
			}
		}
		step := 1
		if testing.Short() {
			step = 97
		}
		flips(b, func(i int, bad []byte) {
			if i%step == 0 {
				refuse("with a byte changed", bad)
			}
		})
		refuse("cut short", b[:len(b)-1])
		refuse("without a hash", b[:len(b)-hashSize])
		refuse("with a byte more", append(bytes.Clone(b), 0))
		refuse("with a hash more", append(bytes.Clone(b), make([]byte, hashSize)...))
		refuse("empty", nil)
	}
	w.change = nil
	if err := audit(t.Context(), w, size, merkle.Hash{1}); err == nil {
		t.Error("another root was believed")
	}
	_, err := Open(t.Context(), w, 0, merkle.Hash{1}, nil)
	if e, ok := errors.AsType[*RootError](err); !ok || e.Hint() == "" {
		t.Errorf("the empty tree with a root: %v", err)
	}
}

// Whoever lost a partial tile or bundle has the full one in its place.
func TestPartialGone(t *testing.T) {
	w := newWorld("a", 70000)
	w.change = func(tile Tile, b []byte) ([]byte, error) {
		if !tile.Full() && (tile.Level == Entries || tile.Level == 0) {
			return nil, fs.ErrNotExist
		}
		return b, nil
	}
	const size = 65536 + 300
	must(t, audit(t.Context(), w, size, w.root(t, size)))

	// But the full one is not there before the log has grown.
	_, err := Open(t.Context(), w, 70000, w.root(t, 70000), nil)
	if e, ok := errors.AsType[*UnreachableError](err); !ok || e.Tile != (Tile{0, 273, 112}) || e.Hint() == "" || !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	// Nor is a full bundle with a wrong entry believed.
	w.change = func(tile Tile, b []byte) ([]byte, error) {
		switch {
		case tile.Level == Entries && !tile.Full():
			return nil, fs.ErrNotExist
		case tile.Level == Entries && tile.Index == size/FullWidth:
			b[2] ^= 1
		}
		return b, nil
	}
	if err := audit(t.Context(), w, size, w.root(t, size)); !isTileError(err, Tile{Entries, size / FullWidth, FullWidth}) {
		t.Error(err)
	}
	w.change = func(tile Tile, b []byte) ([]byte, error) {
		if tile.Level == Entries && tile.Index == size/FullWidth {
			return nil, fs.ErrNotExist
		}
		return b, nil
	}
	err = audit(t.Context(), w, size, w.root(t, size))
	if e, ok := errors.AsType[*UnreachableError](err); !ok || e.Tile != (Tile{Entries, size / FullWidth, size % FullWidth}) {
		t.Error(err)
	}
}

// A cache saves reads and is not believed.
func TestCache(t *testing.T) {
	const size = 1000
	w := newWorld("a", size)
	cache, err := NewMemory(100)
	must(t, err)
	read := func() {
		t.Helper()
		tree := w.open(t, size, cache)
		for index := range uint64(size) {
			if _, _, err := tree.Inclusion(t.Context(), index, merkle.Subtree{End: size}); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range tree.Entries(t.Context(), 0, size) {
			must(t, err)
		}
	}
	read()
	read()
	for tile, n := range w.reads {
		if tile.Full() && n != 1 {
			t.Errorf("%s was read %d times", tile, n)
		}
	}
	for tile, b := range cache.young {
		bad := bytes.Clone(b)
		bad[len(bad)/2] ^= 1
		cache.Put(tile, bad)
	}
	clear(w.reads)
	read()
	for tile, n := range w.reads {
		if n != 1 {
			t.Errorf("%s was read %d times after the cache was spoiled", tile, n)
		}
	}
}

func TestTreeConcurrent(t *testing.T) {
	const size = 3000
	w := newWorld("a", size)
	cache, err := NewMemory(2)
	must(t, err)
	tree := w.open(t, size, cache)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range uint64(100) {
				index := (i*37 + uint64(g)*411) % size
				leaf, proof, err := tree.Inclusion(t.Context(), index, merkle.Subtree{End: size})
				if err == nil {
					err = merkle.VerifyInclusion(index, merkle.Subtree{End: size}, leaf, proof, tree.Root())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestEntriesStop(t *testing.T) {
	tree := newWorld("a", 600).open(t, 600, nil)
	n := 0
	for range tree.Entries(t.Context(), 250, 600) {
		if n++; n == 10 {
			break
		}
	}
	if n != 10 {
		t.Errorf("%d entries", n)
	}
	for range tree.Entries(t.Context(), 600, 600) {
		t.Error("an entry in an empty interval")
	}
}

package tlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"sync"

	"github.com/chancery-pki/chancery/merkle"
)

// A Tree is a log at one size, as far as it is fetched: a [merkle.Tree] whose
// hashes are elsewhere, and believed only as far as they lead to the root. Its
// methods may be called concurrently.
type Tree struct {
	size   uint64
	root   merkle.Hash
	reader Reader
	cache  Cache // may be nil

	// edge holds the partial tiles, by level. It does not change after Open.
	edge [treeLevels][]byte

	// mu guards recent, the full tile of each level that was used last. Those
	// who go from entry to entry come back to it.
	mu     sync.Mutex
	recent [treeLevels]recentTile
}

type recentTile struct {
	index uint64
	data  []byte
}

// Open fetches the right edge of the tree with the given size and root, which
// are those of a checkpoint whose signature was verified. It is [*RootError]
// if the edge makes another root, [*UnreachableError] if there is no edge. The
// cache is optional.
//
// The hash of a tree is made of the hashes in its partial tiles and of nothing
// else. So if the root is right, all of them are right; and each full tile
// stands as one hash in a tile above it, from level to level up to a partial
// one.
func Open(ctx context.Context, r Reader, size uint64, root merkle.Hash, cache Cache) (*Tree, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("%w: tree of %d entries, at most %d", merkle.ErrRange, size, uint64(MaxSize))
	}
	t := &Tree{size: size, root: root, reader: r, cache: cache}
	for level := range t.edge {
		hashes := size >> (tileHeight * level)
		tile, ok := TileAt(size, level, hashes/FullWidth)
		if !ok {
			continue
		}
		data, err := t.fetchHashes(ctx, tile)
		if err != nil {
			return nil, err
		}
		t.edge[level] = data
	}
	got, err := t.hash(ctx, merkle.Subtree{End: size})
	if err != nil {
		return nil, err
	}
	if got != root {
		return nil, &RootError{Size: size, Want: root, Got: got}
	}
	return t, nil
}

// Size is the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// Root is the hash of the whole tree.
func (t *Tree) Root() merkle.Hash { return t.root }

// Subtree returns the hash of s. It is [merkle.ErrRange] if s is not a valid
// subtree or ends after the tree.
func (t *Tree) Subtree(ctx context.Context, s merkle.Subtree) (merkle.Hash, error) {
	if err := check(s, t.size); err != nil {
		return merkle.Hash{}, err
	}
	return t.hash(ctx, s)
}

// hash returns the hash of a valid subtree: the complete subtrees at its right
// edge, folded from the smallest.
func (t *Tree) hash(ctx context.Context, s merkle.Subtree) (merkle.Hash, error) {
	if s.Start == s.End {
		return emptyRoot, nil
	}
	var right *merkle.Hash
	for s.Start < s.End {
		k := bits.TrailingZeros64(s.Size())
		node, err := t.node(ctx, k, s.End>>k-1)
		if err != nil {
			return merkle.Hash{}, err
		}
		if right != nil {
			node = merkle.HashChildren(node, *right)
		}
		right = &node
		s.End -= 1 << k
	}
	return *right, nil
}

// node returns the hash of the complete subtree [i<<k, (i+1)<<k).
func (t *Tree) node(ctx context.Context, k int, i uint64) (merkle.Hash, error) {
	level, height := k/tileHeight, k%tileHeight
	first := i << height // of the hashes of that level under the node
	data, err := t.hashes(ctx, level, first/FullWidth)
	if err != nil {
		return merkle.Hash{}, err
	}
	from := int(first%FullWidth) * hashSize
	return fold(data[from : from+hashSize<<height]), nil
}

// hashes returns the authenticated contents of a tile of level 0 or above
// that the tree has.
func (t *Tree) hashes(ctx context.Context, level int, index uint64) ([]byte, error) {
	tile, ok := TileAt(t.size, level, index)
	if !ok {
		return nil, fmt.Errorf("%w: a tree of %d entries has no tile %d on level %d", merkle.ErrRange, t.size, index, level)
	}
	if !tile.Full() {
		return t.edge[level], nil
	}
	t.mu.Lock()
	recent := t.recent[level]
	t.mu.Unlock()
	if recent.data != nil && recent.index == index {
		return recent.data, nil
	}
	above, err := t.hashes(ctx, level+1, index/FullWidth)
	if err != nil {
		return nil, err
	}
	want := merkle.Hash(above[index%FullWidth*uint64(hashSize):][:hashSize])
	data, err := t.fetch(ctx, tile, func(b []byte) error {
		if len(b) != tile.maxBytes() || fold(b) != want {
			return &TileError{tile, fmt.Sprintf("its %d bytes do not hash to %v", len(b), want)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.recent[level] = recentTile{index, data}
	t.mu.Unlock()
	return data, nil
}

// fetch returns what passes the check, out of the cache or else from the
// reader.
func (t *Tree) fetch(ctx context.Context, tile Tile, check func([]byte) error) ([]byte, error) {
	cached := t.cache != nil && tile.Full()
	if cached {
		if b, ok := t.cache.Get(tile); ok && check(b) == nil {
			return b, nil
		}
	}
	b, err := t.reader.ReadTile(ctx, tile)
	if err != nil {
		return nil, &UnreachableError{tile, err}
	}
	if err := check(b); err != nil {
		return nil, err
	}
	if cached {
		t.cache.Put(tile, b)
	}
	return b, nil
}

// fetchHashes returns a tile at the right edge, unauthenticated. A log may
// have deleted a partial tile once the full one was there (tlog-tiles,
// "Partial Tiles").
func (t *Tree) fetchHashes(ctx context.Context, tile Tile) ([]byte, error) {
	b, err := t.reader.ReadTile(ctx, tile)
	if errors.Is(err, fs.ErrNotExist) {
		full := Tile{tile.Level, tile.Index, FullWidth}
		if wide, fullErr := t.reader.ReadTile(ctx, full); fullErr == nil && len(wide) == full.maxBytes() {
			b, err = wide[:tile.maxBytes()], nil
		}
	}
	if err != nil {
		return nil, &UnreachableError{tile, err}
	}
	if len(b) != tile.maxBytes() {
		return nil, &TileError{tile, fmt.Sprintf("%d bytes, want %d", len(b), tile.maxBytes())}
	}
	return b, nil
}

func check(s merkle.Subtree, size uint64) error {
	if !s.Valid() {
		return fmt.Errorf("%w: %v is not a valid subtree", merkle.ErrRange, s)
	}
	if s.End > size {
		return fmt.Errorf("%w: %v in a tree of %d entries", merkle.ErrRange, s, size)
	}
	return nil
}

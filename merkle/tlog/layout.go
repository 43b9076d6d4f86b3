package tlog

import (
	"fmt"
	"iter"

	"github.com/chancery-pki/chancery/merkle"
)

// TileAt returns the tile with the index on the level, as wide as a tree of
// the size has it, and false if that tree has none (tlog-tiles, "Partial
// Tiles"). A tree has a tile wherever it has a hash, and an entry bundle
// wherever it has a tile of level 0.
func TileAt(size uint64, level int, index uint64) (Tile, bool) {
	if level < Entries || level > maxLevel {
		return Tile{}, false
	}
	hashes := size >> (tileHeight * max(level, 0))
	switch full := hashes / FullWidth; {
	case index < full:
		return Tile{level, index, FullWidth}, true
	case index == full && hashes%FullWidth > 0:
		return Tile{level, index, int(hashes % FullWidth)}, true
	}
	return Tile{}, false
}

// TilesSince yields the entry bundles and tiles of a tree of the given size
// that a tree of the old size did not have, bundles first and then level by
// level. A log stores all of them before it shows a checkpoint of that size.
// With an old size of 0 they are all that the tree has.
func TilesSince(old, size uint64) iter.Seq[Tile] {
	return func(yield func(Tile) bool) {
		for level := Entries; level <= maxLevel; level++ {
			shift := tileHeight * max(level, 0)
			if old>>shift >= size>>shift {
				return // nor is there anything new above
			}
			for index := old >> shift / FullWidth; ; index++ {
				t, ok := TileAt(size, level, index)
				if !ok {
					break
				}
				if !yield(t) {
					return
				}
			}
		}
	}
}

// node returns what hash i of a tile on level 0 or above is the hash of. It is
// [merkle.ErrRange] if no tree has such a hash.
func (t Tile) node(i int) (merkle.Subtree, error) {
	shift := tileHeight * max(t.Level, 0)
	n := t.Index*FullWidth + uint64(i)
	if t.Level < 0 || t.Index > MaxSize/FullWidth || n >= MaxSize>>shift {
		return merkle.Subtree{}, fmt.Errorf("%w: no tree has hash %d of %s", merkle.ErrRange, i, t)
	}
	return merkle.Subtree{Start: n << shift, End: (n + 1) << shift}, nil
}

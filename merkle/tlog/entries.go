package tlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/chancery-pki/chancery/merkle"
)

// Bundle fetches the entry bundle with the index, as wide as this tree has it,
// and returns its entries, each of which is in the tree. It is [*TileError] if
// one of them is not, [merkle.ErrRange] if there is no such bundle.
func (t *Tree) Bundle(ctx context.Context, index uint64) ([][]byte, error) {
	leaves, err := t.hashes(ctx, 0, index)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	take := func(b []byte) (err error) {
		entries, err = matchBundle(b, leaves)
		return err
	}
	tile := Tile{Entries, index, len(leaves) / hashSize}
	if _, err := t.fetch(ctx, tile, func(b []byte) error { return asTileError(tile, take(b)) }); err == nil {
		return entries, nil
	} else if tile.Full() || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// As with tiles, a full bundle may have taken the place of the partial
	// one. What it has more is not in this tree.
	full := Tile{Entries, index, FullWidth}
	_, err = t.fetch(ctx, full, func(b []byte) error {
		rest, n := b, 0
		for ok := true; ok && n < tile.Width; n++ {
			_, rest, ok = cutEntry(rest)
		}
		return asTileError(full, take(b[:len(b)-len(rest)]))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &UnreachableError{tile, err}
	}
	return entries, err
}

// Entries yields the entries from start on, up to end. Their bundles are
// fetched one by one. An error is the last thing that it yields.
func (t *Tree) Entries(ctx context.Context, start, end uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if start > end || end > t.size {
			yield(nil, fmt.Errorf("%w: entries [%d, %d) of %d", merkle.ErrRange, start, end, t.size))
			return
		}
		for start < end {
			index := start / FullWidth
			entries, err := t.Bundle(ctx, index)
			if err != nil {
				yield(nil, err)
				return
			}
			for ; start < end && start/FullWidth == index; start++ {
				if !yield(entries[start%FullWidth], nil) {
					return
				}
			}
		}
	}
}

// matchBundle parses a bundle and holds its entries against their hashes.
func matchBundle(b, leaves []byte) ([][]byte, error) {
	entries, err := ParseBundle(b, len(leaves)/hashSize)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if h := merkle.HashLeaf(e); h != merkle.Hash(leaves[i*hashSize:][:hashSize]) {
			return nil, fmt.Errorf("entry %d hashes to %v, which is not in the tree", i, h)
		}
	}
	return entries, nil
}

func asTileError(t Tile, err error) error {
	if err == nil {
		return nil
	}
	return &TileError{t, err.Error()}
}

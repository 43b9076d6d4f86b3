package tlog

import (
	"fmt"

	"github.com/chancery-pki/chancery/merkle"
)

// A Source knows the hashes of a log's subtrees. A [merkle.Tree] is one.
type Source interface {
	Subtree(merkle.Subtree) (merkle.Hash, error)
}

// Make returns the contents of a tile, not of an entry bundle, out of a tree
// that has it.
func Make(t Tile, tree Source) ([]byte, error) {
	b := make([]byte, 0, t.maxBytes())
	for i := range t.Width {
		node, err := t.node(i)
		if err != nil {
			return nil, err
		}
		h, err := tree.Subtree(node)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t, err)
		}
		b = append(b, h[:]...)
	}
	return b, nil
}

// Raise returns the contents of a tile of level 1 or above out of the full
// tiles under it. It does not ask whether those are the log's.
func Raise(t Tile, below func(Tile) ([]byte, error)) ([]byte, error) {
	if t.Level < 1 {
		return nil, fmt.Errorf("%w: %s has no tiles under it", merkle.ErrRange, t)
	}
	b := make([]byte, 0, t.maxBytes())
	for i := range t.Width {
		child := Tile{t.Level - 1, t.Index*FullWidth + uint64(i), FullWidth}
		data, err := below(child)
		if err != nil {
			return nil, err
		}
		if len(data) != child.maxBytes() {
			return nil, &TileError{child, fmt.Sprintf("%d bytes, want %d", len(data), child.maxBytes())}
		}
		h := fold(data)
		b = append(b, h[:]...)
	}
	return b, nil
}

// fold returns the hash of the tree over the hashes in a tile or in a part of
// one. Their number is a power of two.
func fold(hashes []byte) merkle.Hash {
	var level [FullWidth]merkle.Hash
	n := len(hashes) / hashSize
	for i := range n {
		copy(level[i][:], hashes[i*hashSize:])
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			level[i] = merkle.HashChildren(level[2*i], level[2*i+1])
		}
	}
	return level[0]
}

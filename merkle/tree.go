package merkle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
)

// A Hash is a SHA-256 value: a leaf hash, or the hash of a subtree.
type Hash [sha256.Size]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// HashLeaf returns the hash of a log entry (RFC 9162 section 2.1.1).
func HashLeaf(entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte{leafPrefix})
	h.Write(entry)
	var leaf Hash
	h.Sum(leaf[:0])
	return leaf
}

// HashChildren returns the hash of the node over left and right (RFC 9162
// section 2.1.1).
func HashChildren(left, right Hash) Hash {
	var node [1 + 2*sha256.Size]byte
	node[0] = nodePrefix
	copy(node[1:], left[:])
	copy(node[1+sha256.Size:], right[:])
	return sha256.Sum256(node[:])
}

// Leaves and nodes are hashed under different prefixes so that neither can be
// taken for the other.
const (
	leafPrefix = 0
	nodePrefix = 1
)

// emptyHash is the hash of a tree without entries.
var emptyHash = Hash(sha256.Sum256(nil))

// A Tree is an append-only Merkle tree that holds the hash of every complete
// subtree in memory, 64 bytes for each leaf. With them every proof about the
// tree of any size up to its own takes a logarithmic number of steps. The
// zero value is the empty tree. A Tree is not safe for concurrent use.
type Tree struct {
	// levels[k][i] is the hash of [i<<k, (i+1)<<k).
	levels [][]Hash
}

// Append adds leaf hashes, in order.
func (t *Tree) Append(leaves ...Hash) {
	for _, node := range leaves {
		for k := 0; ; k++ {
			if k == len(t.levels) {
				t.levels = append(t.levels, nil)
			}
			t.levels[k] = append(t.levels[k], node)
			n := len(t.levels[k])
			if n%2 != 0 {
				break
			}
			node = HashChildren(t.levels[k][n-2], t.levels[k][n-1])
		}
	}
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 {
	if len(t.levels) == 0 {
		return 0
	}
	return uint64(len(t.levels[0]))
}

// Root is the hash of the whole tree. The root that the tree had at an
// earlier size n is the hash of its subtree [0, n).
func (t *Tree) Root() Hash { return t.hash(Subtree{0, t.Size()}) }

// Subtree returns the hash of s. It is [ErrRange] if s is not a valid
// subtree or ends after the tree.
func (t *Tree) Subtree(s Subtree) (Hash, error) {
	if err := t.check(s, t.Size()); err != nil {
		return Hash{}, err
	}
	return t.hash(s), nil
}

// SubtreeWith returns the hash that s has once the leaves are appended, which it
// leaves to the caller. It is [ErrRange] if s is not a valid subtree of that
// tree.
func (t *Tree) SubtreeWith(s Subtree, leaves []Hash) (Hash, error) {
	if err := t.check(s, t.Size()+uint64(len(leaves))); err != nil {
		return Hash{}, err
	}
	return t.hashWith(s, leaves), nil
}

// hashWith goes down to what the tree has, and to single leaves behind it.
func (t *Tree) hashWith(s Subtree, leaves []Hash) Hash {
	switch size := t.Size(); {
	case s.End <= size:
		return t.hash(s)
	case s.Size() == 1:
		return leaves[s.Start-size]
	}
	mid := s.Start + uint64(1)<<(bits.Len64(s.Size()-1)-1)
	return HashChildren(t.hashWith(Subtree{s.Start, mid}, leaves), t.hashWith(Subtree{mid, s.End}, leaves))
}

// Inclusion returns the proof that the entry is in s ("Subtree Inclusion
// Proofs"), for [VerifyInclusion]. It is [ErrRange] if s is not a subtree of
// the tree, or does not contain the entry.
func (t *Tree) Inclusion(index uint64, s Subtree) ([]Hash, error) {
	if err := t.check(s, t.Size()); err != nil {
		return nil, err
	}
	if !s.Contains(index) {
		return nil, fmt.Errorf("%w: entry %d is not in %v", ErrRange, index, s)
	}
	proof, _ := t.path(Subtree{index, index + 1}, s)
	return proof, nil
}

// Consistency returns the proof that s is part of the tree of the given size
// ("Subtree Consistency Proofs"), for [VerifyConsistency]. The size may be the
// tree's own or any earlier one. It is [ErrRange] if s is not a subtree of
// the tree at that size.
func (t *Tree) Consistency(s Subtree, size uint64) ([]Hash, error) {
	if size > t.Size() {
		return nil, fmt.Errorf("%w: size %d, the tree has %d entries", ErrRange, size, t.Size())
	}
	if err := t.check(s, size); err != nil {
		return nil, err
	}
	if s.Start == s.End {
		return nil, nil
	}
	proof, node := t.path(s, Subtree{0, size})
	if node != s {
		// The verifier knows the hash of s, but not of the node of s in
		// which the two trees begin to agree.
		proof = slices.Insert(proof, 0, t.hash(node))
	}
	return proof, nil
}

// path walks down from the tree over `in` to the subtree s, and returns the
// siblings of the nodes on the way, from the bottom. If s is not one node of
// that tree but several, the way leads to the last of them. The end of the way
// is returned as well.
func (t *Tree) path(s, in Subtree) (siblings []Hash, node Subtree) {
	for s != in {
		mid := in.Start + uint64(1)<<(bits.Len64(in.Size()-1)-1)
		left, right := Subtree{in.Start, mid}, Subtree{mid, in.End}
		if s.End <= mid {
			siblings = append(siblings, t.hash(right))
			in = left
		} else {
			siblings = append(siblings, t.hash(left))
			in = right
			s.Start = max(s.Start, mid)
		}
	}
	slices.Reverse(siblings)
	return siblings, in
}

// hash returns the hash of s, which must be a valid subtree within the tree.
// A subtree is split at the greatest power of two below its size, so its
// right edge is a chain of ever smaller complete subtrees: fold them from the
// smallest.
func (t *Tree) hash(s Subtree) Hash {
	if s.Start == s.End {
		return emptyHash
	}
	k := bits.TrailingZeros64(s.Size())
	node := t.levels[k][s.End>>k-1]
	for s.End -= 1 << k; s.End > s.Start; s.End -= 1 << k {
		k = bits.TrailingZeros64(s.Size())
		node = HashChildren(t.levels[k][s.End>>k-1], node)
	}
	return node
}

func (t *Tree) check(s Subtree, size uint64) error {
	if !s.Valid() {
		return fmt.Errorf("%w: %v is not a valid subtree", ErrRange, s)
	}
	if s.End > size {
		return fmt.Errorf("%w: %v in a tree of %d entries", ErrRange, s, size)
	}
	return nil
}

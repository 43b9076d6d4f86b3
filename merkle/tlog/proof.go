package tlog

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/chancery-pki/chancery/merkle"
)

// Inclusion returns the hash of an entry and the proof that the entry is in s,
// for [merkle.VerifyInclusion]; s is a subtree, as in a certificate, or all of
// the tree. It is [merkle.ErrRange] if s is not a subtree of the tree, or does
// not contain the entry.
func (t *Tree) Inclusion(ctx context.Context, index uint64, s merkle.Subtree) (leaf merkle.Hash, proof []merkle.Hash, err error) {
	if err := check(s, t.size); err != nil {
		return leaf, nil, err
	}
	if !s.Contains(index) {
		return leaf, nil, fmt.Errorf("%w: entry %d is not in %v", merkle.ErrRange, index, s)
	}
	if leaf, err = t.node(ctx, 0, index); err != nil {
		return leaf, nil, err
	}
	proof, _, err = t.path(ctx, merkle.Subtree{Start: index, End: index + 1}, s)
	return leaf, proof, err
}

// Consistency returns the proof that s is part of the tree of the given size,
// for [merkle.VerifyConsistency]. The size may be the tree's own or any
// earlier one. For s of [0, old) it is the consistency proof of RFC 6962
// section 2.1.2, as witnesses want it. It is [merkle.ErrRange] if s is not a
// subtree of the tree at that size.
func (t *Tree) Consistency(ctx context.Context, s merkle.Subtree, size uint64) ([]merkle.Hash, error) {
	if size > t.size {
		return nil, fmt.Errorf("%w: size %d, the tree has %d entries", merkle.ErrRange, size, t.size)
	}
	if err := check(s, size); err != nil {
		return nil, err
	}
	if s.Start == s.End {
		return nil, nil
	}
	proof, node, err := t.path(ctx, s, merkle.Subtree{End: size})
	if err != nil {
		return nil, err
	}
	if node != s {
		// The verifier knows the hash of s, but not of the node of s in
		// which the two trees begin to agree.
		h, err := t.hash(ctx, node)
		if err != nil {
			return nil, err
		}
		proof = slices.Insert(proof, 0, h)
	}
	return proof, nil
}

// path is the way of merkle.Tree: down from the tree over `in` to s, or to the
// last of the nodes that s consists of, which is returned as well. The
// siblings on the way are returned from the bottom.
func (t *Tree) path(ctx context.Context, s, in merkle.Subtree) (siblings []merkle.Hash, node merkle.Subtree, err error) {
	for s != in {
		mid := in.Start + uint64(1)<<(bits.Len64(in.Size()-1)-1)
		sibling, next := merkle.Subtree{Start: in.Start, End: mid}, merkle.Subtree{Start: mid, End: in.End}
		if s.End <= mid {
			sibling, next = next, sibling
		} else {
			s.Start = max(s.Start, mid)
		}
		h, err := t.hash(ctx, sibling)
		if err != nil {
			return nil, in, err
		}
		siblings, in = append(siblings, h), next
	}
	slices.Reverse(siblings)
	return siblings, in, nil
}

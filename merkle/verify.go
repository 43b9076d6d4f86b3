package merkle

import (
	"fmt"
	"math/bits"
)

// Evaluate returns the hash that subtree s has if it contains leaf at index,
// as proof claims ("Evaluating a Subtree Inclusion Proof"). It is [ErrProof]
// if s is not a valid subtree, does not contain the index, or the proof is
// longer or shorter than the way up. Evaluate does not allocate.
func Evaluate(index uint64, s Subtree, leaf Hash, proof []Hash) (Hash, error) {
	if !s.Valid() {
		return Hash{}, errInvalidSubtree(s)
	}
	if !s.Contains(index) {
		return Hash{}, fmt.Errorf("%w: entry %d is not in %v", ErrProof, index, s)
	}
	// fn and sn are the positions, on the level that is reached, of the node
	// on the path and of the last node.
	fn, sn := index-s.Start, s.Size()-1
	node := leaf
	for i := range proof {
		if sn == 0 {
			return Hash{}, errPathLength(len(proof), s)
		}
		if fn&1 != 0 || fn == sn {
			node = HashChildren(proof[i], node)
			// A last node without a sibling moves up as it is.
			up := bits.TrailingZeros64(fn)
			fn, sn = fn>>up, sn>>up
		} else {
			node = HashChildren(node, proof[i])
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return Hash{}, errPathLength(len(proof), s)
	}
	return node, nil
}

// VerifyInclusion checks that the subtree s with the given hash contains leaf
// at index. Every refusal is [ErrProof].
func VerifyInclusion(index uint64, s Subtree, leaf Hash, proof []Hash, subtree Hash) error {
	got, err := Evaluate(index, s, leaf, proof)
	if err != nil {
		return err
	}
	if got != subtree {
		return fmt.Errorf("%w: entry %d is not the one in %v", ErrProof, index, s)
	}
	return nil
}

// VerifyConsistency checks that the subtree s with the hash subtree is part
// of the tree that has size entries and the hash root ("Verifying a Subtree
// Consistency Proof"). Every refusal is [ErrProof].
func VerifyConsistency(s Subtree, size uint64, proof []Hash, subtree, root Hash) error {
	if !s.Valid() {
		return errInvalidSubtree(s)
	}
	if s.End > size {
		return fmt.Errorf("%w: %v ends after the tree of %d entries", ErrProof, s, size)
	}
	if s.Start == s.End {
		if len(proof) != 0 || subtree != emptyHash {
			return errInconsistent(s, size)
		}
		return nil
	}

	// fn, sn and tn are the positions, on the level that is reached, of the
	// subtree's first node, its last node, and the tree's last node.
	fn, sn, tn := s.Start, s.End-1, size-1
	up := bits.Len64(fn ^ sn)
	if sn != tn {
		// The subtree's right edge is a node of the tree only as far up as
		// it is complete.
		up = min(up, bits.TrailingZeros64(^sn))
	}
	fn, sn, tn = fn>>up, sn>>up, tn>>up

	// fromSubtree and fromTree grow from one node towards the two hashes.
	fromSubtree, fromTree := subtree, subtree
	if fn != sn {
		if len(proof) == 0 {
			return errInconsistent(s, size)
		}
		fromSubtree, fromTree = proof[0], proof[0]
		proof = proof[1:]
	}
	for i := range proof {
		if tn == 0 {
			return errInconsistent(s, size)
		}
		if sn&1 != 0 || sn == tn {
			if fn < sn {
				fromSubtree = HashChildren(proof[i], fromSubtree)
			}
			fromTree = HashChildren(proof[i], fromTree)
			up := bits.TrailingZeros64(sn)
			fn, sn, tn = fn>>up, sn>>up, tn>>up
		} else {
			fromTree = HashChildren(fromTree, proof[i])
		}
		fn, sn, tn = fn>>1, sn>>1, tn>>1
	}
	if tn != 0 || fromSubtree != subtree || fromTree != root {
		return errInconsistent(s, size)
	}
	return nil
}

func errInvalidSubtree(s Subtree) error {
	return fmt.Errorf("%w: %v is not a valid subtree", ErrProof, s)
}

func errPathLength(n int, s Subtree) error {
	return fmt.Errorf("%w: %d hashes do not lead to the top of %v", ErrProof, n, s)
}

func errInconsistent(s Subtree, size uint64) error {
	return fmt.Errorf("%w: %v is not shown to be part of the tree of %d entries", ErrProof, s, size)
}

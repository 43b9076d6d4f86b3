package merkle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The draft's accumulated vectors ("Subtree Test Vectors") hash all outputs
// for trees of up to this size, whose leaf i is the byte i.
const vectorSize = 130

func byteTree(size int) *Tree {
	var t Tree
	for i := range size {
		t.Append(HashLeaf([]byte{byte(i)}))
	}
	return &t
}

// subtrees calls f with every valid subtree that ends by size, in the order
// of the vectors.
func subtrees(size uint64, f func(Subtree)) {
	for end := range size + 1 {
		for start := range end + 1 {
			if s := (Subtree{start, end}); s.Valid() {
				f(s)
			}
		}
	}
}

func addLine(h hash.Hash, head string, hashes []Hash) {
	h.Write([]byte(head))
	for _, p := range hashes {
		fmt.Fprintf(h, " %v", p)
	}
	h.Write([]byte("\n"))
}

func wantVector(t *testing.T, h hash.Hash, want string) {
	t.Helper()
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("accumulated vector is %s, want %s", got, want)
	}
}

func TestVectorSubtreeHashes(t *testing.T) {
	tree, h := byteTree(vectorSize), sha256.New()
	subtrees(vectorSize, func(s Subtree) {
		node, err := tree.Subtree(s)
		if err != nil {
			t.Fatal(err)
		}
		addLine(h, s.String(), []Hash{node})
	})
	wantVector(t, h, "b82806ad4265bb151c1119c0f4db437bb4d1a1f887b3a7fba1cd4ebf552e3e81")
}

func TestVectorInclusion(t *testing.T) {
	tree, h := byteTree(vectorSize), sha256.New()
	subtrees(vectorSize, func(s Subtree) {
		for index := s.Start; index < s.End; index++ {
			proof, err := tree.Inclusion(index, s)
			if err != nil {
				t.Fatal(err)
			}
			addLine(h, fmt.Sprintf("%d %v", index, s), proof)
		}
	})
	wantVector(t, h, "ac2a8f989e44d99e399db448050ff5f19757df53cfb716aa81015d3955d8163f")
}

// The proofs of smaller trees are asked of the one large tree.
func TestVectorConsistency(t *testing.T) {
	tree, h := byteTree(vectorSize), sha256.New()
	for n := range uint64(vectorSize + 1) {
		subtrees(n, func(s Subtree) {
			proof, err := tree.Consistency(s, n)
			if err != nil {
				t.Fatal(err)
			}
			addLine(h, fmt.Sprintf("%v %d", s, n), proof)
		})
	}
	wantVector(t, h, "10fa99b37bf9bf9ffa26b412fbd98bd75363256d0b75d61bc4538b9c9c5a0a74")
}

func TestVectorCover(t *testing.T) {
	h := sha256.New()
	for end := range uint64(vectorSize + 1) {
		for start := range end + 1 {
			left, right := Cover(start, end)
			addLine(h, fmt.Sprintf("%v %v", left, right), nil)
		}
	}
	wantVector(t, h, "7fd9c8b926e9d2b5cf831560e8ce295a5ef97ad5c5ede4ea0dea28a8c8fc8bb0")
}

// spoil calls f with every proof that differs from the given one in one bit
// of one hash, a missing hash or one too many.
func spoil(proof []Hash, f func(what string, proof []Hash)) {
	for i := range proof {
		flipped := slices.Clone(proof)
		flipped[i][i%len(Hash{})] ^= 1 << (i % 8)
		f(fmt.Sprintf("hash %d flipped", i), flipped)
		f(fmt.Sprintf("hash %d missing", i), slices.Delete(slices.Clone(proof), i, i+1))
	}
	f("hash in front", slices.Insert(slices.Clone(proof), 0, Hash{1}))
	f("hash behind", append(slices.Clone(proof), Hash{1}))
}

func TestInclusion(t *testing.T) {
	const size = 70
	tree := byteTree(size)
	subtrees(size, func(s Subtree) {
		root, err := tree.Subtree(s)
		if err != nil {
			t.Fatal(err)
		}
		for index := s.Start; index < s.End; index++ {
			leaf := HashLeaf([]byte{byte(index)})
			proof, err := tree.Inclusion(index, s)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyInclusion(index, s, leaf, proof, root); err != nil {
				t.Fatalf("entry %d of %v: %v", index, s, err)
			}
			refuse := func(what string, index uint64, s Subtree, leaf Hash, proof []Hash, root Hash) {
				t.Helper()
				if err := VerifyInclusion(index, s, leaf, proof, root); !errors.Is(err, ErrProof) {
					t.Fatalf("entry %d of %v with %s: %v, want ErrProof", index, s, what, err)
				}
			}
			spoil(proof, func(what string, proof []Hash) { refuse(what, index, s, leaf, proof, root) })
			refuse("another leaf", index, s, Hash{1}, proof, root)
			refuse("the next index", index+1, s, leaf, proof, root)
			refuse("the index before", index-1, s, leaf, proof, root)
			refuse("an index before the subtree", s.Start-1, s, leaf, proof, root)
			for end := index + 1; end <= min(s.End+5, size); end++ {
				if other := (Subtree{s.Start, end}); other != s && other.Valid() {
					root, err := tree.Subtree(other)
					if err != nil {
						t.Fatal(err)
					}
					refuse("the proof of "+s.String(), index, other, leaf, proof, root)
				}
			}
		}
	})
}

func TestConsistency(t *testing.T) {
	const size = 40
	tree := byteTree(size)
	hash := func(s Subtree) Hash {
		h, err := tree.Subtree(s)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for n := range uint64(size + 1) {
		root := hash(Subtree{0, n})
		subtrees(n, func(s Subtree) {
			proof, err := tree.Consistency(s, n)
			if err != nil {
				t.Fatal(err)
			}
			node := hash(s)
			if err := VerifyConsistency(s, n, proof, node, root); err != nil {
				t.Fatalf("%v in %d: %v", s, n, err)
			}
			refuse := func(what string, s Subtree, n uint64, proof []Hash, node, root Hash) {
				t.Helper()
				if err := VerifyConsistency(s, n, proof, node, root); !errors.Is(err, ErrProof) {
					t.Fatalf("%v in %d with %s: %v, want ErrProof", s, n, what, err)
				}
			}
			spoil(proof, func(what string, proof []Hash) { refuse(what, s, n, proof, node, root) })
			refuse("another subtree hash", s, n, proof, Hash{1}, root)
			if s.End > 0 {
				refuse("a smaller tree", s, s.End-1, proof, node, root)
			}
			if s.Size() == 0 {
				return // part of every tree, whatever its root
			}
			refuse("another root", s, n, proof, node, Hash{1})
			for m := s.End; m <= min(n+5, size); m++ {
				if m != n {
					refuse("the proof for another tree", s, m, proof, node, hash(Subtree{0, m}))
				}
			}
		})
	}
}

func TestEmptyTree(t *testing.T) {
	var tree Tree
	empty := Hash(sha256.Sum256(nil))
	if tree.Size() != 0 || tree.Root() != empty {
		t.Errorf("empty tree has size %d and root %v", tree.Size(), tree.Root())
	}
	if h, err := tree.Subtree(Subtree{}); h != empty || err != nil {
		t.Errorf("Subtree([0, 0)) = %v, %v", h, err)
	}
	if proof, err := tree.Consistency(Subtree{}, 0); len(proof) != 0 || err != nil {
		t.Errorf("Consistency([0, 0), 0) = %v, %v", proof, err)
	}
}

func TestTreeRange(t *testing.T) {
	tree := byteTree(10)
	for _, s := range []Subtree{{0, 11}, {8, 12}, {3, 5}, {1, 3}, {5, 4}, {1 << 63, 1<<63 + 1}} {
		if _, err := tree.Subtree(s); !errors.Is(err, ErrRange) {
			t.Errorf("Subtree(%v): %v, want ErrRange", s, err)
		}
		if _, err := tree.Inclusion(s.Start, s); !errors.Is(err, ErrRange) {
			t.Errorf("Inclusion(%d, %v): %v, want ErrRange", s.Start, s, err)
		}
		if _, err := tree.Consistency(s, 10); !errors.Is(err, ErrRange) {
			t.Errorf("Consistency(%v, 10): %v, want ErrRange", s, err)
		}
	}
	for _, index := range []uint64{3, 8, 1<<64 - 1} {
		if _, err := tree.Inclusion(index, Subtree{4, 8}); !errors.Is(err, ErrRange) {
			t.Errorf("Inclusion(%d, [4, 8)): %v, want ErrRange", index, err)
		}
	}
	for _, size := range []uint64{7, 11} {
		if _, err := tree.Consistency(Subtree{4, 8}, size); !errors.Is(err, ErrRange) {
			t.Errorf("Consistency([4, 8), %d): %v, want ErrRange", size, err)
		}
	}
}

// Appending leaves one by one or all at once makes the same tree.
func TestAppendMany(t *testing.T) {
	one, all := new(Tree), new(Tree)
	var leaves []Hash
	for i := range 77 {
		leaves = append(leaves, HashLeaf([]byte{byte(i)}))
		one.Append(leaves[i])
	}
	all.Append(leaves[:50]...)
	all.Append(leaves[50:]...)
	if one.Root() != all.Root() || one.Size() != all.Size() {
		t.Errorf("roots are %v of %d and %v of %d", one.Root(), one.Size(), all.Root(), all.Size())
	}
}

func TestEvaluateDoesNotAllocate(t *testing.T) {
	tree := byteTree(200)
	s := Subtree{0, 200}
	proof, err := tree.Inclusion(123, s)
	if err != nil {
		t.Fatal(err)
	}
	leaf := HashLeaf([]byte{123})
	n := testing.AllocsPerRun(100, func() {
		if got, err := Evaluate(123, s, leaf, proof); err != nil || got != tree.Root() {
			t.Errorf("Evaluate = %v, %v", got, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The hash of a subtree with leaves that are to come is the one that it has when
// they have come, and asking for it changes nothing.
func TestSubtreeWith(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := rapid.IntRange(0, 200).Draw(t, "before"), rapid.IntRange(0, 100).Draw(t, "after")
		var tree, whole Tree
		var fresh []Hash
		for i := range before + after {
			leaf := HashLeaf([]byte{byte(i), byte(i >> 8)})
			whole.Append(leaf)
			if i < before {
				tree.Append(leaf)
			} else {
				fresh = append(fresh, leaf)
			}
		}
		root := tree.Root()
		for start := range uint64(before + after) {
			for end := start + 1; end <= uint64(before+after); end++ {
				s := Subtree{start, end}
				got, err := tree.SubtreeWith(s, fresh)
				want, wantErr := whole.Subtree(s)
				if got != want || (err == nil) != (wantErr == nil) {
					t.Fatalf("%v: %v, %v, want %v, %v", s, got, err, want, wantErr)
				}
			}
		}
		if _, err := tree.SubtreeWith(Subtree{0, uint64(before+after) + 1}, fresh); err == nil {
			t.Fatal("a subtree that ends after the leaves")
		}
		if tree.Size() != uint64(before) || tree.Root() != root {
			t.Fatal("it changed the tree")
		}
	})
}

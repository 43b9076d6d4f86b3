package tlog

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// A world is a log that serves tiles for itself, out of memory.
type world struct {
	tree    merkle.Tree
	entries [][]byte

	mu     sync.Mutex
	reads  map[Tile]int
	change func(Tile, []byte) ([]byte, error) // what a bad server does
}

// newWorld returns a log whose entries depend on its name.
func newWorld(name string, size int) *world {
	w := &world{reads: map[Tile]int{}}
	w.grow(name, size)
	return w
}

func (w *world) grow(name string, n int) {
	for range n {
		e := fmt.Appendf(nil, "%s %d", name, len(w.entries))
		w.entries = append(w.entries, e)
		w.tree.Append(merkle.HashLeaf(e))
	}
}

func (w *world) ReadTile(_ context.Context, t Tile) (b []byte, err error) {
	b, err = w.tile(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads[t]++
	if w.change != nil {
		b, err = w.change(t, b)
	}
	return b, err
}

// tile serves what the tree has, at this size or at an earlier one.
func (w *world) tile(t Tile) ([]byte, error) {
	if full, ok := TileAt(w.tree.Size(), t.Level, t.Index); !ok || t.Width < 1 || t.Width > full.Width {
		return nil, fmt.Errorf("%s: %w", t, fs.ErrNotExist)
	}
	if t.Level != Entries {
		return Make(t, &w.tree)
	}
	var b []byte
	for _, e := range w.entries[t.Index*FullWidth:][:t.Width] {
		var err error
		if b, err = AppendEntry(b, e); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (w *world) root(t testing.TB, size uint64) merkle.Hash {
	t.Helper()
	h, err := w.tree.Subtree(merkle.Subtree{End: size})
	must(t, err)
	return h
}

func (w *world) open(t testing.TB, size uint64, cache Cache) *Tree {
	t.Helper()
	tree, err := Open(t.Context(), w, size, w.root(t, size), cache)
	must(t, err)
	return tree
}

// checkpoint returns the log's checkpoint at a size.
func (w *world) checkpoint(t testing.TB, origin string, size uint64) *Checkpoint {
	return &Checkpoint{Origin: origin, Size: size, Root: w.root(t, size)}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	testCA   = "32473.1"
	testTime = 1_900_000_000
)

func caID(t testing.TB) merkle.TrustAnchorID {
	t.Helper()
	id, err := merkle.ParseTrustAnchorID(testCA)
	must(t, err)
	return id
}

// logOrigin is the name of the CA's first log.
func logOrigin(t testing.TB) string { return merkle.LogID(caID(t), 1).Origin() }

// signerFor returns an Ed25519 key that depends on the name only.
func signerFor(t testing.TB, name string, kind Kind) Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := NewEd25519Signer(name, kind, ed25519.NewKeyFromSeed(seed[:]))
	must(t, err)
	return s
}

// A caSigner is a CA cosigner in memory.
type caSigner struct {
	key     *Key
	private *ecdsa.PrivateKey
}

func newCASigner(t testing.TB, curve elliptic.Curve) *caSigner {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	k, err := NewCosignerKey(caID(t), &private.PublicKey)
	must(t, err)
	return &caSigner{k, private}
}

func (s *caSigner) Key() *Key { return s.key }

// Sign takes the message from the draft's structure, as CA:SK would.
func (s *caSigner) Sign(_ context.Context, st *Statement) ([]byte, error) {
	m, ok := st.Cosigned()
	if !ok {
		return nil, fmt.Errorf("not for a cosigner")
	}
	if s.private.Curve == elliptic.P384() {
		digest := sha512.Sum384(m.Marshal())
		return ecdsa.SignASN1(rand.Reader, s.private, digest[:])
	}
	digest := sha256.Sum256(m.Marshal())
	return ecdsa.SignASN1(rand.Reader, s.private, digest[:])
}

// note signs a checkpoint with all of the signers.
func note(t testing.TB, c *Checkpoint, signers ...Signer) []byte {
	t.Helper()
	text, err := c.Text()
	must(t, err)
	n := &Note{Text: text}
	for _, s := range signers {
		var time uint64
		if s.Key().Kind() != Ed25519 {
			time = testTime
		}
		line, err := Sign(t.Context(), s, c, time)
		must(t, err)
		n.Signatures = append(n.Signatures, line)
	}
	b, err := n.Marshal()
	must(t, err)
	return b
}

func policy(t testing.TB, origin string, signers ...Signer) *Policy {
	t.Helper()
	var keys []*Key
	for _, s := range signers {
		keys = append(keys, s.Key())
	}
	p, err := NewPolicy(origin, keys, nil, 0)
	must(t, err)
	return p
}

// flips calls f with b, of which one byte after the other is changed.
func flips(b []byte, f func(i int, b []byte)) {
	b = bytes.Clone(b)
	for i := range b {
		b[i] ^= 1 << (i % 8)
		f(i, b)
		b[i] ^= 1 << (i % 8)
	}
}

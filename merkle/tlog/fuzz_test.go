package tlog

import (
	"bytes"
	"crypto/elliptic"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// Whatever is parsed marshals to the bytes that it was parsed from.

func FuzzParsePath(f *testing.F) {
	for _, path := range []string{"tile/0/000", "tile/entries/x001/x234/067.p/8", "tile/63/x018/x446/x744/x073/x709/x551/615", "tile/00/0.p/256"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := ParsePath(path); err == nil && tile.Path() != path {
			t.Errorf("%q comes back as %q", path, tile)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a'}, uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, width uint8) {
		entries, err := ParseBundle(b, int(width))
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			if again, err = AppendEntry(again, e); err != nil {
				t.Fatal(err)
			}
		}
		if len(entries) != int(width) || !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}

func FuzzParseNote(f *testing.F) {
	w := newWorld("a", 3)
	f.Add([]byte(exampleNote))
	f.Add(note(f, w.checkpoint(f, logOrigin(f), 3), newCASigner(f, elliptic.P256()), signerFor(f, "log", Ed25519), signerFor(f, "w", CosignatureV1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNote(b)
		if err != nil {
			return
		}
		if again, err := n.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q comes back as %q, %v", b, again, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("example.com/log\n10\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Add(logOrigin(f) + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nx\n")
	cosigner, witness := newCASigner(f, elliptic.P256()).key, signerFor(f, "w", CosignatureV1).Key()
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCheckpoint(text)
		if err != nil {
			return
		}
		if again, err := c.Text(); err != nil || again != text {
			t.Errorf("%q comes back as %q, %v", text, again, err)
		}
		for _, k := range []*Key{cosigner, witness} {
			if s, err := NewStatement(k, c, 1); err == nil && len(s.Message()) == 0 {
				t.Errorf("%s signs nothing", k)
			}
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(exampleKey)
	f.Add(signerFor(f, "w", CosignatureV1).Key().String())
	f.Add(newCASigner(f, elliptic.P256()).key.String())
	f.Fuzz(func(t *testing.T, vkey string) {
		if k, err := ParseKey(vkey); err == nil && k.String() != vkey {
			t.Errorf("%q comes back as %q", vkey, k)
		}
	})
}

func FuzzParseAddRequest(f *testing.F) {
	w := newWorld("a", 20)
	f.Add(w.request(f, 0, 1).Marshal())
	f.Add(w.request(f, 7, 20).Marshal())
	f.Add([]byte("old 00\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseAddRequest(b)
		if err != nil {
			return
		}
		if again := r.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("%q comes back as %q", b, again)
		}
		witness := newWitness(t, NewMemoryRecords())
		s, err := witness.Add(t.Context(), r)
		if err == nil && !witness.Keys()[0].made(s[0]) || err != nil && status(err) == 500 {
			t.Errorf("%q: %+v, %v", b, s, err)
		}
	})
}

// A proof that a reader made up is refused or true.
func FuzzOpen(f *testing.F) {
	w := newWorld("a", 300)
	for tile := range TilesSince(0, 300) {
		b, err := w.tile(tile)
		must(f, err)
		f.Add(b, uint16(tile.Level+1), uint16(3))
	}
	root := w.tree.Root()
	f.Fuzz(func(t *testing.T, b []byte, level, index uint16) {
		bad := &world{reads: map[Tile]int{}, entries: w.entries, tree: w.tree}
		bad.change = func(tile Tile, good []byte) ([]byte, error) {
			if tile.Level == int(level%4)-1 {
				return b, nil
			}
			return good, nil
		}
		tree, err := Open(t.Context(), bad, 300, root, nil)
		if err != nil {
			return
		}
		at := uint64(index) % 300
		if leaf, _, err := tree.Inclusion(t.Context(), at, merkle.Subtree{End: 300}); err == nil && leaf != merkle.HashLeaf(w.entries[at]) {
			t.Errorf("entry %d has the leaf %v", at, leaf)
		}
		for entry, err := range tree.Entries(t.Context(), at, at+1) {
			if err == nil && !bytes.Equal(entry, w.entries[at]) {
				t.Errorf("entry %d is %q", at, entry)
			}
		}
	})
}

func FuzzParseSubtreeRequest(f *testing.F) {
	w, ca := newWorld("a", 20), newCASigner(f, elliptic.P256())
	witness := newIssuanceWitness(f, ca)
	b := cosigned(f, witness, note(f, w.checkpoint(f, logOrigin(f), 20), ca))
	f.Add(w.subtree(f, merkle.Subtree{Start: 8, End: 16}, 20, b).Marshal())
	f.Add(w.subtree(f, merkle.Subtree{End: 20}, 20, b).Marshal())
	f.Add([]byte("subtree 0 01\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseSubtreeRequest(b)
		if err != nil {
			return
		}
		if again := r.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("%q comes back as %q", b, again)
		}
		s, err := witness.SignSubtree(t.Context(), r)
		if err != nil && status(err) == 500 {
			t.Errorf("%q: %v", b, err)
		}
		if err == nil {
			if hash, err := w.tree.Subtree(r.Subtree); err != nil || hash != r.Hash || len(s) != 1 {
				t.Errorf("%q: signed what is not in the log", b)
			}
		}
	})
}

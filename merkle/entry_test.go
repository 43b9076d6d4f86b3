package merkle

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
)

func TestEntry(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	f := ca.fields(t)
	entry, err := MarshalEntry(f)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	algorithm, _ := keyAlgorithm(f.SPKI)
	if e.KeyHash != sha256.Sum256(f.SPKI) || !bytes.Equal(e.KeyAlgorithm, algorithm) || e.Extensions != nil {
		t.Errorf("entry is %+v", e)
	}
	if bytes.Contains(entry, f.SPKI) {
		t.Error("the key itself is in the entry")
	}
	for n := range entry {
		if _, err := ParseEntry(entry[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("first %d bytes: %v, want ErrMalformed", n, err)
		}
	}
	if _, err := ParseEntry(append(slices.Clone(entry), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("trailing byte: %v, want ErrMalformed", err)
	}
}

func TestNullEntry(t *testing.T) {
	if got, want := NullEntry(), []byte{0, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("NullEntry() = %x, want %x", got, want)
	}
	if e, err := ParseEntry(NullEntry()); err != nil || !e.Null {
		t.Errorf("ParseEntry = %+v, %v", e, err)
	}
	for name, entry := range map[string][]byte{
		"contents":     {0, 0, 0, 0, 0},
		"unknown type": {0, 0, 0, 2},
		"too large":    make([]byte, MaxEntrySize+1),
	} {
		if e, err := ParseEntry(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v, want ErrMalformed", name, e, err)
		}
	}
}

// A log entry with extensions of its own is hashed with them, and relying
// parties do not mind them ("Extensibility").
func TestLogExtensions(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	f := ca.fields(t)
	plain, err := MarshalEntry(f)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEntry(plain)
	if err != nil {
		t.Fatal(err)
	}
	e.LogExtensions = []byte{0, 7, 0, 2, 'h', 'i'}
	leaf := HashLeaf(e.Marshal())
	m := CosignedMessage{Cosigner: ca.ID, Log: LogID(ca.ID, 1), Subtree: Subtree{0, 1}, Hash: leaf}
	c := ca.certificate(t, f, 1<<48, Proof{
		LogExtensions: e.LogExtensions,
		Subtree:       m.Subtree,
		Signatures:    []SubtreeSignature{{ca.ID, ca.sign(t, m.Marshal())}},
	})
	if c.EntryHash() != leaf {
		t.Error("EntryHash leaves the log entry extensions out")
	}
	if err := ca.Verify(c, testNow); err != nil {
		t.Error(err)
	}
}

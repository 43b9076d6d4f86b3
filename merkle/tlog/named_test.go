package tlog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

const testType = "example.com/test-signature/v1"

// testMessage speaks about logs whose origin begins with "own/".
func testMessage(c *Checkpoint, time uint64) []byte {
	if !strings.HasPrefix(c.Origin, "own/") || len(c.Extensions) > 0 {
		return nil
	}
	return fmt.Appendf(nil, "test\x00%d %s %d %x", time, c.Origin, c.Size, c.Root)
}

// newNamedSigner returns a key whose signatures are of a type of its own.
func newNamedSigner(t testing.TB, name string, curve elliptic.Curve) *ecdsaSigner {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	key, err := NewNamedKey(name, testType, &private.PublicKey, testMessage)
	must(t, err)
	s, err := NewECDSASigner(key, private)
	must(t, err)
	return s.(*ecdsaSigner)
}

// A log that signs with a key of its own type is witnessed and followed as
// others are.
func TestNamedKey(t *testing.T) {
	const origin = "own/log"
	log := newWorld("a", 100)
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		signer := newNamedSigner(t, origin, curve)
		p := policy(t, origin, signer)
		w, err := NewWitness(WitnessConfig{Signers: []Signer{signerFor(t, "witness.example", CosignatureV1)}, Logs: []*Policy{p}, Records: NewMemoryRecords(), Now: testNow})
		must(t, err)
		var last uint64
		for _, size := range []uint64{1, 64, 100} {
			c := log.checkpoint(t, origin, size)
			proof, err := log.tree.Consistency(merkle.Subtree{End: last}, size)
			if last > 0 {
				must(t, err)
			} else {
				proof = nil
			}
			_, err = w.Add(t.Context(), &AddRequest{Old: last, Proof: proof, Checkpoint: note(t, c, signer)})
			must(t, err)
			last = size
		}
		f, err := NewFollower(p, nil, nil)
		must(t, err)
		tree, err := f.Advance(t.Context(), log, note(t, log.checkpoint(t, origin, 100), signer))
		if err != nil || tree.Size() != 100 || f.Last().Latest != testTime {
			t.Errorf("%v, %v", tree, err)
		}

		// The same key in another type is another key, with another ID.
		other, err := NewNamedKey(origin, testType+"1", &signer.private.PublicKey, testMessage)
		must(t, err)
		if other.ID() == signer.key.ID() {
			t.Errorf("two types have the ID %08x", other.ID())
		}
		if _, err := policy(t, origin, &ecdsaSigner{other, signer.private}).Open(note(t, log.checkpoint(t, origin, 100), signer)); !errors.Is(err, ErrNoSignature) {
			t.Error(err)
		}
		if _, err := NewPolicy(origin, []*Key{signer.key}, []*Key{other}, 1); !errors.Is(err, ErrMalformed) {
			t.Errorf("one key as the log and as its witness: %v", err)
		}
		if k, err := ParseKey(signer.key.String()); !errors.Is(err, ErrMalformed) {
			t.Errorf("parsed to %v, %v", k, err)
		}
	}
}

func TestNamedKeyRefuses(t *testing.T) {
	signer := newNamedSigner(t, "own/log", elliptic.P256())
	public := &signer.private.PublicKey
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	for what, make := range map[string]func() (*Key, error){
		"no key":           func() (*Key, error) { return NewNamedKey("a", testType, nil, testMessage) },
		"another curve":    func() (*Key, error) { return NewNamedKey("a", testType, &p224.PublicKey, testMessage) },
		"no message":       func() (*Key, error) { return NewNamedKey("a", testType, public, nil) },
		"no name":          func() (*Key, error) { return NewNamedKey("", testType, public, testMessage) },
		"no type":          func() (*Key, error) { return NewNamedKey("a", "", public, testMessage) },
		"a type with plus": func() (*Key, error) { return NewNamedKey("a", "a+b", public, testMessage) },
		"another's type":   func() (*Key, error) { return NewNamedKey("a", cosignerType, public, testMessage) },
	} {
		if k, err := make(); !errors.Is(err, ErrMalformed) || k != nil {
			t.Errorf("a key with %s: %v", what, err)
		}
	}
	for what, c := range map[string]*Checkpoint{
		"another log's": {Origin: "other", Size: 1},
		"with a line":   {Origin: "own/log", Extensions: []string{"x"}},
	} {
		if _, err := Sign(t.Context(), signer, c, testTime); !errors.Is(err, ErrMalformed) {
			t.Errorf("a checkpoint %s: %v", what, err)
		}
		line, err := Sign(t.Context(), signer, &Checkpoint{Origin: "own/log", Size: 1}, testTime)
		must(t, err)
		if _, err := signer.key.Verify(c, line); !errors.Is(err, ErrSignature) {
			t.Errorf("a checkpoint %s verifies: %v", what, err)
		}
	}
	// A message that changes is nobody's.
	if _, err := NewStatement(signer.key, &Checkpoint{Origin: "own/log"}, 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("no time: %v", err)
	}
}

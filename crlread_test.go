package chancery

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// zeros has no end, and counts what is read of it.
type zeros struct{ n int64 }

func (z *zeros) Read(b []byte) (int, error) {
	clear(b)
	z.n += int64(len(b))
	return len(b), nil
}

// Full lists and deltas are read as they are, also if they come byte by byte,
// and not a byte more.
func TestReadCRL(t *testing.T) {
	w := revocations(t)
	step, err := w.crls[2].Delta(w.crls[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string][]byte{"a full list": w.crl().Marshal(), "a delta": step} {
		r := bytes.NewReader(append(bytes.Clone(list), "the next thing"...))
		got, err := ReadCRL(iotest.OneByteReader(r), int64(len(list)), w.pointer(), 3)
		if err != nil || !bytes.Equal(got, list) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "the next thing" {
			t.Errorf("%s: %q is left", name, rest)
		}
		for n := range len(list) {
			if _, err := ReadCRL(bytes.NewReader(list[:n]), int64(len(list)), w.pointer(), 3); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s, %d of %d bytes: %v", name, n, len(list), err)
			}
		}
	}
}

// Whoever has no list that CA:SK signed makes nobody read more than what a head
// may have.
func TestReadCRLStopsAtTheHead(t *testing.T) {
	w := revocations(t)
	other := newNamedWorld(t, "other ")
	other.issue(other.subject("edge-1"))
	other.publish()
	good := w.crl().Marshal()
	unsigned, err := RestoreCRL(good)
	if err != nil {
		t.Fatal(err)
	}
	unsigned.Sign(nil)
	floor := *w.pointer()
	floor.MinCRL = 4
	for _, test := range []struct {
		name    string
		begins  []byte
		pointer *Pointer
		least   uint64
		want    error
	}{
		{"nothing", nil, w.pointer(), 0, ErrMalformed},
		{"another artefact", w.pointer().Marshal(), w.pointer(), 0, ErrMalformed},
		{"another fleet's list", other.crl().Marshal(), w.pointer(), 0, ErrSignature},
		{"a head without its signature", unsigned.Marshal(), w.pointer(), 0, ErrSigLength},
		{"a list that is not newer", good, w.pointer(), 4, ErrCRLRollback},
		{"a list below the floor", good, &floor, 0, ErrCRLFloor},
	} {
		rest := &zeros{}
		_, err := ReadCRL(io.MultiReader(bytes.NewReader(test.begins), rest), maxCRL, test.pointer, test.least)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if read := rest.n + int64(len(test.begins)); read > 128<<10 {
			t.Errorf("%s: %d bytes were read", test.name, read)
		}
	}
	for _, size := range []int64{-1, maxCRL + 1, 1<<32 - 1} {
		rest := &zeros{}
		if _, err := ReadCRL(rest, size, w.pointer(), 0); !errors.Is(err, ErrMalformed) || rest.n > 0 {
			t.Errorf("%d bytes: %v, %d were read", size, err, rest.n)
		}
	}
}

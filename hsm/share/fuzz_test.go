package share

import (
	"bytes"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery"
)

// FuzzParse takes its input for a text, and for the bytes of a share that
// lack their checksum: a fuzzer does not guess checksums. Whatever is accepted
// is written as the same again.
func FuzzParse(f *testing.F) {
	for _, s := range newSet(f, "user PIN of token chancery", 2, 3) {
		raw := s.Marshal()
		f.Add(s.Reveal())
		f.Add(raw[:len(raw)-checksumSize])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		if s, ok := read(t, Parse, b); ok {
			flat := bytes.Join(bytes.FieldsFunc(b, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }), nil)
			if got := bytes.ReplaceAll(s.Reveal(), []byte("\n"), nil); !bytes.Equal(got, flat) {
				t.Fatalf("%s\nis written as\n%s", flat, got)
			}
		}
		raw := reseal(b)
		s, ok := read(t, Unmarshal, raw)
		if _, text := read(t, Parse, asText(raw)); ok != text && len(raw) <= maxBinary {
			t.Fatalf("as bytes %v, as text %v", ok, text)
		}
		if ok {
			if got := s.Marshal(); !bytes.Equal(got, raw) {
				t.Fatalf("%x\nis written as\n%x", raw, got)
			}
			// Nobody but Split makes a set that can be combined.
			if got, err := Combine([]Share{s, s}); err == nil {
				t.Fatalf("%v and itself give %x", s, got)
			}
		}
		if !bytes.Equal(b, kept) {
			t.Fatal("the parser writes to its input")
		}
	})
}

func read(t *testing.T, parse func([]byte) (Share, error), b []byte) (Share, bool) {
	s, err := parse(b)
	if err != nil && !errors.Is(err, chancery.ErrMalformed) {
		t.Fatalf("untyped error: %v", err)
	}
	return s, err == nil
}

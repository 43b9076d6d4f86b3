package share

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
)

// reseal puts a checksum that fits under what somebody wrote.
func reseal(body []byte) []byte { return append(slices.Clip(body), checksum(body)...) }

// asText writes bytes as [Share.Reveal] writes those of a share.
func asText(raw []byte) []byte { return []byte(textPrefix + encoding.EncodeToString(raw)) }

func TestReveal(t *testing.T) {
	s := newSet(t, "user PIN of token chancery", 2, 3)[2]
	text := s.Reveal()
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, line := range lines {
		if len(line) > 64 || i < len(lines)-1 && len(line) != 64 || line == "" {
			t.Errorf("line %d has %d characters", i+1, len(line))
		}
	}
	if !strings.HasPrefix(lines[0], "chshare1-") || text[len(text)-1] != '\n' {
		t.Errorf("%s", text)
	}
	flat := strings.Join(lines, "")
	for name, text := range map[string]string{
		"as written":       string(text),
		"one line":         flat,
		"no last line end": strings.TrimSuffix(string(text), "\n"),
		"lines of Windows": strings.ReplaceAll(string(text), "\n", "\r\n"),
		"indented":         "\t" + strings.ReplaceAll(string(text), "\n", "\n    ") + "\n\n",
		"read out":         strings.Join(strings.Split(flat, ""), " "),
	} {
		kept := []byte(text)
		got, err := Parse(kept)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Reveal(), s.Reveal()) || !bytes.Equal(got.Marshal(), s.Marshal()) {
			t.Errorf("%s: reads as %v", name, got)
		}
		if string(kept) != text {
			t.Errorf("%s: Parse writes to its input", name)
		}
		// Nor does the share keep it.
		if clear(kept); !bytes.Equal(got.Reveal(), s.Reveal()) {
			t.Errorf("%s: the share changes with the input", name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	s := newSet(t, "user PIN of token chancery", 2, 3)[1]
	text := string(s.Reveal())
	flat := strings.ReplaceAll(text, "\n", "")
	lines := strings.SplitAfter(text, "\n")
	another := string(newSet(t, "a", 2, 3)[0].Reveal())
	for _, c := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"nothing", "", &FormatError{}, `share: it does not begin with "chshare1-"`},
		{"spaces", " \n\t", &FormatError{}, `share: it does not begin with "chshare1-"`},
		{"no prefix", flat[9:], &FormatError{}, "does not begin"},
		{"another version", "chshare2-" + flat[9:], &FormatError{}, "does not begin"},
		{"a token", "chtok1-" + flat[9:], &FormatError{}, "does not begin"},
		{"prefix in capitals", "CHSHARE1-" + flat[9:], &FormatError{}, "does not begin"},
		{"a heading", "share 2 of 3\n" + text, &FormatError{}, "does not begin"},
		{"two shares", text + another, &FormatError{}, "share: more than one in one text"},
		{"itself twice", text + text, &FormatError{}, "share: more than one in one text"},
		{"endless", text + strings.Repeat(" ", maxText), &FormatError{}, "want at most 8192"},

		{"prefix only", textPrefix, &TypoError{}, "the checksum does not fit"},
		{"capitals", textPrefix + strings.ToUpper(flat[9:]), &TypoError{}, "share: line 1, column 10: not a character of a share"},
		{"a digit for a letter", lines[0] + lines[1][:5] + "1" + lines[1][6:] + strings.Join(lines[2:], ""), &TypoError{}, "share: line 2, column 6: not"},
		{"a digit for a letter, indented", "\n  " + lines[0][:20] + "0" + text[21:], &TypoError{}, "share: line 2, column 23: not"},
		{"not ASCII", lines[0] + "ı" + lines[1] + strings.Join(lines[2:], ""), &TypoError{}, "share: line 2, column 1: not"},
		{"no-break space", flat[:20] + "\u00a0" + flat[20:], &TypoError{}, "share: line 1, column 21: not"},
		{"NUL", flat + "\x00", &TypoError{}, "not a character"},
		{"padding", flat + "=", &TypoError{}, "not a character"},
		{"a line missing", lines[0] + strings.Join(lines[2:], ""), &TypoError{}, "the checksum does not fit"},
		{"the last line missing", strings.Join(lines[:len(lines)-2], ""), &TypoError{}, "the checksum does not fit"},
		{"a line twice", lines[0] + lines[1] + strings.Join(lines[1:], ""), &TypoError{}, "the checksum does not fit"},
		{"lines swapped", lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""), &TypoError{}, "the checksum does not fit"},
		{"one more", flat + "a", &TypoError{}, "the checksum does not fit"},
		{"the body twice", flat + flat[9:], &TypoError{}, "the checksum does not fit"},
	} {
		got, err := Parse([]byte(c.text))
		refused(t, c.name, err, c.want)
		if !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("%s: %v is not ErrMalformed", c.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
		if got != (Share{}) {
			t.Errorf("%s: a share beside the error", c.name)
		}
	}

	// Any one character, and any cut.
	for i := range flat {
		if _, err := Parse([]byte(flat[:i])); !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("the first %d characters: %v", i, err)
		}
		if i > 0 && flat[i] != flat[i-1] {
			if _, err := Parse([]byte(flat[:i-1] + flat[i:i+1] + flat[i-1:i] + flat[i+1:])); !errors.Is(err, chancery.ErrMalformed) {
				t.Errorf("characters %d and %d swapped: %v", i-1, i, err)
			}
		}
		for _, c := range []byte(alphabet) {
			if b := []byte(flat); b[i] != c {
				b[i] = c
				if _, err := Parse(b); !errors.Is(err, chancery.ErrMalformed) {
					t.Errorf("character %d is %q: %v", i, c, err)
				}
			}
		}
	}
}

// The last character has bits that carry nothing. They are zero.
func TestParseRefusesSecondEncoding(t *testing.T) {
	for purpose := "a"; ; purpose += "a" {
		s := newSet(t, purpose, 2, 2)[0]
		if len(s.Marshal())%5 == 0 {
			continue // all bits carry something
		}
		flat := bytes.ReplaceAll(s.Reveal(), []byte("\n"), nil)
		last := bytes.IndexByte([]byte(alphabet), flat[len(flat)-1])
		flat[len(flat)-1] = alphabet[last|1]
		raw, err := encoding.DecodeString(string(flat[len(textPrefix):]))
		if err != nil || !bytes.Equal(raw, s.Marshal()) {
			t.Fatalf("the text does not decode to the same bytes: %v", err)
		}
		_, err = Parse(flat)
		refused(t, "second encoding", err, &TypoError{})
		return
	}
}

// What somebody wrote by program, with a checksum that fits.
func TestUnmarshalRefuses(t *testing.T) {
	s := newSet(t, "a", 2, 3)[1]
	raw := s.Marshal()
	body := raw[:len(raw)-checksumSize]
	if _, err := Unmarshal(reseal(body)); err != nil {
		t.Fatal(err)
	}
	put := func(at int, b ...byte) []byte {
		changed := bytes.Clone(body)
		copy(changed[at:], b)
		return changed
	}
	// version, purpose length, purpose, set, k, n, commitments, sealed length
	const atK, atPoints = 19, 21
	const atSealed = atPoints + 2*pointSize
	atIndex := len(body) - scalarSize - 1
	order := curve.NewScalar()
	order.SetUint64(1)
	order.Neg(order)
	top := mustMarshal(t, order) // the order less one
	top[31]++

	for _, c := range []struct {
		name string
		body []byte
		says string
	}{
		{"nothing", nil, "version 0, want 1"},
		{"version 0", put(0, 0), "version 0, want 1"},
		{"version 2", put(0, 2), "version 2, want 1"},
		{"no purpose", append([]byte{1, 0}, body[3:]...), "purpose"},
		{"purpose to the end", put(1, 255), "purpose"},
		{"purpose of a line end", put(2, '\n'), "purpose"},
		{"purpose of half a rune", put(2, 0xc3), "purpose"},
		{"any one", put(atK, 1), "any 1 of 3 shares"},
		{"more than there are", put(atK, 4), "any 4 of 3 shares"},
		{"too many custodians", put(atK+1, 33), "any 2 of 33 shares"},
		{"another k than commitments", put(atK, 3), "share: "},
		{"the point at infinity", put(atPoints, make([]byte, pointSize)...), "not a point"},
		{"a point off the curve", put(atPoints, append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)...), "not a point"},
		{"an uncompressed point", put(atPoints, 4), "not a point"},
		{"nothing sealed", slices.Concat(body[:atSealed], []byte{0, sealOverhead}, make([]byte, sealOverhead), body[atIndex:]), "28 bytes of sealed secret, want 29 to 284"},
		{"too much sealed", slices.Concat(body[:atSealed], []byte{1, 29}, make([]byte, 285), body[atIndex:]), "285 bytes of sealed secret"},
		{"sealed to the end", put(atSealed, 0xff), "does not fit"},
		{"index 0", put(atIndex, 0), "share 0 of 3"},
		{"index beyond n", put(atIndex, 4), "share 4 of 3"},
		{"value 0", put(atIndex+1, make([]byte, 32)...), "not a scalar"},
		{"value of the order", put(atIndex+1, top...), "not a scalar"},
		{"value beyond the order", put(atIndex+1, bytes.Repeat([]byte{0xff}, 32)...), "not a scalar"},
		{"one byte more", append(bytes.Clone(body), 0), "does not fit"},
		{"one byte less", body[:len(body)-1], "does not fit"},
		{"as long as memory", make([]byte, 1<<20), "want at most"},
	} {
		got, err := Unmarshal(reseal(c.body))
		refused(t, c.name, err, &FormatError{})
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
		if got != (Share{}) {
			t.Errorf("%s: a share beside the error", c.name)
		}
		if len(c.body) < maxBinary {
			_, text := Parse(asText(reseal(c.body)))
			refused(t, c.name+", as text", text, &FormatError{})
		}
	}
	for i := range body {
		if _, err := Unmarshal(reseal(body[:i])); !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
		if _, err := Unmarshal(raw[:i]); !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("the first %d bytes without a checksum: %v", i, err)
		}
	}
}

func mustMarshal(t *testing.T, s interface{ MarshalBinary() ([]byte, error) }) []byte {
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

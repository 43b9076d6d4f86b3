package docscheck

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// A definition is a type of the presentation language (RFC 8446 section 3),
// as the document's tls blocks write it: another name for something with a
// length, or a structure.
type definition struct {
	alias  *field
	fields []field
}

// A field is one line of a structure.
type field struct {
	of, name string
	count    int    // -1: one value; else so many
	vector   bool   // a vector of low to high bytes
	low      uint64 // in bytes
	high     uint64
	rest     bool   // up to the end of the input
	one      bool   // a vector of exactly one value
	fixed    []byte // always this value, nil for any
}

type language map[string]definition

var (
	comment   = regexp.MustCompile(`/\*.*?\*/`)
	statement = regexp.MustCompile(`^(\w+) (\w+)(\[\.\.\]|\[\d+\]|<\d[\d^-]*\.\.\d[\d^-]*>)?(?: = (.+))?;$`)
	bounds    = regexp.MustCompile(`^<([\d^-]+)\.\.([\d^-]+)>$`)
	structEnd = regexp.MustCompile(`^\} (\w+);$`)
)

func parseLanguage(t *testing.T, d document) language {
	t.Helper()
	l := language{}
	for _, b := range d.blocks {
		if b.language != "tls" {
			continue
		}
		var fields []field
		inside := false
		for i, raw := range b.lines {
			line := strings.TrimSpace(comment.ReplaceAllString(raw, ""))
			end := structEnd.FindStringSubmatch(line)
			switch {
			case line == "":
			case line == "struct {" && !inside:
				fields, inside = nil, true
			case end != nil && inside:
				l.define(t, end[1], definition{fields: fields})
				inside = false
			default:
				f, err := parseField(line)
				if err != nil {
					t.Fatalf("line %d: %v", b.line+i, err)
				}
				f.one = strings.Contains(raw, "/* one */")
				if inside {
					fields = append(fields, f)
				} else {
					l.define(t, f.name, definition{alias: &f})
				}
			}
		}
		if inside {
			t.Fatalf("line %d: structure is not closed", b.line)
		}
	}
	return l
}

func (l language) define(t *testing.T, name string, d definition) {
	t.Helper()
	if _, twice := l[name]; twice {
		t.Fatalf("%s is defined twice", name)
	}
	l[name] = d
}

func parseField(line string) (field, error) {
	m := statement.FindStringSubmatch(line)
	if m == nil {
		return field{}, fmt.Errorf("not understood: %q", line)
	}
	f := field{of: m[1], name: m[2], count: -1}
	switch shape := m[3]; {
	case shape == "[..]":
		f.rest = true
	case strings.HasPrefix(shape, "["):
		if f.of != "opaque" {
			return field{}, fmt.Errorf("a fixed count of something else than opaque: %q", line)
		}
		f.count, _ = strconv.Atoi(strings.Trim(shape, "[]"))
	case shape != "":
		b := bounds.FindStringSubmatch(shape)
		f.vector, f.low, f.high = true, bound(b[1]), bound(b[2])
	}
	if m[4] == "" {
		return f, nil
	}
	if text, err := strconv.Unquote(m[4]); err == nil {
		f.fixed = []byte(text)
		return f, nil
	}
	n, err := strconv.ParseUint(m[4], 10, 8)
	f.fixed = []byte{byte(n)}
	return f, err
}

// bound reads 255 and 2^16-1.
func bound(s string) uint64 {
	power, less, _ := strings.Cut(s, "-")
	base, exponent, isPower := strings.Cut(power, "^")
	n, _ := strconv.ParseUint(base, 10, 64)
	if isPower {
		e, _ := strconv.ParseUint(exponent, 10, 6)
		n = 1 << e
	}
	minus, _ := strconv.ParseUint("0"+less, 10, 64)
	return n - minus
}

// A reading is where the parts of a decoded value are, by path, as in
// "head.body.logs.0.size".
type reading map[string][]byte

// decode reads one value of the type, which must be all of b.
func (l language) decode(name string, b []byte) (reading, error) {
	r := reading{}
	s := cryptobyte.String(b)
	if err := l.value(name, "", &s, r); err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%s: %d bytes left over", name, len(s))
	}
	return r, nil
}

var integers = map[string]int{"opaque": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint48": 6, "uint64": 8}

func (l language) value(name, path string, s *cryptobyte.String, r reading) error {
	d, isDefined := l[name]
	if d.alias != nil {
		return l.field(*d.alias, path, s, r)
	}
	start := *s
	defer func() { r[path] = start[:len(start)-len(*s)] }()
	if size, ok := integers[name]; ok {
		if !s.Skip(size) {
			return fmt.Errorf("%s: cut off", path)
		}
		return nil
	}
	if !isDefined {
		return fmt.Errorf("%s: %s is not defined", path, name)
	}
	for _, f := range d.fields {
		if err := l.field(f, strings.TrimPrefix(path+"."+f.name, "."), s, r); err != nil {
			return err
		}
	}
	return nil
}

func (l language) field(f field, path string, s *cryptobyte.String, r reading) error {
	start := *s
	var content []byte
	switch {
	case f.vector:
		var body []byte
		if width := (bits.Len64(f.high) + 7) / 8; !readVector(s, width, &body) {
			return fmt.Errorf("%s: cut off", path)
		}
		if n := uint64(len(body)); n < f.low || n > f.high {
			return fmt.Errorf("%s: %d bytes, want %d to %d", path, n, f.low, f.high)
		}
		content = body
		n, err := l.items(f, path, body, r)
		if err != nil {
			return err
		}
		if f.one && n != 1 {
			return fmt.Errorf("%s: %d values, want one", path, n)
		}
	case f.rest:
		content = start
		if _, err := l.items(f, path, *s, r); err != nil {
			return err
		}
		s.Skip(len(*s))
	case f.count >= 0: // only opaque has fixed counts
		if !s.ReadBytes(&content, f.count) {
			return fmt.Errorf("%s: cut off", path)
		}
	default:
		if err := l.value(f.of, path, s, r); err != nil {
			return err
		}
		content = r[path]
	}
	if f.fixed != nil && string(f.fixed) != string(content) {
		return fmt.Errorf("%s: %x, want %x", path, content, f.fixed)
	}
	r[path] = content
	return nil
}

// items reads values up to the end of b.
func (l language) items(f field, path string, b []byte, r reading) (n int, err error) {
	s := cryptobyte.String(b)
	if f.of == "opaque" {
		return len(b), nil
	}
	for ; !s.Empty(); n++ {
		at := path
		if !f.one {
			at = path + "." + strconv.Itoa(n)
		}
		if err := l.value(f.of, at, &s, r); err != nil {
			return n, err
		}
	}
	return n, nil
}

func readVector(s *cryptobyte.String, width int, out *[]byte) bool {
	var prefix []byte
	if !s.ReadBytes(&prefix, width) {
		return false
	}
	n := uint64(0)
	for _, b := range prefix {
		n = n<<8 | uint64(b)
	}
	return n <= uint64(len(*s)) && s.ReadBytes(out, int(n))
}

// Vectors are the project's known answers.
type vectors struct {
	Inputs, Outputs map[string]string
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v vectors) bytes(t *testing.T, name string) []byte {
	t.Helper()
	text, ok := v.Outputs[name]
	if !ok {
		text = v.Inputs[name]
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) == 0 {
		t.Fatalf("vector %q: %d bytes, %v", name, len(b), err)
	}
	return b
}

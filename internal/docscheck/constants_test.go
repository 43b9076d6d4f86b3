package docscheck

import (
	"fmt"
	"go/constant"
	"go/token"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Every row of a table with the columns "value" and "code" says what the code
// says.
func TestConstants(t *testing.T) {
	all := parseSources(t)
	doc := read(t, protocol)
	checked := 0
	for _, tab := range doc.tables {
		value, at := tab.column("value"), tab.column("code")
		if value < 0 || at < 0 {
			continue
		}
		for _, row := range tab.rows {
			checked++
			name, ok := code(row[at])
			if !ok {
				t.Errorf("%q: its code cell is %q", row[0], row[at])
				continue
			}
			if err := check(all, name, row[value]); err != nil {
				t.Errorf("%q: %s: %v", row[0], name, err)
			}
		}
	}
	if checked < 100 {
		t.Errorf("%d constants checked; are the tables still there?", checked)
	}
}

var oidForm = regexp.MustCompile(`^\d+(\.\d+){4,}$`)

// check compares a value with what name, a constant, an object identifier or
// a function, has in the code.
func check(all map[string]source, name, value string) error {
	pkg, ident, _ := strings.Cut(name, ".")
	s, ok := all[pkg]
	if !ok {
		return fmt.Errorf("unknown package")
	}
	if oidForm.MatchString(value) {
		got, err := s.oid(ident)
		if err != nil {
			return err
		}
		if got != value {
			return fmt.Errorf("is %s, documented %s", got, value)
		}
		return nil
	}
	want, err := parseValue(value)
	if err != nil {
		return err
	}
	if function, ok := strings.CutSuffix(ident, "()"); ok {
		if want.Kind() != constant.String || !s.contains(function, constant.StringVal(want)) {
			return fmt.Errorf("the function does not contain %s", want)
		}
		return nil
	}
	got, err := s.value(ident)
	if err != nil {
		return err
	}
	if got.Kind() != want.Kind() || !constant.Compare(got, token.EQL, want) {
		return fmt.Errorf("is %s, documented %s", got, value)
	}
	return nil
}

var scale = map[string]int64{
	"KiB": 1 << 10, "MiB": 1 << 20,
	"s": int64(time.Second), "min": int64(time.Minute), "h": int64(time.Hour),
}

// parseValue reads a string between backticks, a number, a power, or a number
// with a unit.
func parseValue(cell string) (constant.Value, error) {
	if text, ok := code(cell); ok {
		s, err := strconv.Unquote(`"` + text + `"`)
		return constant.MakeString(s), err
	}
	number, unit, hasUnit := strings.Cut(cell, " ")
	n, ok := new(big.Int), false
	if base, exponent, power := strings.Cut(number, "^"); power {
		e, err := strconv.ParseInt(exponent, 10, 64)
		_, ok = n.SetString(base, 10)
		ok = ok && err == nil
		n.Exp(n, big.NewInt(e), nil)
	} else {
		_, ok = n.SetString(number, 0)
	}
	if hasUnit {
		factor, known := scale[unit]
		ok = ok && known
		n.Mul(n, big.NewInt(factor))
	}
	if !ok {
		return nil, fmt.Errorf("value %q is no number, string or object identifier", cell)
	}
	return constant.Make(n), nil
}

// What the code has of these is in the document too.
func TestConstantsAreComplete(t *testing.T) {
	all := parseSources(t)
	doc := read(t, protocol)
	documented := doc.spans()
	for pkg, prefixes := range map[string][]string{
		"chancery": {"label", "kind", "max", "set", "oid", "Check", "CAKey", "Assurance", "Verdict", "Default", "Max"},
		"merkle":   {"Max"},
		"tpm":      {"Link", "attributesAK", "attributesSealed", "attributesUnsealed"},
		"mesh":     {"greet", "Default"},
		"gossip":   {"max", "ALPN"},
	} {
		found := 0
		visit := func(name string) {
			for _, p := range prefixes {
				rest, ok := strings.CutPrefix(name, p)
				if !ok || rest != "" && strings.ToLower(rest[:1]) == rest[:1] {
					continue
				}
				found++
				if !slices.Contains(documented, pkg+"."+name) {
					t.Errorf("%s.%s is not in the document", pkg, name)
				}
			}
		}
		for name := range all[pkg].constants {
			visit(name)
		}
		for name := range all[pkg].variables {
			if oid, err := all[pkg].oid(name); err == nil && strings.Contains(oid, ".32473.") {
				visit(name)
			}
		}
		if found == 0 {
			t.Errorf("package %s has none of %q", pkg, prefixes)
		}
	}
}

var errorName = regexp.MustCompile(`^(?:(\w+)\.)?((?:Err[A-Z]|Refused|Evidence)\w*)$`)

// Errors and other names of packages that the document mentions exist, and it
// mentions every error of the root package.
func TestErrors(t *testing.T) {
	all := parseSources(t)
	doc := read(t, protocol)
	mentioned := map[string]bool{}
	for _, span := range doc.spans() {
		if m := errorName.FindStringSubmatch(span); m != nil {
			pkg := m[1]
			if pkg == "" {
				pkg = "chancery"
			}
			mentioned[pkg+"."+m[2]] = true
			if !all[pkg].declares(m[2]) {
				t.Errorf("there is no %s.%s", pkg, m[2])
			}
			continue
		}
		pkg, name, ok := strings.Cut(span, ".")
		if s, known := all[pkg]; ok && known && !s.declares(strings.TrimSuffix(name, "()")) {
			t.Errorf("there is no %s", span)
		}
	}
	for name := range all["chancery"].variables {
		if strings.HasPrefix(name, "Err") && !mentioned["chancery."+name] {
			t.Errorf("%s is not in the document", name)
		}
	}
}

var citation = regexp.MustCompile(`docs/protocol\.md\s+(?://\s*)?sections?\s+(\d+)`)

// Sections that comments in the code cite exist.
func TestCitations(t *testing.T) {
	sections := map[string]bool{}
	doc := read(t, protocol)
	for _, title := range doc.headings() {
		number, _, ok := strings.Cut(title, ". ")
		sections[number] = ok
	}
	cited := 0
	goFiles(t, func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range citation.FindAllSubmatch(b, -1) {
			cited++
			if !sections[string(m[1])] {
				t.Errorf("%s cites section %s, which does not exist", path, m[1])
			}
		}
	})
	if cited < 10 {
		t.Errorf("%d citations found", cited)
	}
}

// Every string that separates one use of a hash, MAC or signature from the
// others is in the document.
func TestDomains(t *testing.T) {
	all := parseSources(t)
	doc := read(t, protocol)
	text := strings.Join(doc.spans(), "\n")
	found := 0
	see := func(pkg, name, literal string) {
		literal = strings.Trim(literal, "\x00")
		if strings.HasPrefix(literal, "chancery-v1 ") || strings.Contains(literal, "-chancery-v1-") {
			found++
			if !strings.Contains(text, literal) {
				t.Errorf("%s.%s: %q is not in the document", pkg, name, literal)
			}
		}
	}
	for pkg, s := range all {
		for name, f := range s.functions {
			for _, literal := range literals(f) {
				see(pkg, name, literal)
			}
		}
		for name := range s.constants {
			if v, err := s.value(name); err == nil && v.Kind() == constant.String {
				see(pkg, name, constant.StringVal(v))
			}
		}
	}
	if found < 10 {
		t.Errorf("%d found", found)
	}
}

package authority_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/chancery-pki/chancery/appliance/authority"
)

var digits = strings.Repeat("0123456789abcdef", 4)

func TestParseSelector(t *testing.T) {
	for _, test := range []struct {
		scope authority.Scope
		in    string
		want  string // its one form; empty: refused
	}{
		{authority.Nodes, "edge-1", "edge-1"},
		{authority.Nodes, "node:" + strings.ToUpper(digits), "node:" + digits},
		{authority.Nodes, "ek:" + digits, "ek:" + digits},
		{authority.Nodes, "ek:sha256:" + digits, "ek:" + digits},
		{authority.Nodes, "Edge-1", ""},
		{authority.Nodes, "edge 1", ""},
		{authority.Nodes, "edge-*", ""},
		{authority.Nodes, "", ""},
		{authority.Nodes, "node:" + digits[1:], ""},
		{authority.Nodes, "node:" + digits + "00", ""},
		{authority.Nodes, "node:sha256:" + digits[:57], ""},
		{authority.Nodes, "ek:" + digits[:63] + "g", ""},
		{authority.Nodes, "chip:" + digits, ""},
		{authority.Nodes, "1:42", ""},
		{authority.Nodes, "1:0-1:7", ""},
		{authority.Certificates, "1:42", "1:42"},
		{authority.Certificates, "281474976710698", "1:42"},
		{authority.Certificates, "1:100-1:199", "1:100-1:199"},
		{authority.Certificates, "1:7-1:7", "1:7"},
		{authority.Certificates, "1:0-1:281474976710655", "1:0-1:281474976710655"},
		{authority.Certificates, "1:199-1:100", ""},
		{authority.Certificates, "1:1-2:2", ""},
		{authority.Certificates, "1:1-", ""},
		{authority.Certificates, "-1:1", ""},
		{authority.Certificates, "1:1-1:2-1:3", ""},
		{authority.Certificates, "1:281474976710656", ""},
		{authority.Certificates, "0:1", ""},
		{authority.Certificates, "edge-1", ""},
		{authority.Certificates, "node:" + digits, ""},
	} {
		sel, err := authority.ParseSelector(test.scope, test.in)
		if (err == nil) != (test.want != "") || err == nil && sel.String() != test.want {
			t.Errorf("%s %q is %q, %v; want %q", test.scope, test.in, sel, err, test.want)
		}
		if again, err := authority.ParseSelector(test.scope, test.want); test.want != "" && (err != nil || again != sel) {
			t.Errorf("%q is %+v, and its one form %+v, %v", test.in, sel, again, err)
		}
	}
}

func read(scope authority.Scope, r io.Reader) (lines []uint64, selectors []string, err error) {
	for sel, e := range authority.ReadSelectors(scope, r) {
		if e != nil {
			return lines, selectors, e
		}
		lines, selectors = append(lines, sel.Line), append(selectors, sel.String())
	}
	return lines, selectors, nil
}

// A list is what people have: comments, columns, quotes, another system's line
// ends. Lines are counted as an editor counts them.
func TestReadSelectors(t *testing.T) {
	const list = "\ufeffedge-1\r\n" +
		"# the ones from the fire\n" +
		"\n" +
		"  edge-2  # second rack\n" +
		"edge-3,rack 7,\"with, comma\"\n" +
		"\"edge-4\";x\n" +
		"edge-5\tSN 1\n" +
		"   \t \n" +
		"edge-6"
	for name, in := range map[string]io.Reader{"at once": strings.NewReader(list), "a byte at a time": iotest.OneByteReader(strings.NewReader(list)), "with the last byte an end": iotest.DataErrReader(strings.NewReader(list))} {
		lines, got, err := read(authority.Nodes, in)
		if err != nil || !slices.Equal(got, []string{"edge-1", "edge-2", "edge-3", "edge-4", "edge-5", "edge-6"}) || !slices.Equal(lines, []uint64{1, 4, 5, 6, 7, 9}) {
			t.Errorf("%s: %q in lines %v, %v", name, got, lines, err)
		}
	}
}

// What breaks off in the middle of a line is no shorter name.
func TestReadSelectorsBreaksOff(t *testing.T) {
	in := io.MultiReader(strings.NewReader("edge-1\nedge-1"), iotest.ErrReader(io.ErrUnexpectedEOF))
	lines, got, err := read(authority.Nodes, in)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !slices.Equal(got, []string{"edge-1"}) || !strings.Contains(err.Error(), "after line 1") {
		t.Errorf("%q in lines %v, %v", got, lines, err)
	}
}

func TestReadSelectorsRefuses(t *testing.T) {
	for list, line := range map[string]string{
		"edge-1\nEdge-2\n":                                "line 2: ",
		"edge-1\n\n\n1:42":                                "line 4: ",
		"#\n" + strings.Repeat("x", 1<<17):                "line 2: ",
		"edge-1\n\x00edge-2":                              "line 2: ",
		"edge-1\n\"edge-2\n":                              "line 2: ",
		"edge-1," + strings.Repeat("long ", 1<<15) + "\n": "line 1: ",
	} {
		_, _, err := read(authority.Nodes, strings.NewReader(list))
		wantRefusal(t, list[:8], err, "bad-selector")
		if err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%.20q: %v, want %s", list, err, line)
		}
	}
}

func FuzzReadSelectors(f *testing.F) {
	f.Add("edge-1\n# x\n\"edge-2\",7\nnode:"+digits, false)
	f.Add("1:42\n1:1-1:9,x\r\n", true)
	f.Fuzz(func(t *testing.T, list string, certificates bool) {
		scope := authority.Nodes
		if certificates {
			scope = authority.Certificates
		}
		lines, got, err := read(scope, strings.NewReader(list))
		if !slices.IsSorted(lines) || len(got) > strings.Count(list, "\n")+1 {
			t.Fatalf("%q in lines %v", got, lines)
		}
		// The list in its one form is the same list.
		_, again, err2 := read(scope, strings.NewReader(strings.Join(got, "\n")))
		if err == nil && (err2 != nil || !slices.Equal(got, again)) {
			t.Fatalf("%q, then %q, %v", got, again, err2)
		}
	})
}

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// documents have tables of the summary in them, between markers that say which
// lines these are: "<!-- lines crl-load crl-delta -->" to "<!-- end -->".
// "only" instead of "lines" has just the lines of these ids, and "worse" of all
// those where ours is worse.
var documents = []string{filepath.Join("benchmarks", "README.md"), "README.md", filepath.Join("docs", "performance.md")}

var marked = regexp.MustCompile(`(?s)<!-- (lines|only|worse) ([a-z0-9 .-]+) -->\n.*?<!-- end -->`)

// writeTables writes the tables of all documents anew.
func (s summary) writeTables() error {
	for _, path := range documents {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		out, err := s.tables(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if bytes.Equal(out, b) {
			continue
		}
		if err := os.WriteFile(path, out, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tables returns a document with its tables as they are to be.
func (s summary) tables(document []byte) (out []byte, err error) {
	out = marked.ReplaceAllFunc(document, func(table []byte) []byte {
		m := marked.FindSubmatch(table)
		rows, failed := s.rows(string(m[1]), strings.Fields(string(m[2])))
		if failed != nil {
			err = failed
		}
		return fmt.Appendf(nil, "<!-- %s %s -->\n\n%s\n<!-- end -->", m[1], m[2], rows)
	})
	return out, err
}

// rows is the table of the lines that are called by these names, in the order
// of the names; a name means all whose ids begin with it, unless they are to be
// the only ones.
func (s summary) rows(kind string, names []string) (string, error) {
	var b strings.Builder
	b.WriteString("| | ours | beside | | ratio | target |\n|---|---|---|---|---|---|\n")
	for _, name := range names {
		found := false
		for _, r := range s {
			if r.ID != name && (kind == "only" || !strings.HasPrefix(r.ID, name+"-")) {
				continue
			}
			found = true
			if kind == "worse" && (r.Ratio >= 1 || r.Beside == 0) {
				continue
			}
			target := r.Target
			if !r.Met {
				target += " **missed**"
			}
			if r.What == "not measured" {
				fmt.Fprintf(&b, "| %s | | | %s | | |\n", r.ID, cell(r.Peer))
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", cell(r.What), figure(r.Ours), figure(r.Beside), cell(r.Peer), figure(r.Ratio), strings.TrimSpace(target))
		}
		if !found {
			return "", fmt.Errorf("the summary has no line %q", name)
		}
	}
	return b.String(), nil
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// figure has four digits that count, or all before the point.
func figure(v float64) string {
	if v == 0 || math.IsInf(v, 0) {
		return fmt.Sprint(v)
	}
	digits := max(0, 3-int(math.Floor(math.Log10(math.Abs(v)))))
	text := fmt.Sprintf("%.*f", digits, v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	whole, part, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if part != "" {
		return whole + "." + part
	}
	return whole
}

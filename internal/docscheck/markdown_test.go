package docscheck

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const protocol = "../../docs/protocol.md"

// A document is a Markdown file, taken apart as far as the tests need it.
type document struct {
	lines  []string // outside of code blocks; inside, empty
	blocks []block
	tables []table
}

// A block is a fenced code block.
type block struct {
	language string
	line     int // of its first line
	lines    []string
}

// A table is a Markdown table; cells are trimmed.
type table struct {
	before string // the last line with text above the table
	header []string
	rows   [][]string
	line   int
}

func (t table) column(name string) int { return slices.Index(t.header, name) }

func read(t *testing.T, path string) document {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	var open *block
	for i, line := range strings.Split(string(b), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			d.blocks = append(d.blocks, block{language: fence, line: i + 2})
			open = &d.blocks[len(d.blocks)-1]
		case isFence:
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		default:
			d.lines = append(d.lines, line)
			continue
		}
		d.lines = append(d.lines, "")
	}
	if open != nil {
		t.Fatalf("%s:%d: code block is not closed", path, open.line)
	}
	d.readTables(t, path)
	return d
}

func (d *document) readTables(t *testing.T, path string) {
	before := ""
	for i := 0; i < len(d.lines); i++ {
		line := d.lines[i]
		if !strings.HasPrefix(line, "|") {
			if line != "" {
				before = line
			}
			continue
		}
		tab := table{before: before, header: cells(line), line: i + 1}
		for i += 2; i < len(d.lines) && strings.HasPrefix(d.lines[i], "|"); i++ {
			row := cells(d.lines[i])
			if len(row) != len(tab.header) {
				t.Errorf("%s:%d: %d cells in a table of %d columns", path, i+1, len(row), len(tab.header))
				continue
			}
			tab.rows = append(tab.rows, row)
		}
		d.tables = append(d.tables, tab)
	}
}

// cells splits a row at the bars that are not escaped.
func cells(line string) []string {
	const bar = "\x00"
	line = strings.ReplaceAll(strings.TrimSpace(line), `\|`, bar)
	list := strings.Split(strings.Trim(line, "|"), "|")
	for i, c := range list {
		list[i] = strings.TrimSpace(strings.ReplaceAll(c, bar, "|"))
	}
	return list
}

// find returns the one table with this header.
func (d *document) find(t *testing.T, header ...string) table {
	t.Helper()
	var found []table
	for _, tab := range d.tables {
		if slices.Equal(tab.header, header) {
			found = append(found, tab)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d tables with the columns %q, want one", len(found), header)
	}
	return found[0]
}

// code returns what a cell has between backticks if that is all of it.
func code(cell string) (string, bool) {
	inner, ok := strings.CutPrefix(cell, "`")
	if !ok {
		return "", false
	}
	inner, ok = strings.CutSuffix(inner, "`")
	return inner, ok && !strings.Contains(inner, "`")
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// spans returns everything between backticks outside of code blocks.
func (d *document) spans() (list []string) {
	for _, line := range d.lines {
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			list = append(list, m[1])
		}
	}
	return list
}

// headings returns the titles of all headings.
func (d *document) headings() (list []string) {
	for _, line := range d.lines {
		if title := strings.TrimLeft(line, "#"); title != line {
			list = append(list, strings.TrimSpace(title))
		}
	}
	return list
}

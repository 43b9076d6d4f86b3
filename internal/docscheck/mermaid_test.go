package docscheck

import (
	"regexp"
	"strings"
	"testing"
)

var (
	participant = regexp.MustCompile(`^(?:participant|actor) (\w+)(?: as .+)?$`)
	arrow       = regexp.MustCompile(`^(\w+)(?:->>|-->>)(\w+): (.+)$`)
	note        = regexp.MustCompile(`^Note (?:over|left of|right of) (\w+)(?:,(\w+))?: (.+)$`)
	opening     = regexp.MustCompile(`^(alt|opt|loop|par) .+$`)
	middle      = regexp.MustCompile(`^(else|and) .+$`)
)

// Sequence diagrams have only lines that Mermaid knows, between participants
// that were declared, and blocks that close.
func TestDiagrams(t *testing.T) {
	doc := read(t, protocol)
	diagrams := 0
	for _, b := range doc.blocks {
		if b.language != "mermaid" {
			continue
		}
		diagrams++
		if b.lines[0] != "sequenceDiagram" {
			t.Errorf("line %d: the diagram begins with %q", b.line, b.lines[0])
			continue
		}
		declared := map[string]bool{}
		var open []string
		for i, line := range b.lines[1:] {
			fail := func(format string, args ...any) {
				t.Errorf("line %d: "+format, append([]any{b.line + 1 + i}, args...)...)
			}
			line = strings.TrimSpace(line)
			if strings.ContainsAny(line, ";#") {
				fail("Mermaid ends a statement at ; and starts an entity at #: %q", line)
			}
			var names []string
			if m := participant.FindStringSubmatch(line); m != nil {
				declared[m[1]] = true
			} else if m := arrow.FindStringSubmatch(line); m != nil {
				names = m[1:3]
			} else if m := note.FindStringSubmatch(line); m != nil {
				names = m[1:3]
			} else if m := opening.FindStringSubmatch(line); m != nil {
				open = append(open, m[1])
			} else if m := middle.FindStringSubmatch(line); m != nil {
				belongs := map[string]string{"else": "alt", "and": "par"}[m[1]]
				if len(open) == 0 || open[len(open)-1] != belongs {
					fail("%s outside of %s", m[1], belongs)
				}
			} else if line == "end" {
				if len(open) == 0 {
					fail("end without a beginning")
					continue
				}
				open = open[:len(open)-1]
			} else {
				fail("not understood: %q", line)
			}
			for _, n := range names {
				if n != "" && !declared[n] {
					fail("%s is no participant", n)
				}
			}
		}
		if len(open) != 0 {
			t.Errorf("line %d: %q without end", b.line, open)
		}
	}
	if diagrams != 3 {
		t.Errorf("%d diagrams, want the two literal ones and the one of version 1", diagrams)
	}
}

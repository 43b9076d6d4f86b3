package docscheck

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)

// Relative links lead to files that exist and, with an anchor, to a heading.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d documents, %v", len(files), err)
	}
	if readme, err := filepath.Glob("../../*.md"); err == nil {
		files = append(files, readme...)
	}
	for _, file := range files {
		doc := read(t, file)
		for i, line := range doc.lines {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
					continue
				}
				if err := follow(t, file, m[1]); err != "" {
					t.Errorf("%s:%d: %s %s", file, i+1, m[1], err)
				}
			}
		}
	}
}

func follow(t *testing.T, from, to string) string {
	path, anchor, hasAnchor := strings.Cut(to, "#")
	if path == "" {
		path = from
	} else {
		path = filepath.Join(filepath.Dir(from), path)
	}
	if _, err := os.Stat(path); err != nil {
		return "does not exist"
	}
	if !hasAnchor {
		return ""
	}
	doc := read(t, path)
	for _, title := range doc.headings() {
		if slug(title) == anchor {
			return ""
		}
	}
	return "has no such heading"
}

var dropped = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)

// slug is the anchor that a heading gets on the usual forges.
func slug(title string) string {
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

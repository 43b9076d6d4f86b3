package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// The documents say what the summary does.
func TestTables(t *testing.T) {
	t.Chdir("..")
	s, err := readSummary()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range documents {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !marked.Match(b) {
			t.Errorf("%s has no table", path)
		}
		out, err := s.tables(b)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(out, b) {
			t.Errorf("%s says something else than the summary: go run ./benchmarks -tables", path)
		}
	}
}

// Each line of the summary is in a table of the README, has a unit, and a
// command that is one of the measures.
func TestSummary(t *testing.T) {
	t.Chdir("..")
	s, err := readSummary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(documents[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s {
		if _, err := unitOf(r.What); err != nil {
			t.Errorf("%s: %v", r.ID, err)
		}
		shown := false
		for _, m := range marked.FindAllSubmatch(b, -1) {
			for _, name := range strings.Fields(string(m[2])) {
				shown = shown || string(m[1]) == "lines" && (r.ID == name || strings.HasPrefix(r.ID, name+"-"))
			}
		}
		if !shown {
			t.Errorf("%s: in no table of %s", r.ID, documents[0])
		}
		name, ok := strings.CutPrefix(r.Command, command)
		if !ok {
			t.Errorf("%s: the command is %q", r.ID, r.Command)
		}
		if name = strings.TrimSpace(name); name != "" && !isMeasure(name) {
			t.Errorf("%s: there is no measure %q", r.ID, name)
		}
	}
}

// What is written as Go's benchmark format can be read as that.
func TestRawLines(t *testing.T) {
	results := []Result{
		Result{ID: "crl-load", What: "milliseconds to load", Ours: 2, Beside: 40}.of([]float64{1, 2, 3}, []float64{30, 40, 50}),
		{ID: "crl-lookup-12-5", What: "nanoseconds of a lookup", Ours: 100, Beside: 90},
		absent("crl-load-openssl", os.ErrNotExist),
	}
	b, err := rawLines(results)
	if err != nil {
		t.Fatal(err)
	}
	r := benchfmt.NewReader(bytes.NewReader(b), "raw")
	got := map[string][]float64{}
	for r.Scan() {
		switch line := r.Result().(type) {
		case *benchfmt.Result:
			if line.GetConfig("pkg") == "" || line.GetConfig("cpu") == "" {
				t.Errorf("%s: without the machine", line.Name)
			}
			for _, v := range line.Values {
				got[line.Name.String()+" "+v.Unit] = append(got[line.Name.String()+" "+v.Unit], v.Value)
			}
		case *benchfmt.SyntaxError:
			t.Error(line)
		}
	}
	for name, want := range map[string]int{
		"CrlLoad/side=ours sec/op": 3, "CrlLoad/side=beside sec/op": 3, "CrlLookup125/side=ours sec/op": 1, "CrlLookup125/side=beside sec/op": 1,
	} {
		if len(got[name]) != want {
			t.Errorf("%s: %v, want %d figures", name, got[name], want)
		}
	}
	if v := got["CrlLoad/side=ours sec/op"]; len(v) == 3 && v[1] != 0.002 {
		t.Errorf("two milliseconds are %v s", v[1])
	}
	if _, err := rawLines([]Result{{ID: "a", What: "parsecs"}}); err == nil {
		t.Error("a unit that nobody knows is written")
	}
	files, err := filepath.Glob(filepath.Join("results", "raw", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Errorf("no raw results: %v", err)
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1: "1", 0.0001234: "0.0001234", 12.3456: "12.35", 1234.6: "1,235", 22180.796: "22,181", 1e6: "1,000,000", -1500: "-1,500", 99.99: "99.99"} {
		if got := figure(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

// A ratio that fell by more than a seventh is told; one that rose, or that has
// no target, is not.
func TestFallen(t *testing.T) {
	recorded := summary{{ID: "a", Ratio: 10, Target: ">= 1"}, {ID: "b", Ratio: 10, Target: ">= 1"}, {ID: "c", Ratio: 10}, {ID: "d", Ratio: 10, Target: ">= 1"}}
	now := []Result{{ID: "a", Ratio: 8.6, Target: ">= 1"}, {ID: "b", Ratio: 8.4, Target: ">= 1"}, {ID: "c", Ratio: 1}, {ID: "d", Ratio: 100, Target: ">= 1"}, {ID: "new", Ratio: 1, Target: ">= 1"},
		absent("gone", os.ErrNotExist)}
	recorded = append(recorded, Result{ID: "gone", Ratio: 10, Target: ">= 1"})
	got := fallen(recorded, now)
	if len(got) != 2 || got[0].ID != "b" || got[1].ID != "gone" {
		t.Errorf("%v", got)
	}
}

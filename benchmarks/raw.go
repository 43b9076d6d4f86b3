package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
)

// rawPath is where the rounds of a measure go, in Go's benchmark format, which
// benchstat reads: benchstat -col /side results/raw/NAME.txt.
func rawPath(measure string) string {
	return filepath.Join("benchmarks", "results", "raw", measure+".txt")
}

// of notes the rounds that a line is the median of.
func (r Result) of(ours, beside []float64) Result {
	r.rounds = [2][]float64{ours, beside}
	return r
}

// A unit is what the figures of a line are in. Its name is how lines that have
// it begin.
type unit struct {
	name  string
	raw   string  // in Go's benchmark format
	times float64 // figures there
}

// units are all that lines begin with.
var units = []unit{
	{"nanoseconds", "ns/op", 1}, {"microseconds", "ns/op", 1e3}, {"milliseconds", "ns/op", 1e6}, {"seconds", "ns/op", 1e9},
	{"bytes", "B", 1}, {"kilobytes", "B", 1e3}, {"megabytes a second", "B/s", 1e6}, {"megabytes", "B", 1e6},
	{"allocations", "allocs/op", 1}, {"certificates a second", "cert/s", 1}, {"certificates", "cert/s", 1},
	{"N:C a second", "cert/s", 1}, {"whole enrolments a second", "enrolments/s", 1}, {"handshakes a second", "handshakes/s", 1},
	{"connections a second", "conns/s", 1}, {"the exponent", "exponent", 1},
	{"goroutines", "left", 1}, {"descriptors", "left", 1}, {"sessions", "left", 1}, {"requests lost", "lost", 1}, {"enrolments that failed", "lost", 1},
	{"not measured", "", 0},
}

// unitOf returns the unit of a line.
func unitOf(what string) (unit, error) {
	for _, u := range units {
		if strings.HasPrefix(what, u.name) {
			return u, nil
		}
	}
	return unit{}, fmt.Errorf("no unit that is known is at the start of %q", what)
}

// rawLines is a line for each round and side of the results, or for the only figure
// that there is.
func rawLines(results []Result) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: github.com/chancery-pki/chancery/benchmarks\ncpu: %s\ngo: %s\n", runtime.GOOS, runtime.GOARCH, processor(), runtime.Version())
	for _, r := range results {
		u, err := unitOf(r.What)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.ID, err)
		}
		if u.raw == "" {
			fmt.Fprintf(&b, "# %s: %s\n", r.ID, r.Peer)
			continue
		}
		for i, side := range []string{"ours", "beside"} {
			rounds := r.rounds[i]
			if rounds == nil {
				rounds = []float64{[]float64{r.Ours, r.Beside}[i]}
			}
			for _, v := range rounds {
				fmt.Fprintf(&b, "Benchmark%s/side=%s 1 %g %s\n", camel(r.ID), side, v*u.times, u.raw)
			}
		}
	}
	return b.Bytes(), nil
}

// camel makes CrlLoad of crl-load, because a benchmark's name ends at a hyphen
// and a number.
func camel(id string) string {
	var b strings.Builder
	up := true
	for _, c := range id {
		switch {
		case c == '-' || c == '.':
			up = true
		case up:
			b.WriteRune(unicode.ToUpper(c))
			up = false
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, is := strings.CutPrefix(line, "model name"); is {
			_, name, _ = strings.Cut(name, ":")
			return strings.TrimSpace(name)
		}
	}
	return "unknown"
}

func writeRaw(measure string, results []Result) error {
	b, err := rawLines(results)
	if err != nil {
		return err
	}
	path := rawPath(measure)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A Result is one line of the summary.
type Result struct {
	ID      string  `json:"id"`
	What    string  `json:"what"`
	Ours    float64 `json:"ours"`   // in the unit that What names
	Beside  float64 `json:"beside"` // the peer's, in the same unit
	Peer    string  `json:"peer"`
	Ratio   float64 `json:"ratio"`  // how many times ours is better
	Target  string  `json:"target"` // of the ratio; empty: the line informs, and is met
	Met     bool    `json:"met"`
	Command string  `json:"command"`

	rounds [2][]float64 // of ours and beside, if there were some; see rawLines
}

func (r Result) String() string {
	return fmt.Sprintf("%-26s ours %10.3f  %-42s %10.3f  ratio %8.2f  target %-9s met %v", r.ID, r.Ours, r.Peer, r.Beside, r.Ratio, r.Target, r.Met)
}

// A summary holds one line for each id.
type summary []Result

var summaryPath = filepath.Join("benchmarks", "results", "summary.json")

// readSummary returns the summary of earlier runs, an empty one if there was
// none.
func readSummary() (s summary, err error) {
	b, err := os.ReadFile(summaryPath)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Stat(filepath.Dir(summaryPath)); err == nil {
			return nil, nil
		}
		return nil, &wrongDirectoryError{err}
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// put adds the line, in the place of that of the same id.
func (s *summary) put(r Result) {
	if i := slices.IndexFunc(*s, func(old Result) bool { return old.ID == r.ID }); i >= 0 {
		(*s)[i] = r
		return
	}
	*s = append(*s, r)
}

func (s summary) write() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(summaryPath, append(b, '\n'), 0o644)
}

// A wrongDirectoryError is a working directory without benchmarks/results.
type wrongDirectoryError struct{ err error }

func (e *wrongDirectoryError) Error() string { return e.err.Error() }
func (e *wrongDirectoryError) Hint() string  { return "run it in the root of the repository" }

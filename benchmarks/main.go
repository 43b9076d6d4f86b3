// Benchmarks measures Chancery beside what its users would use otherwise, and
// writes results/summary.json.
//
//	go run ./benchmarks
//
// A figure is the median over rounds in which ours and the peer's run in turn,
// in CPU time of this process, so that neither other load on the machine nor a
// drifting clock rate decides. What is compared are ratios; the absolute times
// are this machine's.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// A Result is one line of the summary.
type Result struct {
	ID      string  `json:"id"`
	What    string  `json:"what"`
	Ours    float64 `json:"ours"`   // in the unit that What names
	Beside  float64 `json:"beside"` // the peer's, in the same unit
	Peer    string  `json:"peer"`
	Ratio   float64 `json:"ratio"`  // how many times ours is better
	Target  string  `json:"target"` // of the ratio
	Met     bool    `json:"met"`
	Command string  `json:"command"`
}

const command = "go run ./benchmarks"

func main() {
	var results []Result
	for _, measure := range []func() ([]Result, error){proof, list} {
		r, err := measure()
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		for _, r := range r {
			fmt.Printf("%-22s ours %10.3f  %-34s %10.3f  ratio %8.2f  target %-8s met %v\n", r.ID, r.Ours, r.Peer, r.Beside, r.Ratio, r.Target, r.Met)
		}
		results = append(results, r...)
	}
	b, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join("benchmarks", "results", "summary.json"), append(b, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		fmt.Fprintln(os.Stderr, "hint: run it in the root of the repository")
		os.Exit(1)
	}
}

const rounds = 9

// beside runs the two in turn, each n times a round, and returns the median
// CPU time of one run of each in microseconds.
func beside(n int, ours, peers func() error) (our, peer float64, err error) {
	var a, b []float64
	for range rounds {
		for _, side := range []struct {
			run  func() error
			into *[]float64
		}{{ours, &a}, {peers, &b}} {
			start := cpu()
			for range n {
				if err := side.run(); err != nil {
					return 0, 0, err
				}
			}
			*side.into = append(*side.into, float64((cpu()-start).Nanoseconds())/1000/float64(n))
		}
	}
	return median(a), median(b), nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// cpu is the CPU time that this process has used, garbage collection included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Benchmarks measures Chancery beside what its users would use otherwise, and
// writes results/summary.json.
//
//	go run ./benchmarks                # all of it
//	go run ./benchmarks hsm            # what is named; other lines of the summary stay
//
// A figure is the median over rounds in which ours and the peer's run in turn,
// in CPU time of this process, so that neither other load on the machine nor a
// drifting clock rate decides. What is compared are ratios; the absolute times
// are this machine's.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/chancery-pki/chancery/hsm"
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

// measures are what there is to run. A name on the command line stands for
// itself and for those that begin with it and a dash.
var measures = []struct {
	name string
	run  func() ([]Result, error)
}{
	{"proof", proof},
	{"list", list},
	{"hsm-sign", signing},
	{"hsm-failover", failover},
}

func main() {
	hsm.SignerProcess()
	if len(os.Args) == 3 && os.Args[1] == workerName {
		exit(work(os.Args[2]))
		return
	}
	exit(run(os.Args[1:]))
}

func exit(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		fmt.Fprintln(os.Stderr, "hint:", h.Hint())
	}
	os.Exit(1)
}

func run(names []string) error {
	var none []Result
	for _, name := range names {
		if !slices.ContainsFunc(measures, func(m measure) bool { return m.named(name) }) {
			return fmt.Errorf("there is no measure %q", name)
		}
	}
	summary, err := read()
	if err != nil {
		return err
	}
	for _, m := range measures {
		if len(names) > 0 && !slices.ContainsFunc(names, m.named) {
			continue
		}
		results, err := m.run()
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		for _, r := range results {
			fmt.Printf("%-28s ours %10.3f  %-44s %10.3f  ratio %8.2f  target %-9s met %v\n", r.ID, r.Ours, r.Peer, r.Beside, r.Ratio, r.Target, r.Met)
		}
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

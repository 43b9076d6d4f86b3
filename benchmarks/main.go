// Benchmarks measures Chancery beside what its users would use otherwise, and
// writes results/summary.json.
//
//	go run ./benchmarks                # all of it
//	go run ./benchmarks hsm            # what is named; other lines of the summary stay
//	go run ./benchmarks -short ledger  # less of it, where there is much; the summary stays as it is
//
// A figure is the median over rounds in which ours and the peer's run in turn,
// in CPU time, so that neither other load on the machine nor a drifting clock
// rate decides. What is compared are ratios; the absolute times are this
// machine's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/chancery-pki/chancery/hsm"
)

const command = "go run ./benchmarks"

// A measure is a part of the benchmarks that can be run by itself.
type measure struct {
	name string
	run  func() ([]Result, error)
}

var measures = []measure{{"proof", proof}, {"crl-size", crlSize}, {"crl-load", crlLoad}, {"crl-lookup", crlLookup}, {"hsm-sign", signing}, {"hsm-failover", failover},
	{"evidence-cpu", evidenceCPU}, {"evidence-500", enrolments}, {"agent-memory", memory}, {"tpm-models", models},
	{"proof-verify", proofVerify}, {"ledger-rate", ledgerRate}, {"ledger-slow-hsm", slowHSM}, {"enrol-https", enrolHTTPS},
	{"revoke", revocations}, {"push-fan-out", fanOut}, {"push-enforce", enforcement},
	{"mesh-handshake", meshHandshake}, {"mesh-tpm", meshTPM}, {"forwarder", forwarder}, {"forwarder-memory", forwarderMemory}, {"forwarder-leak", forwarderLeak}}

// short is for trying a measure out: those that take minutes are smaller, and
// nothing is written.
var short = flag.Bool("short", false, "smaller measures, and results/summary.json stays as it is")

// sized returns how much of something a measure takes.
func sized(all, ofShort int) int {
	if *short {
		return ofShort
	}
	return all
}

// called reports whether the name on the command line means m: "hsm" means
// all whose names begin so.
func (m measure) called(name string) bool {
	return name == m.name || strings.HasPrefix(m.name, name+"-")
}

func main() {
	hsm.SignerProcess()
	var err error
	if len(os.Args) == 3 && os.Args[1] == workerName {
		err = work(os.Args[2])
	} else {
		flag.Parse()
		err = run(flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		if h, ok := errors.AsType[interface {
			error
			Hint() string
		}](err); ok {
			fmt.Fprintln(os.Stderr, "hint:", h.Hint())
		}
		os.Exit(1)
	}
}

// run runs the measures of those names, or all if there are none. What was
// measured before one failed is written too.
func run(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(measures, func(m measure) bool { return m.called(name) }) {
			return fmt.Errorf("there is no measure %q", name)
		}
	}
	s, err := readSummary()
	if err != nil {
		return err
	}
	var all []Result
	for _, m := range measures {
		if len(names) > 0 && !slices.ContainsFunc(names, m.called) {
			continue
		}
		results, err := m.run()
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		for _, r := range results {
			fmt.Println(r)
			s.put(r)
		}
		if *short {
			continue
		}
		if err := s.write(); err != nil {
			return err
		}
		all = append(all, results...)
	}
	if *short {
		return nil
	}
	if len(names) == 0 {
		s = all // and no lines of measures that are no more
	}
	return s.write()
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

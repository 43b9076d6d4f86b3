// Benchmarks measures Chancery beside what its users would use otherwise, and
// writes results/summary.json, the rounds to results/raw, and the tables in the
// documents.
//
//	go run ./benchmarks                # all of it: hours
//	go run ./benchmarks core           # what matters most, in minutes
//	go run ./benchmarks hsm            # what is named; other lines of the summary stay
//	go run ./benchmarks -short ledger  # less of it, where there is much; nothing is written
//	go run ./benchmarks -check core    # whether a ratio has fallen by more than 15 %; nothing is written
//	go run ./benchmarks -profiles      # flame graphs of the hot paths, in docs/flames
//	go run ./benchmarks -tables        # only the tables, from the summary
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
	"github.com/chancery-pki/chancery/internal/cli"
)

const command = "go run ./benchmarks"

// A measure is a part of the benchmarks that can be run by itself.
type measure struct {
	name string
	run  func() ([]Result, error)
}

// core are the measures that matter most, and take minutes together.
var core = []string{"proof", "crl-size", "crl-load", "crl-lookup", "crl-openssh", "hashing", "hsm-sign", "evidence-cpu", "mesh-handshake"}

var measures = []measure{{"proof", proof}, {"crl-size", crlSize}, {"crl-load", crlLoad}, {"crl-lookup", crlLookup}, {"crl-openssh", crlOpenSSH}, {"issue", issuing}, {"growth", growth}, {"hashing", hashing}, {"hsm-sign", signing}, {"hsm-failover", failover},
	{"evidence-cpu", evidenceCPU}, {"evidence-500", enrolments}, {"agent-memory", memory}, {"tpm-models", models},
	{"proof-verify", proofVerify}, {"ledger-rate", ledgerRate}, {"ledger-slow-hsm", slowHSM}, {"enrol-https", enrolHTTPS},
	{"revoke", revocations}, {"push-fan-out", fanOut}, {"push-enforce", enforcement},
	{"mesh-handshake", meshHandshake}, {"mesh-tpm", meshTPM}, {"forwarder", forwarder}, {"forwarder-memory", forwarderMemory}, {"forwarder-leak", forwarderLeak}}

// short is for trying a measure out: those that take minutes are smaller, and
// nothing is written.
var (
	short    = flag.Bool("short", false, "smaller measures, and nothing is written")
	check    = flag.Bool("check", false, "whether a ratio has fallen by more than 15 %; nothing is written")
	profiles = flag.Bool("profiles", false, "measure nothing, and draw where the time of the hot paths goes, in docs/flames")
	tables   = flag.Bool("tables", false, "measure nothing, and write the tables in the documents")
)

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
		if hint := cli.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

// run runs the measures of those names, or all if there are none. What was
// measured before one failed is written too.
func run(names []string) error {
	all := len(names) == 0
	if i := slices.Index(names, "core"); i >= 0 {
		names = slices.Concat(names[:i], core, names[i+1:])
	}
	for _, name := range names {
		if !isMeasure(name) {
			return fmt.Errorf("there is no measure %q", name)
		}
	}
	recorded, err := readSummary()
	if err != nil {
		return err
	}
	if *profiles {
		return profileHotPaths()
	}
	if *tables {
		return recorded.writeTables()
	}
	s := slices.Clone(recorded)
	var measured []Result
	for _, m := range measures {
		if !all && !slices.ContainsFunc(names, m.called) {
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
		measured = append(measured, results...)
		if *short || *check {
			continue
		}
		if err := errors.Join(s.write(), writeRaw(m.name, results)); err != nil {
			return err
		}
	}
	if *check {
		return compare(recorded, measured)
	}
	if *short {
		return nil
	}
	if all {
		s = measured // and no lines of measures that are no more
	}
	return errors.Join(s.write(), s.writeTables())
}

func isMeasure(name string) bool {
	return slices.ContainsFunc(measures, func(m measure) bool { return m.called(name) })
}

// mostFall is how much of its recorded value a ratio has to keep.
const mostFall = 0.85

// fallen returns the lines with a target whose ratio is less than it may be, or
// is not there any more.
func fallen(recorded summary, measured []Result) (list []Result) {
	for _, r := range measured {
		i := slices.IndexFunc(recorded, func(old Result) bool { return old.ID == r.ID })
		if i >= 0 && recorded[i].Target != "" && r.Ratio < mostFall*recorded[i].Ratio {
			list = append(list, r)
		}
	}
	return list
}

func compare(recorded summary, measured []Result) error {
	list := fallen(recorded, measured)
	for _, r := range list {
		fmt.Fprintf(os.Stderr, "%s: the ratio is %.3f now\n", r.ID, r.Ratio)
	}
	if len(list) > 0 {
		return fmt.Errorf("%d of %d ratios have fallen by more than %.0f %% since results/summary.json was written", len(list), len(measured), 100*(1-mostFall))
	}
	return nil
}

const rounds = 9

// beside runs the two in turn, each n times a round, and returns the median
// CPU time of one run of each in microseconds, with the rounds.
func beside(n int, ours, peers func() error) (p paired, err error) {
	for range rounds {
		for _, side := range []struct {
			run  func() error
			into *[]float64
		}{{ours, &p.ours}, {peers, &p.beside}} {
			start := cpu()
			for range n {
				if err := side.run(); err != nil {
					return p, err
				}
			}
			*side.into = append(*side.into, float64((cpu()-start).Nanoseconds())/1000/float64(n))
		}
	}
	return p, nil
}

// paired are rounds of ours and of a peer's in turn.
type paired struct{ ours, beside []float64 }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
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

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// clerkName is the role of the worker that issues for ledgerRate.
const clerkName = "clerk"

// A clerkJob says what a clerk is to issue.
type clerkJob struct {
	Dir     string // of a coordinator that does not run
	Marks   []int  // how many certificates there are when it reports; the last one is all
	Chunk   int    // made and issued at a time
	Callers int
	Enrols  bool   // each is a node in the store, too
	Profile string // file for a CPU profile, of the issuing of the last chunk; empty: none
}

// A clerkReport is how far a clerk is.
type clerkReport struct {
	Issued  int
	Seconds float64 // that issuing took, from the start
	CPU     float64 // seconds likewise, of this process
	Memory  map[string]float64
}

// ledgerRate issues a million certificates through a ledger with SoftHSM and
// SQLite in a process of its own, whose memory it watches. It does so twice:
// the ledger alone, and with the nodes enrolled in the same transactions. Then
// it has chancery serve start from what the second one left.
func ledgerRate() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./appliance", "./simulator/cmd/chancery-simulator")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program, simulator := w.dir, w.programs[0], w.programs[1]
	const command = command + " ledger-rate"
	for _, part := range []struct {
		id, what string
		enrols   bool
		target   float64 // certificates a second; 0: none
	}{
		{"ledger", "certificates", false, 20_000},
		{"ledger-enrol", "certificates of nodes that are enrolled in the same transactions", true, 0},
	} {
		c, maker, err := newPaperCoordinator(program, filepath.Join(dir, part.id))
		if err != nil {
			return nil, err
		}
		job := clerkJob{Dir: c.dir, Chunk: 20_000, Callers: 2048, Enrols: part.enrols}
		for _, mark := range []int{100_000, 250_000, 500_000, 1_000_000} {
			job.Marks = append(job.Marks, mark/sized(1, 10))
		}
		reports, err := clerk(job)
		if err != nil {
			return nil, err
		}
		results = append(results, rates(part.id, part.what, command, part.target, reports)...)
		if !part.enrols {
			if err := os.RemoveAll(c.dir); err != nil {
				return nil, err
			}
			continue
		}
		lines, err := serving(c, maker, simulator, command)
		if err != nil {
			return nil, err
		}
		results = append(results, lines...)
	}
	return results, nil
}

// nodesMemory is the limit for a coordinator of a million nodes, in megabytes.
const nodesMemory = 300

// rates are the lines of a clerk's reports.
func rates(id, what, command string, target float64, reports []clerkReport) (results []Result) {
	first, last := reports[0], reports[len(reports)-1]
	before := reports[len(reports)-2]
	r := Result{ID: id + "-rate", What: fmt.Sprintf("%s a second, of %d, by ledger and SQLite on %d processors", what, last.Issued, runtime.NumCPU()),
		Ours: float64(last.Issued) / last.Seconds, Beside: target, Peer: "target", Met: true, Command: command}
	if target > 0 {
		r.Target, r.Ratio = ">= 1", r.Ours/target
		r.Met = r.Ratio >= 1
	} else {
		r.Beside, r.Peer, r.Ratio = 20_000, "target of the ledger alone", r.Ours/20_000
	}
	later := float64(last.Issued-before.Issued) / (last.Seconds - before.Seconds)
	early := float64(first.Issued) / first.Seconds
	results = append(results, r,
		Result{ID: id + "-rate-late", What: fmt.Sprintf("certificates a second, of the last %d", last.Issued-before.Issued), Ours: later, Beside: early,
			Peer: fmt.Sprintf("of the first %d", first.Issued), Ratio: later / early, Met: true, Command: command},
		Result{ID: id + "-cpu", What: "microseconds of CPU of each, the signer process not counted", Ours: last.CPU * 1e6 / float64(last.Issued), Beside: 1e6 * float64(runtime.NumCPU()) / 20_000,
			Peer: "what there is for 20,000 a second", Ratio: 1e6 * float64(runtime.NumCPU()) / 20_000 / (last.CPU * 1e6 / float64(last.Issued)), Met: true, Command: command})
	for _, report := range reports {
		line := resident(fmt.Sprintf("%s-memory-%dk", id, report.Issued/1000), fmt.Sprintf("of the process at %d %s", report.Issued, what), command, report.Memory)
		line.Target, line.Met = "", true
		results = append(results, line)
	}
	growth := (last.Memory["RssAnon"] - first.Memory["RssAnon"]) * 1e6 / float64(last.Issued-first.Issued)
	const leaf = 64 // bytes of the tree for an entry
	return append(results, Result{ID: id + "-memory-growth", What: fmt.Sprintf("bytes that anonymous memory grew for each certificate after the first %d", first.Issued), Ours: growth, Beside: leaf,
		Peer: "tree of the log", Ratio: leaf / growth, Met: true, Command: command})
}

// resident is the line of what a process holds.
func resident(id, what, command string, m map[string]float64) Result {
	r := within(id, fmt.Sprintf("megabytes resident %s; %.0f of them are not of files", what, m["RssAnon"]), m["Rss"], nodesMemory)
	r.Command = command
	return r
}

// clerk has a worker do the job.
func clerk(j clerkJob) (reports []clerkReport, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w, err := startWorker(exec.Command(self, workerName, clerkName), j)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	for range j.Marks {
		var r clerkReport
		if err := w.out.Decode(&r); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "clerk: %d in %.1f s, %.0f MB resident, %.0f MB of that anonymous\n", r.Issued, r.Seconds, r.Memory["Rss"], r.Memory["RssAnon"])
		reports = append(reports, r)
	}
	return reports, nil
}

// clerkWork is the clerk's main. Nodes are made in chunks, whose making does
// not count.
func clerkWork() (err error) {
	var j clerkJob
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	o, err := newOffice(j.Dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if err := o.open(o.ca, ""); err != nil {
		return err
	}
	out, judge := json.NewEncoder(os.Stdout), &judge{fleet: o.pointer.FleetID(), trustDomain: o.pointer.TrustDomain, roles: []string{"web"}, enrols: j.Enrols, hasty: true}
	var took, used time.Duration
	for _, mark := range j.Marks {
		for judge.made < mark {
			list, err := judge.next(min(j.Chunk, mark-judge.made))
			if err != nil {
				return err
			}
			start, began := cpu(), time.Now()
			issue := func() error { return o.issueAll(list, j.Callers) }
			if j.Profile != "" && judge.made == j.Marks[len(j.Marks)-1] {
				err = cpuProfile(j.Profile, issue)
			} else {
				err = issue()
			}
			if err != nil {
				return err
			}
			took, used = took+time.Since(began), used+cpu()-start
		}
		m, err := memoryOf(os.Getpid())
		if err != nil {
			return err
		}
		if err := out.Encode(clerkReport{judge.made, took.Seconds(), used.Seconds(), m}); err != nil {
			return err
		}
	}
	return nil
}

// issueAll issues with so many callers at a time.
func (o *office) issueAll(list []*judged, callers int) error {
	failed := make([]error, callers)
	next := make(chan *judged)
	var group sync.WaitGroup
	for i := range failed {
		group.Go(func() {
			for r := range next {
				if _, err := o.ledger.Issue(context.Background(), r); err != nil {
					failed[i] = err
				}
			}
		})
	}
	for _, r := range list {
		next <- r
	}
	close(next)
	group.Wait()
	return cmp.Or(failed...) // one says enough
}

// serving starts chancery serve from what a clerk left, and looks what it holds
// when it has enrolled some more nodes, and when an operator has asked for its
// state.
func serving(c *coordinator, maker, simulator, command string) ([]Result, error) {
	began := time.Now()
	if err := c.launch(); err != nil {
		return nil, err
	}
	defer c.stop()
	var token *chancery.Token
	err := eventually(func() (err error) { token, err = c.token("load-*", 1000); return err })
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "ledger-rate: chancery serve was ready after %.1f s\n", time.Since(began).Seconds())
	if _, err := c.enrolFleet(simulator, maker, *token, "--nodes", "500", "--connections", "16"); err != nil {
		return nil, err
	}
	at, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	var status struct {
		Nodes int `json:"nodes"`
	}
	if err := c.run(&status, "status"); err != nil {
		return nil, err
	}
	asked, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	nodes := fmt.Sprintf("of chancery serve with %d enrolled nodes", status.Nodes)
	return []Result{
		resident("ledger-memory-serve", nodes, command, at),
		resident("ledger-memory-status", nodes+", after chancery status", command, asked),
	}, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/simulator/swtpm"
)

const (
	atOnce    = 500
	oneByOne  = 20
	bigRounds = 3
)

// enrolments has 500 nodes enrol at once, each with an swtpm of its own, as
// chancery-agent join does: over HTTPS, with the coordinator's program and
// sealed keys. Each round is a new fleet, and the chips are new again.
func enrolments() (results []Result, err error) {
	w, err := newWorkshop(memoryDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	ca := filepath.Join(dir, "manufacturer")
	start := time.Now()
	states, err := manufacture(filepath.Join(dir, "made"), ca, atOnce+oneByOne)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "evidence-500: %d chips made in %.0f s\n", len(states), time.Since(start).Seconds())
	var many, single []float64
	lost := 0
	for round := range bigRounds {
		r, err := enrolmentRound(filepath.Join(dir, fmt.Sprint(round)), program, ca, states)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "evidence-500: %.1f/s at once, %.1f/s one by one, %d lost\n", r.many, r.single, r.lost)
		many, single, lost = append(many, r.many), append(single, r.single), lost+r.lost
	}
	a, b := median(many), median(single)
	none := within("evidence-500-lost", fmt.Sprintf("enrolments that failed, of %d, %d of them at once, each with an swtpm of its own", bigRounds*atOnce, atOnce), float64(lost), 0)
	none.Command = command + " evidence-500"
	return []Result{none, {ID: "evidence-500-rate", What: fmt.Sprintf("whole enrolments a second, %d at once, nodes and chips on the same machine", atOnce), Ours: a, Beside: b,
		Peer: "one by one", Ratio: a / b, Met: true, Command: none.Command}}, nil
}

// A rate is what came of one round, in enrolments a second.
type rate struct {
	single, many float64
	lost         int
}

func enrolmentRound(dir, program, ca string, states []string) (r rate, err error) {
	chips, off, err := power(filepath.Join(dir, "chips"), states)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, off()) }()
	c, err := startCoordinator(program, filepath.Join(dir, "coordinator"), swtpm.Roots(ca))
	if err != nil {
		return r, err
	}
	defer c.stop()
	token, err := c.token("node-*", len(states))
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	enrol := func(i int) error {
		name := fmt.Sprintf("node-%d", i)
		_, err := c.enrol(ctx, token, name, chips[i].Device(), filepath.Join(dir, name))
		return err
	}

	start := time.Now()
	for i := range oneByOne {
		if err := enrol(i); err != nil {
			return r, err
		}
	}
	r.single = oneByOne / time.Since(start).Seconds()

	failed := make([]error, len(states))
	var all sync.WaitGroup
	start = time.Now()
	for i := oneByOne; i < len(states); i++ {
		all.Go(func() { failed[i] = enrol(i) })
	}
	all.Wait()
	r.many = atOnce / time.Since(start).Seconds()
	for _, err := range failed {
		if err == nil {
			continue
		}
		if r.lost++; r.lost <= 3 {
			fmt.Fprintln(os.Stderr, "evidence-500: lost:", err)
		}
	}
	var status struct {
		Nodes int `json:"nodes"`
	}
	if err := c.run(&status, "status"); err != nil {
		return r, err
	}
	if want := len(states) - r.lost; status.Nodes < want {
		err = fmt.Errorf("the coordinator has %d nodes, %d were enrolled", status.Nodes, want)
	}
	return r, err
}

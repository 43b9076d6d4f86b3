package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// manufacture makes n chips and returns the directories of their state. To make
// one is to wait, so more are made at a time than there are processors.
func manufacture(dir, ca string, n int) (states []string, err error) {
	states = make([]string, n)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() (err error) {
			states[i], err = swtpm.Manufacture(dir, fmt.Sprintf("chip-%d", i), ca)
			return err
		})
	}
	return states, g.Wait()
}

// power starts chips, each from a copy of its state, so that they are new. off
// stops them.
func power(dir string, states []string) (chips []*swtpm.Process, off func() error, err error) {
	chips = make([]*swtpm.Process, len(states))
	off = func() error {
		var g errgroup.Group
		g.SetLimit(8)
		for _, p := range chips {
			if p != nil {
				g.Go(p.Stop)
			}
		}
		return g.Wait()
	}
	var g errgroup.Group
	g.SetLimit(8)
	for i, state := range states {
		g.Go(func() (err error) {
			own := filepath.Join(dir, filepath.Base(state))
			if err := os.CopyFS(own, os.DirFS(state)); err != nil {
				return err
			}
			chips[i], err = swtpm.Start(own)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, errors.Join(err, off())
	}
	return chips, off, nil
}

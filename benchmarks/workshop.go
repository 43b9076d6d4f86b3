package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// A workshop is a directory for one measure, with programs in it.
type workshop struct {
	dir      string
	programs []string // built, in the order of the packages
}

// newWorkshop makes one, on the disk or in memory, and builds the programs of
// the packages, such as ./appliance or ./agent.
func newWorkshop(mkdir func() (string, error), packages ...string) (w *workshop, err error) {
	w = &workshop{}
	if w.dir, err = mkdir(); err != nil {
		return nil, err
	}
	for _, pkg := range packages {
		program, err := build(w.dir, pkg)
		if err != nil {
			w.remove(&err)
			return nil, err
		}
		w.programs = append(w.programs, program)
	}
	return w, nil
}

// remove removes the directory. It is for a defer, and err is the function's.
func (w *workshop) remove(err *error) { *err = errors.Join(*err, os.RemoveAll(w.dir)) }

func diskDir() (string, error) { return os.MkdirTemp("", "benchmarks-") }

// memoryDir makes a directory in memory, if there is such a place: many nodes
// share a machine here, and a disk nowhere.
func memoryDir() (string, error) {
	const shared = "/dev/shm"
	if f, err := os.Stat(shared); err == nil && f.IsDir() {
		return os.MkdirTemp(shared, "benchmarks-")
	}
	return diskDir()
}

// newSite makes n chips and a coordinator that takes them, all of which run.
func newSite(dir, appliance string, n int) (c *coordinator, chips []*swtpm.Process, stop func() error, err error) {
	ca := filepath.Join(dir, "manufacturer")
	states, err := manufacture(filepath.Join(dir, "made"), ca, n)
	if err != nil {
		return nil, nil, nil, err
	}
	chips, off, err := power(filepath.Join(dir, "chips"), states)
	if err != nil {
		return nil, nil, nil, err
	}
	if c, err = startCoordinator(appliance, filepath.Join(dir, "coordinator"), swtpm.Roots(ca)); err != nil {
		return nil, nil, nil, errors.Join(err, off())
	}
	return c, chips, func() error {
		c.stop()
		return off()
	}, nil
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// flames is where the flame graphs are.
var flames = filepath.Join("docs", "flames")

// profileHotPaths draws where the time of each hot path goes: of what runs in
// this process here, and of an enrolment in the coordinator.
func profileHotPaths() error {
	dir, err := os.MkdirTemp("", "benchmarks-profiles-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(flames, 0o755); err != nil {
		return err
	}
	for _, path := range []struct {
		name    string
		prepare func() (run func() error, err error)
	}{
		{"handshake-known", knownHandshakes}, {"handshake-first", firstHandshakes}, {"evidence", evidences}, {"crl-load", crlLoads}, {"crl-delta", crlDeltas},
	} {
		fmt.Fprintln(os.Stderr, "profile:", path.name)
		run, err := path.prepare()
		if err != nil {
			return fmt.Errorf("%s: %w", path.name, err)
		}
		file := filepath.Join(dir, path.name)
		if err := errors.Join(cpuProfile(file, run), drawFlame(file, path.name)); err != nil {
			return fmt.Errorf("%s: %w", path.name, err)
		}
	}
	for _, path := range []struct {
		name string
		run  func(file string) error
	}{{"issue", profileIssue}, {"enrolment", profileEnrolment}} {
		fmt.Fprintln(os.Stderr, "profile:", path.name)
		file := filepath.Join(dir, path.name)
		if err := errors.Join(path.run(file), drawFlame(file, path.name)); err != nil {
			return fmt.Errorf("%s: %w", path.name, err)
		}
	}
	return nil
}

// cpuProfile profiles this process while run runs.
func cpuProfile(file string, run func() error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	runtime.GC()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	err = run()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// drawFlame has the module that draws do so.
func drawFlame(file, name string) error {
	out, err := filepath.Abs(filepath.Join(flames, name+".svg"))
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "run", "-C", filepath.Join("benchmarks", "plot"), ".", "flame", file, out)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// repeated runs something for some seconds.
func repeated(n int, run func(i int) error) func() error {
	return func() error {
		for i := range sized(n, n/10) {
			if err := run(i); err != nil {
				return err
			}
		}
		return nil
	}
}

func knownHandshakes() (func() error, error) {
	m, err := newMeshWorld()
	if err != nil {
		return nil, err
	}
	return repeated(5000, func(int) error { return m.met.shake() }), nil
}

func firstHandshakes() (func() error, error) {
	m, err := newMeshWorld()
	if err != nil {
		return nil, err
	}
	pairs, err := m.strangers(false)(sized(2000, 200))
	if err != nil {
		return nil, err
	}
	return func() (err error) {
		for _, p := range pairs {
			err = errors.Join(err, p.shake(), p.close())
		}
		return err
	}, nil
}

func evidences() (func() error, error) {
	s, err := newShown(papertpm.RSA2048, known, false)
	if err != nil {
		return nil, err
	}
	return repeated(8000, func(int) error { return s.judge() }), nil
}

func crlLoads() (func() error, error) {
	l, c, _, err := scatteredList(1e7, 1e5)
	if err != nil {
		return nil, err
	}
	list := c.Marshal()
	return repeated(2000, func(int) error {
		_, err := chancery.OpenCRL(l.pointer, nil, list, l.now)
		return err
	}), nil
}

func crlDeltas() (func() error, error) {
	l, c, indexes, err := scatteredList(1e7, 1e5)
	if err != nil {
		return nil, err
	}
	held, err := chancery.OpenCRL(l.pointer, nil, c.Marshal(), l.now)
	if err != nil {
		return nil, err
	}
	deltas, _, _, err := l.deltas(c, 1e7, indexes, 1000, sized(500, 50))
	if err != nil {
		return nil, err
	}
	// The same deltas onto the same list, again and again: a list does not
	// change.
	return repeated(20, func(int) (err error) {
		at := held
		for _, d := range deltas {
			if at, err = at.Apply(l.pointer, d, l.now); err != nil {
				return err
			}
		}
		return nil
	}), nil
}

// profileIssue profiles a clerk's process.
func profileIssue(file string) (err error) {
	w, err := newWorkshop(diskDir, "./appliance")
	if err != nil {
		return err
	}
	defer w.remove(&err)
	c, _, err := newPaperCoordinator(w.programs[0], w.dir)
	if err != nil {
		return err
	}
	_, err = clerk(clerkJob{Dir: c.dir, Marks: []int{sized(100_000, 20_000)}, Chunk: 20_000, Callers: 2048, Profile: file})
	return err
}

// profileEnrolment profiles chancery serve while a fleet enrols.
func profileEnrolment(file string) (err error) {
	w, err := newWorkshop(diskDir, "./simulator/cmd/chancery-simulator", "./appliance")
	if err != nil {
		return err
	}
	defer w.remove(&err)
	c, maker, err := newPaperCoordinator(w.programs[1], w.dir)
	if err != nil {
		return err
	}
	stop := func() {}
	defer func() { stop() }()
	_, err = profiled(c, w.dir, file, func() error {
		token, err := c.token("load-*", 1_000_000)
		if err != nil {
			return err
		}
		_, err = c.enrolFleet(w.programs[0], maker, *token, "--nodes", fmt.Sprint(sized(2000, 400)), "--connections", "16", "--ek", "rsa", "--name", "load-%06d")
		return err
	}, &stop)
	return err
}

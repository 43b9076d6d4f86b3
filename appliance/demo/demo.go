// Package demo plays the whole story on simulators, with the programs as they
// are: a ceremony, enrolments, sessions, a revocation, a changed boot state.
//
// [Run] makes a world in a directory of its own, runs the two programs in it
// the way an operator and a node's owner would, and holds every outcome
// against what it must be. Nothing of it runs on when Run returns.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// A Step is something that happened. Symbol is that of docs/protocol.md
// section 1 where the step has one.
type Step struct {
	Chapter string  `json:"chapter"`
	Who     string  `json:"who"`
	Symbol  string  `json:"symbol"`
	What    string  `json:"what"`
	MS      float64 `json:"ms"`
}

// Options say with what to play.
type Options struct {
	Chancery string     // path of the coordinator's program
	Agent    string     // path of the agent's program
	Model    string     // device model that the token has the speed of; empty for SoftHSM's own
	Report   func(Step) // called for each step, in order
}

// A world is the demo's directory and what runs in it.
type world struct {
	Options
	dir     string
	chapter string
	url     string
	pin     string
	server  *child.Child
	nodes   map[string]*node
	given   map[string]bool // addresses, see freeAddress
}

// A node is a machine with a chip.
type node struct {
	name   string
	state  string
	chip   *swtpm.Process
	agent  *child.Child
	listen string
	log    string
}

// Run plays the story. It returns an error as soon as anything is not as it
// must be.
func Run(ctx context.Context, o Options) (err error) {
	if err := swtpm.Locate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "chancery-demo-")
	if err != nil {
		return err
	}
	w := &world{Options: o, dir: dir, nodes: map[string]*node{}, given: map[string]bool{}}
	defer func() { err = errors.Join(err, w.close()) }()
	for _, chapter := range []struct {
		name string
		play func(context.Context) error
	}{
		{"A coordinator", w.ceremony},
		{"Two nodes enrol", w.enrolments},
		{"They talk", w.talk},
		{"A stranger is refused", w.stranger},
		{"A node is revoked", w.revocation},
		{"A boot state changes", w.bootState},
		{"The log proves it all", w.audit},
	} {
		w.chapter = chapter.name
		err := chapter.play(ctx)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("%s: interrupted", chapter.name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w%s", chapter.name, err, w.logs())
		}
	}
	return nil
}

// close ends everything that runs and removes the world.
func (w *world) close() error {
	for _, n := range w.nodes {
		if n.agent != nil {
			n.agent.Stop(stopTime)
		}
	}
	if w.server != nil {
		w.server.Stop(stopTime)
	}
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.chip.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

const (
	// stopTime is how long a program may take to end in good order.
	stopTime = 10 * time.Second
	// patience is how long the demo waits for anything to happen.
	patience = 30 * time.Second
)

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// tell reports a step that took as long as since.
func (w *world) tell(since time.Time, who, symbol, format string, args ...any) {
	w.Report(Step{Chapter: w.chapter, Who: who, Symbol: symbol, What: fmt.Sprintf(format, args...), MS: float64(time.Since(since).Microseconds()) / 1000})
}

// until asks again and again until done says yes or patience ends.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for {
		ok, err := done()
		if err == nil && ok {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("waited %s for %s", patience, what), err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// logs returns the end of what the programs logged, for whoever has to find
// out why the story broke.
func (w *world) logs() string {
	files, err := filepath.Glob(w.path("*.log"))
	if err != nil {
		return ""
	}
	var all string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			all += fmt.Sprintf("\n--- %s\n%s", filepath.Base(f), b[max(0, len(b)-2000):])
		}
	}
	return all
}

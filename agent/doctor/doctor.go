// Package doctor finds out what keeps a node from working, and what to do about
// it.
//
// Start with [Examine]. It changes nothing: not the chip, not the state, not the
// coordinator. Beside a running agent it leaves the chip to it.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/tpm"
)

// Verdicts of a check.
const (
	Good = "good"
	Note = "note" // works, and should be known
	Bad  = "bad"
)

// A Check is one thing that was looked at.
type Check struct {
	Name    string `json:"check"`
	Verdict string `json:"verdict" enum:"good,note,bad"`
	What    string `json:"what"`
	Hint    string `json:"hint,omitempty"`
}

// Options say what to examine.
type Options struct {
	State string // directory; it may be of no enrolled node
	TPM   string // device; empty: the one of the state directory
	Now   func() time.Time
}

// An examination is one run of Examine.
type examination struct {
	Options
	checks  []Check
	dir     *state.Dir
	config  *state.Config
	running *run.Status // nil if no agent runs
	nc      *chancery.Certificate
	pointer *chancery.Pointer
	file    *tpm.KeyFile
}

// Examine looks at everything, in the order in which one thing needs the other.
func Examine(ctx context.Context, o Options) []Check {
	e := &examination{Options: o}
	e.directory()
	if e.dir != nil {
		defer e.dir.Close()
		e.agent(ctx)
		e.record()
		e.certificate()
		e.list()
		e.forks()
	}
	e.chip(ctx)
	e.eventLog()
	e.coordinator(ctx)
	return e.checks
}

func (e *examination) good(name, format string, args ...any) {
	e.checks = append(e.checks, Check{Name: name, Verdict: Good, What: fmt.Sprintf(format, args...)})
}

func (e *examination) note(name, hint, format string, args ...any) {
	e.checks = append(e.checks, Check{Name: name, Verdict: Note, What: fmt.Sprintf(format, args...), Hint: hint})
}

// bad notes what is wrong; the hint is the error's if there is none.
func (e *examination) bad(name, hint string, err error) {
	e.checks = append(e.checks, Check{Name: name, Verdict: Bad, What: err.Error(), Hint: cmp.Or(hint, cli.HintOf(err))})
}

// leastFree is how much room the state directory's file system must have.
const leastFree = 16 << 20

func (e *examination) directory() {
	dir, err := state.Look(e.State)
	if errors.Is(err, state.ErrNotEnrolled) {
		e.note("state", "enrol it with chancery-agent join", "there is no node in %s", e.State)
		return
	}
	if err != nil {
		e.bad("state", "", err)
		return
	}
	e.dir = dir
	var fsys syscall.Statfs_t
	if err := syscall.Statfs(e.State, &fsys); err == nil && fsys.Bavail*uint64(fsys.Bsize) < leastFree {
		e.bad("state", "make room: renewals and lists are written there", fmt.Errorf("%s has %d bytes left", e.State, fsys.Bavail*uint64(fsys.Bsize)))
		return
	}
	if e.config, err = dir.Config(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			e.note("state", "enrol it with chancery-agent join, which goes on where it was", "the enrolment in %s is not finished", e.State)
			return
		}
		e.bad("state", "correct agent.toml", err)
		return
	}
	e.good("state", "%s, of %s", e.State, e.config.Name)
}

func (e *examination) agent(ctx context.Context) {
	client := run.Connect(e.dir)
	defer client.Close()
	s, err := client.Status(ctx)
	if _, ok := errors.AsType[*run.NotRunningError](err); ok {
		if e.config != nil {
			e.note("agent", "start it with chancery-agent run, or its service", "it is not running")
		}
		return
	}
	if err != nil {
		e.bad("agent", "restart it", err)
		return
	}
	e.running = s
	for topic, problem := range s.Problems {
		e.bad("agent: "+topic, "", errors.New(problem))
	}
	if len(s.Problems) == 0 {
		e.good("agent", "running, without problems, listening at %s", s.Listen)
	}
}

func (e *examination) record() {
	p, err := e.dir.Pointer()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil && e.config != nil {
		var fleet chancery.FleetID
		if fleet, err = e.config.Pin(); err == nil {
			err = p.Verify(fleet)
		}
	}
	if err != nil {
		e.bad("pointer", "the file was changed, or is of another fleet; take it from a backup or join anew", err)
		return
	}
	e.pointer = p
	if left := p.Expires.Sub(e.Now()); left < 0 {
		e.bad("pointer", "an operator publishes a new one; until then nothing is renewed", fmt.Errorf("the pointer record expired %s", p.Expires.Format(time.RFC3339)))
	} else {
		e.good("pointer", "record %d of %s, until %s", p.Seq, p.TrustDomain, p.Expires.Format(time.RFC3339))
	}
}

func (e *examination) certificate() {
	nc, err := e.dir.Certificate()
	if errors.Is(err, state.ErrNotEnrolled) {
		return
	}
	if err != nil {
		e.bad("certificate", "join anew", err)
		return
	}
	e.nc = nc
	if e.file, err = e.dir.Key(); err != nil {
		e.bad("key file", "if it cannot be brought back: chancery-agent rejoin", err)
	} else if public, err := e.file.PublicKey(); err != nil || !public.Equal(nc.NodeKey) {
		e.bad("key file", "a rejoin was interrupted: go on with chancery-agent rejoin", errors.New("the key in the file is not the certificate's"))
		e.file = nil
	}
	switch left := nc.NotAfter.Sub(e.Now()); {
	case left < 0:
		e.bad("certificate", "start the agent: the coordinator renews it within its reattest_window; after that it is enrolled with a token", fmt.Errorf("it expired %s", nc.NotAfter.Format(time.RFC3339)))
	case nc.NotBefore.After(e.Now()):
		e.bad("clock", "set this machine's clock", fmt.Errorf("it is %s here, and the certificate begins %s", e.Now().Format(time.RFC3339), nc.NotBefore.Format(time.RFC3339)))
	default:
		e.good("certificate", "serial %s, assurance %s, until %s", nc.Serial, join.Assurance(nc.Assurance.Level.String(), nc.Assurance.Simulator), nc.NotAfter.Format(time.RFC3339))
	}
}

func (e *examination) list() {
	if e.pointer == nil {
		return
	}
	b, err := e.dir.CRL()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var crl *chancery.CRL
	if err == nil {
		v := chancery.NewVerifier(chancery.Trust{Pointer: e.pointer})
		crl, err = v.UpdateCRL(b, e.Now())
	}
	if err != nil {
		e.bad("CRL", "the agent fetches a new one when it reaches a coordinator", err)
		return
	}
	if e.Now().Before(crl.Head().ThisUpdate) {
		e.bad("clock", "set this machine's clock", fmt.Errorf("it is %s here, and the list is of %s", e.Now().Format(time.RFC3339), crl.Head().ThisUpdate.Format(time.RFC3339)))
	}
	if err := crl.Fresh(e.Now()); err != nil {
		e.bad("CRL", "without a fresh list no peer is accepted; the agent fetches one when it reaches a coordinator", err)
		return
	}
	e.good("CRL", "number %d, %d revoked, good until %s", crl.Head().Number, crl.Revoked(), crl.Head().NextUpdate.Format(time.RFC3339))
}

// forks tells of alarms, which a running agent has told of already.
func (e *examination) forks() {
	if e.running != nil {
		return
	}
	for _, alarm := range e.dir.Alarms() {
		e.bad("fork", "look at both with chancery-agent fork show, find out who made the other, then: chancery-agent fork clear", errors.New(alarm.String()))
	}
}

func (e *examination) eventLog() {
	file := join.DefaultEventLog
	if e.config != nil && e.config.EventLog != "" {
		file = e.config.EventLog
	}
	if f, err := os.Open(filepath.Clean(file)); err != nil {
		e.note("event log", "only coordinators whose policy asks for it need it", "%v", err)
	} else {
		f.Close()
		e.good("event log", "%s can be read", file)
	}
}

func (e *examination) coordinator(ctx context.Context) {
	if e.pointer == nil || len(e.pointer.Endpoints) == 0 {
		return
	}
	conn, err := coordinator.Dial(ctx, e.pointer, nil)
	if err != nil {
		hint := "check the network and the coordinator; nodes that know each other go on without it until the CRL is stale"
		if errors.Is(err, chancery.ErrNotOurCoordinator) {
			hint = "whoever answers has not the key that the pointer record names: a proxy that looks into TLS, or somebody else's server"
		}
		e.bad("coordinator", hint, err)
		return
	}
	defer conn.Close()
	e.good("coordinator", "%s answers, with the pinned key", conn.URL())
}

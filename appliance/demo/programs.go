package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// An exitError is a program's way of saying no.
type exitError struct {
	command string
	code    int
	stderr  string
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", e.command, e.code, strings.TrimSpace(e.stderr))
}

// run runs a program to its end and decodes its JSON into out.
func run(ctx context.Context, out any, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, append(args, "-o", "json")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	c, err := child.Start(cmd)
	if err == nil {
		err = c.Wait()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{filepath.Base(program) + " " + strings.Join(args, " "), exit.ExitCode(), stderr.String()}
	}
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(program), args[0], err)
	}
	return nil
}

// chancery runs a command of the coordinator's program.
func (w *world) chancery(ctx context.Context, out any, args ...string) error {
	return run(ctx, out, w.Chancery, append([]string{"--data", w.path("coordinator")}, args...)...)
}

// agent runs a command of a node's program.
func (w *world) agent(ctx context.Context, n *node, out any, args ...string) error {
	return run(ctx, out, w.Agent, append(args, "--state", n.state)...)
}

// start starts a program that runs until it is stopped, with its log in a
// file.
func (w *world) start(log string, program string, args ...string) (*child.Child, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the program has its own descriptor
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	return child.Start(cmd)
}

// freeAddress returns a loopback address that nobody listens on, and that it
// did not return before: the kernel gives a port again before its turn to be
// used has come.
func (w *world) freeAddress() (string, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer l.Close()
		if a := l.Addr().String(); !w.given[a] {
			w.given[a] = true
			return a, nil
		}
	}
}

// machine makes a machine with a new chip.
func (w *world) machine(name string) (*node, error) {
	state, err := swtpm.Manufacture(w.dir, name, w.path("manufacturer"))
	if err != nil {
		return nil, err
	}
	n := &node{name: name, state: w.path(name + "-agent"), log: w.path(name + ".log")}
	if n.listen, err = w.freeAddress(); err != nil {
		return nil, err
	}
	if n.chip, err = swtpm.Start(state); err != nil {
		return nil, err
	}
	w.nodes[name] = n
	return n, nil
}

// token has the operator make a join token, in a file.
func (w *world) token(ctx context.Context, name string) (file string, err error) {
	var t struct {
		Token string `json:"token"`
	}
	if err := w.chancery(ctx, &t, "token", "create", "--name", name); err != nil {
		return "", err
	}
	file = w.path("token-" + name)
	return file, os.WriteFile(file, []byte(t.Token+"\n"), 0o600)
}

// An agentStatus is the part of chancery-agent status that the story needs.
type agentStatus struct {
	Running bool   `json:"running"`
	NodeID  string `json:"node_id"`
	Session *struct {
		NotAfter string `json:"not_after"`
	} `json:"session_certificate"`
	TPM struct {
		State string `json:"state"`
	} `json:"tpm"`
}

// status asks an agent how it is; a degraded one answers too.
func (w *world) status(ctx context.Context, n *node) (s agentStatus, err error) {
	cmd := exec.CommandContext(ctx, w.Agent, "status", "--state", n.state, "-o", "json")
	b, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 3) {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// up starts a node's agent. Whether it can sign its session certificate is
// for the caller to find out.
func (w *world) up(n *node) (err error) {
	n.agent, err = w.start(n.log, w.Agent, "run", "--state", n.state, "--listen", n.listen, "--advertise", n.listen)
	return err
}

// ready waits until a node's agent has its session certificate and listens.
func (w *world) ready(ctx context.Context, n *node) error {
	return until(ctx, n.name+" to be ready", func() (bool, error) {
		s, err := w.status(ctx, n)
		if err != nil || !s.Running || s.Session == nil {
			return false, err
		}
		c, err := net.Dial("tcp", n.listen)
		if err == nil {
			c.Close()
		}
		return err == nil, err
	})
}

// down stops a node's agent.
func (w *world) down(n *node) {
	n.agent.Stop(stopTime)
	n.agent = nil
}

// A pingEvent is a line of chancery-agent ping -o json.
type pingEvent struct {
	Event string    `json:"event"`
	MS    float64   `json:"ms"`
	Peer  *pingPeer `json:"peer"`
	Self  *pingPeer `json:"self"`
	Error string    `json:"error"`
}

type pingPeer struct {
	Name   string `json:"name"`
	Serial string `json:"serial"`
}

// ping has one node ping another and returns the session event.
func (w *world) ping(ctx context.Context, from, to *node) (session pingEvent, err error) {
	cmd := exec.CommandContext(ctx, w.Agent, "ping", to.name, "--addr", to.listen, "--count", "1", "--state", from.state, "-o", "json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return session, &exitError{"chancery-agent ping " + to.name, exit.ExitCode(), stderr.String()}
	}
	if err != nil {
		return session, err
	}
	err = json.NewDecoder(&stdout).Decode(&session)
	if err == nil && (session.Event != "session" || session.Peer == nil || session.Self == nil || session.Peer.Name != to.name || session.Self.Name != from.name) {
		err = fmt.Errorf("ping %s: the two ends do not name each other: %s", to.name, stdout.Bytes())
	}
	return session, err
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
)

const (
	memoryLimit = 25 // megabytes
	idle        = time.Minute
)

// memory looks how much memory an agent holds that is enrolled, has its session
// certificate and the CRL, waits for the next one, and has a session with a
// peer, a minute after anything happened.
func memory() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./appliance", "./agent")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, appliance, program := w.dir, w.programs[0], w.programs[1]
	c, chips, stop, err := newSite(dir, appliance, 2)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var nodes [2]*running
	for i := range nodes {
		if nodes[i], err = c.startAgent(program, dir, fmt.Sprintf("node-%d", i), chips[i].Device()); err != nil {
			return nil, err
		}
		defer nodes[i].process.Stop(10 * time.Second)
	}
	session, err := nodes[0].ping(nodes[1])
	if err != nil {
		return nil, err
	}
	defer session.Kill()
	time.Sleep(idle)
	m, err := memoryOf(nodes[0].process.PID())
	if err != nil {
		return nil, err
	}
	if n, err := nodes[0].sessions(); err != nil || n != 1 {
		return nil, fmt.Errorf("the agent has %d sessions, want 1 (%v)", n, err)
	}
	const command = command + " agent-memory"
	resident := within("agent-memory-rss", "megabytes resident of chancery-agent run with one session, after a minute of idling", m["Rss"], memoryLimit)
	resident.Command = command
	return []Result{resident,
		{ID: "agent-memory-pss", What: "megabytes of the same, where pages that others share count in part (PSS)", Ours: m["Pss"], Beside: memoryLimit, Peer: "limit", Ratio: memoryLimit / m["Pss"], Met: true, Command: command},
		{ID: "agent-memory-own", What: "megabytes of the same that are not read from the program's file", Ours: m["Anonymous"], Beside: memoryLimit, Peer: "limit", Ratio: memoryLimit / m["Anonymous"], Met: true, Command: command},
		{ID: "agent-memory-peak", What: "megabytes resident of the same, at the most (VmHWM)", Ours: m["VmHWM"], Beside: memoryLimit, Peer: "limit", Ratio: memoryLimit / m["VmHWM"], Met: true, Command: command},
	}, nil
}

// running is an agent at work.
type running struct {
	program, name, state, address string
	process                       *child.Child
}

// startAgent enrols a node and starts its agent.
func (c *coordinator) startAgent(program, dir, name, device string) (*running, error) {
	token, err := c.token(name, 1)
	if err != nil {
		return nil, err
	}
	r := &running{program: program, name: name, state: filepath.Join(dir, name)}
	if _, err := c.enrol(context.Background(), token, name, device, r.state); err != nil {
		return nil, err
	}
	if r.address, err = freeAddress(); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has its own
	cmd := exec.Command(program, "run", "--state", r.state, "--listen", r.address, "--advertise", r.address)
	cmd.Stdout, cmd.Stderr = log, log
	r.process, err = child.Start(cmd)
	return r, err
}

// ping opens a session that lasts, as soon as both ends are ready for it.
func (r *running) ping(to *running) (session *child.Child, err error) {
	args := []string{"ping", to.name, "--addr", to.address, "--state", r.state}
	for deadline := time.Now().Add(giveUp); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(r.program, append(args, "--count", "3", "--interval", "10ms")...).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("ping %s: %w\n%s", to.name, err, out)
		}
	}
	return child.Start(exec.Command(r.program, append(args, "--keep", "--interval", "1m")...))
}

// sessions returns how many sessions the agent has.
func (r *running) sessions() (int, error) {
	var status struct {
		Sessions []struct{} `json:"sessions"`
	}
	b, err := exec.Command(r.program, "status", "--state", r.state, "-o", "json").Output()
	if err != nil {
		return 0, err
	}
	err = json.Unmarshal(b, &status)
	return len(status.Sessions), err
}

// memoryOf returns what Linux says of a process's memory, in megabytes: the
// lines of smaps_rollup and of status.
func memoryOf(pid int) (map[string]float64, error) {
	m := map[string]float64{}
	for _, name := range []string{"smaps_rollup", "status"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ":")
			if kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64); err == nil {
				m[key] = kb * 1024 / 1e6
			}
		}
	}
	for _, key := range []string{"Rss", "Pss", "Anonymous", "VmHWM"} {
		if m[key] == 0 {
			return nil, fmt.Errorf("/proc/%d does not say %s", pid, key)
		}
	}
	return m, nil
}

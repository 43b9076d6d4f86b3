package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// revocations has chancery revoke a million certificates in one command, by a
// list of their serial numbers, and in another one a million nodes by a list of
// their names: from a coordinator at work, of a fleet whose nodes were issued
// by a clerk. Meanwhile an operator makes a token every now and then, and what
// that waits for is the store.
func revocations() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	c, _, err := newPaperCoordinator(program, filepath.Join(dir, "fleet"))
	if err != nil {
		return nil, err
	}
	nodes := sized(1_000_000, 20_000)
	if _, err := clerk(clerkJob{Dir: c.dir, Chunk: 20_000, Callers: 2048, Enrols: true, Marks: []int{nodes}}); err != nil {
		return nil, err
	}
	fleet := filepath.Join(dir, "fleet.db")
	if err := os.Rename(filepath.Join(c.dir, "chancery.db"), fleet); err != nil {
		return nil, err
	}
	for _, what := range []struct{ id, object, line string }{{"revoke-certificates", "cert", "1:%d\n"}, {"revoke-nodes", "node", "node-%07d\n"}} {
		var list bytes.Buffer
		for i := range nodes {
			fmt.Fprintf(&list, what.line, i)
		}
		file := filepath.Join(dir, what.id)
		if err := os.WriteFile(file, list.Bytes(), 0o600); err != nil {
			return nil, err
		}
		if out, err := exec.Command("cp", fleet, filepath.Join(c.dir, "chancery.db")).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		// What the one before it has anchored is of a database that is no more.
		if err := os.RemoveAll(filepath.Join(c.dir, "anchor")); err != nil {
			return nil, err
		}
		lines, err := c.revokeAll(what.id, what.object, file, nodes)
		if err != nil {
			return nil, err
		}
		results = append(results, lines...)
	}
	return results, nil
}

// revokeAll revokes what a file lists, with one command.
func (c *coordinator) revokeAll(id, object, file string, nodes int) (results []Result, err error) {
	const command = command + " revoke"
	if err := c.start(); err != nil {
		return nil, err
	}
	defer c.stop()
	// One by one, as scripts do: the last of the log, which are revoked already
	// when the list comes to them.
	const some = 100
	began := time.Now()
	for i := range some {
		path := fmt.Sprintf("/v1/certificates/1:%d/revoke", nodes-1-i)
		if object == "node" {
			path = fmt.Sprintf("/v1/nodes/node-%07d/revoke", nodes-1-i)
		}
		if err := c.ask("POST", path, `{"reason":"one"}`); err != nil {
			return nil, err
		}
	}
	single := time.Since(began).Seconds() / some

	before, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.process.PID()), []byte("5"), 0); err != nil { // VmHWM begins anew: proc(5)
		return nil, err
	}
	stop, waited := c.interrupt()
	cmd := exec.Command(c.program, "--data", c.dir, "-o", "json", object, "revoke", "--list", file, "--yes", "--reason", "all of it")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began = time.Now()
	own, err := watch(cmd)
	took := time.Since(began).Seconds()
	close(stop)
	worst, failed := waited()
	if err != nil {
		return nil, fmt.Errorf("chancery %s revoke: %w: %s", object, err, &stderr)
	}
	if failed != nil {
		return nil, failed
	}
	var done struct{ Certificates, Already, CRL int }
	if err := json.Unmarshal(stdout.Bytes(), &done); err != nil {
		return nil, err
	}
	after, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	var crl struct{ Revoked int }
	if err := c.run(&crl, "crl", "show"); err != nil {
		return nil, err
	}
	if done.Certificates != nodes-some || done.Already != some || crl.Revoked != nodes {
		return nil, fmt.Errorf("%d certificates were revoked, %d before, and the list names %d of %d", done.Certificates, done.Already, crl.Revoked, nodes)
	}
	fmt.Fprintf(os.Stderr, "%s: %.1f s; %.0f MB resident before, never more than %.0f MB; the command %.0f MB\n", id, took, before["Rss"], after["VmHWM"], own)
	fmt.Fprint(os.Stderr, stderr.String())

	what := fmt.Sprintf("%d %s in one command, looked up first", nodes, map[string]string{"cert": "certificates by a list of serial numbers", "node": "nodes by a list of names"}[object])
	all := single * float64(nodes)
	memory := within(id+"-memory", "megabytes, the most that chancery serve ever held meanwhile", after["VmHWM"], nodesMemory)
	held := within(id+"-command", "megabytes, the most that the command held", own, commandMemory)
	memory.Command, held.Command = command, command
	results = append(results,
		Result{ID: id, What: "seconds to revoke " + what, Ours: took, Beside: all, Peer: fmt.Sprintf("one by one, by the first %d", some), Ratio: all / took, Target: ">= 10", Met: all/took >= 10, Command: command},
		Result{ID: id + "-wait", What: "milliseconds, the longest that another operator's transaction took meanwhile", Ours: worst * 1000, Beside: 1000, Peer: "limit", Ratio: 1 / worst, Target: ">= 1", Met: worst <= 1, Command: command},
		memory, held)
	if object == "node" {
		return results, nil
	}
	lines, err := c.exported(nodes)
	return append(results, lines...), err
}

// commandMemory is the limit for a command, however long its list.
const commandMemory = 50 // megabytes

// exported has the list made for third parties, of all and of one partition.
func (c *coordinator) exported(nodes int) (results []Result, err error) {
	const command = command + " revoke"
	for _, list := range []struct {
		id, what string
		args     []string
	}{
		{"revoke-x509", fmt.Sprintf("seconds to export an X.509 CRL of %d", nodes), nil},
		{"revoke-x509-partition", "seconds to export one partition of it", []string{"--partition", "0"}},
	} {
		var done struct{ Revoked, Bytes int }
		began := time.Now()
		if err := c.run(&done, append([]string{"crl", "export", "--x509", "--der", "--out", filepath.Join(c.dir, "list")}, list.args...)...); err != nil {
			return nil, err
		}
		took := time.Since(began).Seconds()
		began = time.Now()
		out, err := exec.Command("openssl", "crl", "-inform", "DER", "-in", filepath.Join(c.dir, "list"), "-noout", "-crlnumber").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("openssl crl: %w: %s", err, out)
		}
		theirs := time.Since(began).Seconds()
		results = append(results, Result{ID: list.id, What: fmt.Sprintf("%s, which has %d entries in %d bytes", list.what, done.Revoked, done.Bytes), Ours: took, Beside: theirs,
			Peer: "openssl crl, which reads it", Ratio: theirs / took, Met: true, Command: command})
	}
	began := time.Now()
	if err := c.ask("POST", "/v1/crl", ""); err != nil {
		return nil, err
	}
	took := time.Since(began).Seconds()
	m, err := memoryOf(c.process.PID())
	if err != nil {
		return nil, err
	}
	memory := within("revoke-x509-memory", "megabytes, the most that chancery serve ever held, the two exports included", m["VmHWM"], nodesMemory)
	memory.Command, memory.Target, memory.Met = command, "", true // the limit is without them
	return append(results, memory, Result{ID: "revoke-heartbeat", What: fmt.Sprintf("milliseconds that the next list takes, of %d", nodes), Ours: took * 1000, Beside: 1000, Peer: "a second", Ratio: 1 / took, Met: true, Command: command}), nil
}

// interrupt makes tokens until stop is closed, and tells the longest that one
// took, in seconds.
func (c *coordinator) interrupt() (stop chan struct{}, waited func() (float64, error)) {
	stop = make(chan struct{})
	worst, failed := make(chan float64, 1), make(chan error, 1)
	go func() {
		longest := 0.0
		for {
			began := time.Now()
			err := c.ask("POST", "/v1/tokens", `{"names":"edge-*","uses":1,"seconds":3600,"approve":false}`)
			longest = max(longest, time.Since(began).Seconds())
			select {
			case <-time.After(20 * time.Millisecond):
				if err == nil {
					continue
				}
			case <-stop:
			}
			worst <- longest
			failed <- err
			return
		}
	}()
	return stop, func() (float64, error) { return <-worst, <-failed }
}

// ask sends a request to the socket of operators.
func (c *coordinator) ask(method, path, body string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(c.dir, "admin.sock"))
	}}}
	req, err := http.NewRequest(method, "http://chancery"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return err
}

// watch runs a program to its end and returns the most memory that it was seen
// to hold, in megabytes. What wait4 says is no less than its parent held.
func watch(cmd *exec.Cmd) (most float64, err error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			return most, err
		case <-time.After(10 * time.Millisecond):
			if m, err := memoryOf(cmd.Process.Pid); err == nil {
				most = max(most, m["VmHWM"])
			}
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/internal/scripttest"
)

// A coordinator is a process on a data directory that can be killed and
// started again.
type coordinator struct {
	dir     string   // data directory
	env     []string // beyond the test's
	process *child.Child
}

// chancery runs a command on the data directory to its end.
func (c *coordinator) chancery(args ...string) (stdout []byte, err error) {
	cmd := exec.Command("chancery", append([]string{"--data", c.dir}, args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err = cmd.Output()
	if err != nil {
		err = fmt.Errorf("chancery %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return stdout, err
}

// configure changes a line of the configuration.
func (c *coordinator) configure(key, value string) error {
	file := dataDir(c.dir).config()
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, key+" = ") {
			lines[i] = key + " = " + value + "\n"
			return os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600)
		}
	}
	return fmt.Errorf("%s has no key %s", file, key)
}

func (c *coordinator) logFile() string { return filepath.Join(c.dir, "log") }

// start starts the process. It may not be ready yet.
func (c *coordinator) start() error {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command("chancery", "--data", c.dir, "serve")
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = log, log
	c.process, err = child.Start(cmd)
	return err
}

// ready waits until the coordinator serves nodes and operators.
func (c *coordinator) ready() error {
	for deadline := time.Now().Add(scripttest.Patience); ; time.Sleep(2 * time.Millisecond) {
		err := ask(c.dir, "GET", "/v1/status", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-c.process.Done():
			return fmt.Errorf("the coordinator ended: %w\n%s", c.process.Wait(), c.lastWords())
		default:
		}
		if time.Now().After(deadline) {
			return errors.Join(err, fmt.Errorf("the coordinator does not serve\n%s", c.lastWords()))
		}
	}
}

// kill ends the process as a power cut would, but for what the kernel has in
// its buffers.
func (c *coordinator) kill() {
	if c.process != nil {
		c.process.Kill()
	}
}

func (c *coordinator) lastWords() []byte {
	b, _ := os.ReadFile(c.logFile())
	return b[max(0, len(b)-4000):]
}

// Package child runs programs that must not outlive the one that started
// them, however that one ends.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Child is a running program.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// Start starts the program. The kernel kills it when this process ends. The
// goroutine that starts it stays on its thread until the program has ended,
// because the parent death signal is sent when the starting thread ends, not
// the process (prctl(2), PR_SET_PDEATHSIG).
func Start(cmd *exec.Cmd) (*Child, error) {
	c := &Child{cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// PID returns the program's process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Done is closed when the program has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the end of the program and returns what exec.Cmd.Wait did.
func (c *Child) Wait() error {
	<-c.done
	return c.err
}

// Stop asks the program to end, with SIGTERM, and kills it after grace. It
// returns when the program has ended.
func (c *Child) Stop(grace time.Duration) {
	c.cmd.Process.Signal(syscall.SIGTERM) // an ended program is no concern
	select {
	case <-c.done:
	case <-time.After(grace):
		c.Kill()
	}
}

// Kill ends the program at once, with SIGKILL, and returns when it has ended.
func (c *Child) Kill() {
	c.cmd.Process.Kill()
	<-c.done
}

package swtpm

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
)

// A Process is a running TPM. Its methods may be called from any goroutine.
type Process struct {
	state  string // directory of the TPM's NV
	home   string // short temporary directory of the sockets
	binary string

	mu     sync.Mutex // held for a whole power operation
	life   *child.Child
	stderr *bytes.Buffer // of life; to be read after its end only
}

const (
	startTime = 10 * time.Second       // for the socket to accept
	stopTime  = 3 * time.Second        // between SIGTERM and SIGKILL
	askTime   = 500 * time.Millisecond // for TPM2_Shutdown to be answered
)

// Start powers on the TPM whose state is in dir, a directory that
// [Manufacture] made. In an empty one it makes a new chip, without
// certificates. The TPM runs as a child of this process and is killed by the
// kernel when this process ends, however it ends.
func Start(dir string) (*Process, error) {
	binary, err := find("swtpm")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	home, err := shortDir()
	if err != nil {
		return nil, err
	}
	p := &Process{state: dir, home: home, binary: binary}
	if err := p.Restart(); err != nil {
		os.RemoveAll(home)
		return nil, err
	}
	return p, nil
}

// shortDir makes a directory whose sockets' paths fit into sockaddr_un (108
// bytes on Linux), whatever TMPDIR is.
func shortDir() (string, error) {
	base := os.TempDir()
	if len(base) > 60 {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "swtpm-")
}

// Socket returns the path at which the TPM takes commands. Its control
// channel, without which tss2-tcti-swtpm does not talk to it, is at the same
// path with .ctrl added. They stay the same over restarts.
func (p *Process) Socket() string { return filepath.Join(p.home, "s") }

// Device returns the name under which package tpm opens this TPM. It stays
// the same over restarts.
func (p *Process) Device() string { return "swtpm:" + p.Socket() }

// Restart is a power cycle: an orderly stop, unless the power is off, and a
// start. NV is kept; PCRs, sessions and loaded objects are not. Close the
// connection to the TPM first: a connected client keeps the TPM from being
// told that it is about to lose power.
func (p *Process) Restart() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off(true)
	return p.on()
}

// Stop powers the TPM off in good order and removes its socket. A stopped
// Process stays stopped.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off(true)
	return os.RemoveAll(p.home)
}

// Kill pulls the plug (SIGKILL). [Process.Restart] powers the TPM on again.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off(false)
	return nil
}

// on starts the program and returns when the TPM accepts connections. The
// caller holds mu.
func (p *Process) on() error {
	control := p.Socket() + ".ctrl"
	for _, path := range []string{p.Socket(), control} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	p.stderr = new(bytes.Buffer)
	cmd := exec.Command(p.binary, "socket", "--tpm2",
		"--server", "type=unixio,path="+p.Socket(),
		"--ctrl", "type=unixio,path="+control,
		"--tpmstate", "dir="+p.state,
		"--flags", "not-need-init,startup-clear")
	cmd.Stderr = p.stderr
	life, err := child.Start(cmd)
	if err != nil {
		return err
	}
	if err := p.await(life); err != nil {
		life.Kill()
		return fmt.Errorf("%w\n%s", err, p.stderr.Bytes())
	}
	p.life = life
	return nil
}

// await returns when the TPM accepts connections.
func (p *Process) await(life *child.Child) error {
	deadline := time.Now().Add(startTime)
	for {
		conn, err := net.Dial("unix", p.Socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-life.Done():
			return fmt.Errorf("swtpm: ended at once: %v", life.Wait())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("swtpm: does not accept after %v: %w", startTime, err)
		}
	}
}

// off ends the program if it runs. The caller holds mu.
func (p *Process) off(orderly bool) {
	life := p.life
	p.life = nil
	switch {
	case life == nil:
	case orderly:
		p.shutdown()
		life.Stop(stopTime)
	default:
		life.Kill()
	}
}

// shutdown sends TPM2_Shutdown(TPM_SU_CLEAR) (TPM 2.0 Part 3, section 9.4).
// Without it a chip that used a key under dictionary attack protection counts
// the loss of power as a failed attempt. It is a kindness: when another
// client holds the connection the power goes off without it.
func (p *Process) shutdown() {
	conn, err := net.DialTimeout("unix", p.Socket(), askTime)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(askTime))
	command := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0}
	if _, err := conn.Write(command); err == nil {
		conn.Read(make([]byte, 10))
	}
}

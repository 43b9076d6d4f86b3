package tpm2pkcs11

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpmutil"

	"github.com/chancery-pki/chancery/internal/child"
)

// A chip is a running swtpm. It differs from those of package swtpm in having
// a control channel, without which the module's transport (tss2-tcti-swtpm)
// does not talk to it, and in having no certificates, which nobody asks for.
type chip struct {
	state  string // directory of the TPM's NV
	home   string // short temporary directory of the sockets
	binary string

	mu     sync.Mutex // held for a whole power operation, and while asking
	life   *child.Child
	stderr *bytes.Buffer // of life; to be read after its end only
}

const (
	startTime = 10 * time.Second // for the socket to accept
	stopTime  = 3 * time.Second  // between SIGTERM and SIGKILL
	askTime   = 5 * time.Second  // for an answer, also while the module has the chip busy
)

// start powers on the chip whose state is in dir; in an empty one it makes a
// new chip. It runs as a child of this process and is killed by the kernel
// when this process ends, however it ends.
func start(binary, dir string) (*chip, error) {
	home, err := shortDir()
	if err != nil {
		return nil, err
	}
	c := &chip{state: dir, home: home, binary: binary}
	if err := c.restart(); err != nil {
		os.RemoveAll(home)
		return nil, err
	}
	return c, nil
}

// shortDir makes a directory whose sockets' paths fit into sockaddr_un (108
// bytes on Linux), whatever TMPDIR is.
func shortDir() (string, error) {
	base := os.TempDir()
	if len(base) > 60 {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "tpm2pkcs11-")
}

// socket is where the chip takes commands. The transport expects the control
// channel at the same path with .ctrl added.
func (c *chip) socket() string { return filepath.Join(c.home, "s") }

func (c *chip) restart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off(true)
	return c.on()
}

func (c *chip) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off(true)
	return os.RemoveAll(c.home)
}

func (c *chip) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off(false)
}

// on starts the program and returns when the chip accepts connections. The
// caller holds mu.
func (c *chip) on() error {
	control := c.socket() + ".ctrl"
	for _, path := range []string{c.socket(), control} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	c.stderr = new(bytes.Buffer)
	cmd := exec.Command(c.binary, "socket", "--tpm2",
		"--server", "type=unixio,path="+c.socket(),
		"--ctrl", "type=unixio,path="+control,
		"--tpmstate", "dir="+c.state,
		"--flags", "not-need-init,startup-clear")
	cmd.Stderr = c.stderr
	life, err := child.Start(cmd)
	if err != nil {
		return err
	}
	if err := c.await(life); err != nil {
		life.Kill()
		return fmt.Errorf("%w\n%s", err, c.stderr.Bytes())
	}
	c.life = life
	return nil
}

// await returns when the chip accepts connections.
func (c *chip) await(life *child.Child) error {
	deadline := time.Now().Add(startTime)
	for {
		conn, err := net.Dial("unix", c.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-life.Done():
			return fmt.Errorf("swtpm ended at once: %v", life.Wait())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("swtpm does not accept after %v: %w", startTime, err)
		}
	}
}

// off ends the program if it runs. The caller holds mu.
func (c *chip) off(orderly bool) {
	life := c.life
	switch {
	case life == nil:
	case orderly:
		// Without it the chip counts the loss of power as a failed attempt. It
		// is a kindness: if it cannot be told, the power goes off without it.
		c.ask(func(t transport.TPM) error {
			_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t)
			return err
		})
		life.Stop(stopTime)
	default:
		life.Kill()
	}
	c.life = nil
}

// ask runs f with a connection to the chip. An swtpm serves one connection at
// a time; the module makes one for each command, so others find a gap. The
// caller holds mu.
func (c *chip) ask(f func(transport.TPM) error) error {
	if c.life == nil {
		return errors.New("the chip is powered off")
	}
	conn, err := net.DialTimeout("unix", c.socket(), askTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return err
	}
	return f(transport.FromReadWriter(conn))
}

// Properties of the chip and what is in them (TPM 2.0 Part 2, sections 6.13
// and 8.6).
const (
	permanent      = tpm2.TPMPTPermanent
	lockoutCounter = tpm2.TPMPTLockoutCounter

	inLockout = 1 << 9 // in permanent
)

// property reads a property of the chip (TPM2_GetCapability).
func (c *chip) property(p tpm2.TPMPT) (value uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.ask(func(t transport.TPM) error {
		answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(t)
		if err != nil {
			return err
		}
		list, err := answer.CapabilityData.Data.TPMProperties()
		if err != nil {
			return err
		}
		if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != p {
			return errors.New("the chip does not have it")
		}
		value = list.TPMProperty[0].Value
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("tpm2pkcs11: property %#x: %w", uint32(p), err)
	}
	return value, nil
}

// resetLockout sends TPM2_DictionaryAttackLockReset (TPM 2.0 Part 3, section
// 25.2) with the empty password. Go-tpm does not have the command.
func (c *chip) resetLockout() error {
	command := []byte{
		0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39, // TPM_ST_SESSIONS, size, command
		0x40, 0, 0, 0x0a, // TPM_RH_LOCKOUT
		0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 1, 0, 0, // TPM_RS_PW, no nonce, continueSession, no password
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.ask(func(t transport.TPM) error {
		answer, err := t.Send(command)
		if err != nil {
			return err
		}
		if len(answer) < 10 {
			return fmt.Errorf("an answer of %d bytes", len(answer))
		}
		if rc := tpmutil.ResponseCode(binary.BigEndian.Uint32(answer[6:])); rc != 0 {
			return tpm2.TPMRC(rc)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tpm2pkcs11: reset the lock-out: %w", err)
	}
	return nil
}

// flush unloads all objects and sessions.
func (c *chip) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.ask(func(t transport.TPM) error {
		for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTHMACSession, tpm2.TPMHTPolicySession} {
			handles, err := loaded(t, kind)
			if err != nil {
				return err
			}
			for _, h := range handles {
				if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t); err != nil {
					return fmt.Errorf("handle %#x: %w", uint32(h), err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tpm2pkcs11: flush: %w", err)
	}
	return nil
}

// loaded lists the handles of a kind (TPM 2.0 Part 2, section 7.2). For
// TPMHTPolicySession these are the sessions whose context was saved.
func loaded(t transport.TPM, kind tpm2.TPMHT) ([]tpm2.TPMHandle, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 254}.Execute(t)
	if err != nil {
		return nil, err
	}
	list, err := answer.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return list.Handle, nil
}

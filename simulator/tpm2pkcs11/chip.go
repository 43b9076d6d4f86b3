package tpm2pkcs11

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpmutil"

	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// A chip is a running swtpm that can be asked about its lock, and helped.
type chip struct {
	mu      sync.Mutex // held for a whole power operation, and while asking
	process *swtpm.Process
}

// askTime is how long an answer may take, also while the module has the chip
// busy.
const askTime = 5 * time.Second

func (c *chip) restart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shutdown()
	return c.process.Restart()
}

func (c *chip) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shutdown()
	return c.process.Stop()
}

func (c *chip) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.process.Kill()
}

// shutdown tells the chip that it is about to lose power, which it would count
// as a failed attempt otherwise. The process does so too, but does not wait
// for a chip that the module has busy. It is a kindness: if the chip cannot be
// told, the power goes off without it. The caller holds mu.
func (c *chip) shutdown() {
	c.ask(func(t transport.TPM) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t)
		return err
	})
}

// ask runs f with a connection to the chip. An swtpm serves one connection at
// a time; the module makes one for each command, so others find a gap. The
// caller holds mu.
func (c *chip) ask(f func(transport.TPM) error) error {
	conn, err := net.DialTimeout("unix", c.process.Socket(), askTime)
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

package tpm

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// A balance is of what commands loaded into the chip and took out again. It is
// kept where commands pass, so that it is right whatever becomes of an answer
// afterwards: one that cannot be parsed has loaded its object all the same.
type balance struct {
	loaded int  // objects and sessions
	unsure bool // one was refused, or its answer says so
}

// count takes a command that has its answer.
func (b *balance) count(command []byte, code tpm2.TPMRC) {
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCStartAuthSession:
		if code == tpm2.TPMRCSuccess {
			b.loaded++
		} else {
			b.unsure = true
		}
	case tpm2.TPMCCFlushContext:
		if code == tpm2.TPMRCSuccess {
			b.loaded--
		}
	}
}

// flush removes an object or session from the chip. To be deferred. An
// operation that has done its work does not fail for it: what stays in the
// chip is out of balance, and tidy finds it.
func (t *TPM) flush(h tpm2.TPMHandle) {
	tpm2.FlushContext{FlushHandle: h}.Execute(t.transport)
}

// tidy removes what earlier operations could not, before it takes up room: a
// chip has room for about three objects. The resource manager of /dev/tpmrm0
// keeps objects and sessions by open file and removes them with it.
func (t *TPM) tidy() error {
	if t.transport.balance == (balance{}) {
		return nil
	}
	if t.simulated {
		return t.flushLeftovers()
	}
	t.lock.Close()
	conn, lock, err := connect(t.device, t.transport.limit)
	if err != nil {
		return t.transport.fail(fmt.Errorf("%w: open it again: %w", ErrClosed, err))
	}
	t.transport.conn, t.lock, t.transport.balance = conn, lock, balance{}
	return nil
}

// flushLeftovers empties the chip's transient memory: objects, loaded and
// saved sessions (TPM 2.0 Part 2, section 7.2).
func (t *TPM) flushLeftovers() error {
	for _, first := range []tpm2.TPMHandle{0x80000000, 0x02000000, 0x03000000} {
		handles, err := t.handles(first)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.transport); err != nil {
				return fmt.Errorf("tpm: flush leftover %#x: %w", uint32(h), err)
			}
		}
	}
	t.transport.balance = balance{}
	return nil
}

// handles lists what the chip has in the range that starts at first.
func (t *TPM) handles(first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	return steady(func() ([]tpm2.TPMHandle, error) { return t.readHandles(first) }, slices.Equal)
}

func (t *TPM) readHandles(first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var all []tpm2.TPMHandle
	for next := first; ; {
		rsp, err := tpm2.GetCapability{
			Capability:    tpm2.TPMCapHandles,
			Property:      uint32(next),
			PropertyCount: 64,
		}.Execute(t.transport)
		if err != nil {
			return nil, fmt.Errorf("tpm: list handles: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("tpm: list handles: %w", err)
		}
		all = append(all, list.Handle...)
		if !rsp.MoreData || len(list.Handle) == 0 {
			return all, nil
		}
		next = list.Handle[len(list.Handle)-1] + 1
	}
}

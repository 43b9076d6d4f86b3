package tpm

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A TPM is the one owner of a chip. A chip has room for about three objects
// and three sessions, and a command of one client in the middle of another's
// policy session ends that session; so one process owns it, and in that
// process one operation at a time. Every method may be called from any
// goroutine. None leaves an object or session in the chip, also when it
// fails, and none holds more than two objects loaded.
type TPM struct {
	// mu is held for a whole operation, from its first command to its last.
	mu        sync.Mutex
	transport *transport
	lock      io.Closer
	closed    bool
	simulated bool // an swtpm: no resource manager, to be shut down by us

	info     Info
	nvBuffer int // bytes that one TPM2_NV_Read returns

	// What was found in the chip, so that it is looked for once.
	srk *storageKey
	ak  *attestationHandle
	ek  *endorsementHandle
}

// Open takes ownership of the chip behind the device: the path of a character
// device, of which /dev/tpmrm0 is the one to use, or "swtpm:" and the path of
// a software TPM's Unix socket. A chip that has an owner is [ErrBusy].
//
// An swtpm has no resource manager, so objects and sessions that a crashed
// owner left in it are flushed. On a device nothing is flushed: /dev/tpmrm0
// has no leftovers and on /dev/tpm0 they may be somebody else's.
func Open(device string) (*TPM, error) { return open(device, commandTime) }

func open(device string, limit time.Duration) (*TPM, error) {
	transport, lock, err := dial(device, limit)
	if err != nil {
		return nil, err
	}
	t := &TPM{transport: transport, lock: lock, simulated: strings.HasPrefix(device, "swtpm:")}
	if t.simulated {
		transport.limit = min(limit, probeTime)
	}
	if err := t.readInfo(); err != nil {
		transport.conn.Close()
		lock.Close()
		if errors.Is(err, ErrTimeout) && t.simulated {
			return nil, fmt.Errorf("%w, or hangs: %w", ErrBusy, err)
		}
		return nil, err
	}
	transport.limit = limit
	if t.simulated {
		if err := t.flushLeftovers(); err != nil {
			transport.conn.Close()
			lock.Close()
			return nil, err
		}
	}
	return t, nil
}

// Close gives the chip up. A software TPM is told of it with
// TPM2_Shutdown(CLEAR), because one that is then powered off without it counts
// a failed attempt against its protected keys; a real chip is told by the
// kernel. Closing twice is not an error.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	var err error
	if t.simulated && t.transport.failure == nil {
		_, err = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t.transport)
	}
	if t.transport.failure == nil {
		t.transport.failure = ErrClosed
		err = errors.Join(err, t.transport.conn.Close())
	}
	t.lock.Close() // on a device the same file, closed already
	return err
}

// begin starts an operation; its result ends it.
func (t *TPM) begin() (end func(), err error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	if t.transport.failure != nil {
		defer t.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrClosed, t.transport.failure)
	}
	return t.mu.Unlock, nil
}

// flush removes an object or session from the chip and keeps the error that
// the operation had. To be deferred.
func (t *TPM) flush(h tpm2.TPMHandle, err *error) {
	if _, e := (tpm2.FlushContext{FlushHandle: h}).Execute(t.transport); e != nil && *err == nil {
		*err = fmt.Errorf("tpm: flush %#x: %w", uint32(h), e)
	}
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
	return nil
}

// handles lists what the chip has in the range that starts at first.
func (t *TPM) handles(first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
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

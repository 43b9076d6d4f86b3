package tpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// scheme starts the device name of a software TPM.
const scheme = "swtpm:"

// A TPM is the one owner of a chip. A chip has room for about three objects
// and three sessions, and a command of one client in the middle of another's
// policy session ends that session; so one process owns it, and in that
// process one operation at a time. Every method may be called from any
// goroutine. None leaves an object or session in the chip, also when it
// fails, and none holds more than two objects loaded. What cannot be removed,
// because the chip refuses or its answer was damaged, is removed before the
// next operation.
type TPM struct {
	// turn is held for a whole operation, from its first command to its last.
	// closing is closed when nobody gets it any more.
	turn      chan struct{}
	closing   chan struct{}
	once      sync.Once // of Close
	device    string
	transport *transport
	lock      io.Closer
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
	conn, lock, err := connect(device, limit)
	if err != nil {
		return nil, err
	}
	t := &TPM{
		turn:      make(chan struct{}, 1),
		closing:   make(chan struct{}),
		device:    device,
		transport: &transport{conn: conn, limit: limit, cut: make(chan struct{})},
		lock:      lock,
		simulated: strings.HasPrefix(device, scheme),
	}
	if err := t.start(); err != nil {
		conn.Close()
		lock.Close()
		return nil, err
	}
	return t, nil
}

// start sends the first commands.
func (t *TPM) start() error {
	if !t.simulated {
		return t.readInfo()
	}
	limit := t.transport.limit
	t.transport.limit = min(limit, probeTime)
	if err := t.readInfo(); err != nil {
		// One that is busy says so; one that has another client says nothing.
		if _, said := errors.AsType[tpm2.TPMRC](err); errors.Is(err, ErrTimeout) && !said {
			return fmt.Errorf("%w, or hangs: %w", ErrBusy, err)
		}
		return err
	}
	t.transport.limit = limit
	return t.flushLeftovers()
}

// Close gives the chip up. A software TPM is told of it with
// TPM2_Shutdown(CLEAR), because one that is then powered off without it counts
// a failed attempt against its protected keys; a real chip is told by the
// kernel. Closing twice is not an error.
//
// Whoever waits for the chip gets [ErrClosed] at once. The operation under way
// has two seconds and is then cut off, so Close does not wait for a chip that
// hangs.
func (t *TPM) Close() (err error) {
	t.once.Do(func() {
		close(t.closing)
		select {
		case t.turn <- struct{}{}:
		case <-time.After(closeTime):
			close(t.transport.cut)
			t.turn <- struct{}{}
		}
		err = t.shutdown()
	})
	return err
}

// shutdown is the last operation.
func (t *TPM) shutdown() (err error) {
	t.transport.limit = closeTime
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

// begin starts an operation when it is its turn; its result ends it.
func (t *TPM) begin() (end func(), err error) { return t.beginUntil(context.Background()) }

// beginUntil is begin for those who do not wait longer than the context.
func (t *TPM) beginUntil(ctx context.Context) (end func(), err error) {
	select {
	case t.turn <- struct{}{}:
	case <-t.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	end = func() { <-t.turn }
	if err := t.ready(ctx); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// ready reports whether the operation whose turn it is may start.
func (t *TPM) ready(ctx context.Context) error {
	select {
	case <-t.closing:
		return ErrClosed
	default:
	}
	switch failure := t.transport.failure; {
	case errors.Is(failure, ErrClosed):
		return failure
	case failure != nil:
		return fmt.Errorf("%w: %w", ErrClosed, failure)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.tidy()
}

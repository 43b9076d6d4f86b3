package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// commandTime is how long a chip may take for one command, retries included.
// The slowest in use, an RSA key made by a discrete chip, takes under a minute.
const commandTime = 2 * time.Minute

// probeTime is how long an swtpm may take for the first command. One that
// serves another client does not refuse a second one; it lets it wait.
const probeTime = 5 * time.Second

// closeTime is how long Close waits: for the operation under way, and then for
// the chip to be told of it.
const closeTime = 2 * time.Second

// maxResponse is above the 4096 bytes of every TPM in use.
const maxResponse = 8192

// transport carries one command at a time to a chip. It implements go-tpm's
// transport.TPM. It has no lock of its own: its callers hold the TPM's turn.
type transport struct {
	conn    io.ReadWriteCloser
	limit   time.Duration
	failure error         // set once; every later command returns it
	cut     chan struct{} // closed by whoever does not wait for the chip any longer
	balance balance
}

// connect connects to the device and takes the lock that makes this process
// its owner. Closing the lock releases it; a device is its own.
func connect(device string, limit time.Duration) (conn io.ReadWriteCloser, lock io.Closer, err error) {
	if socket, ok := strings.CutPrefix(device, scheme); ok {
		return connectSocket(socket, limit)
	}
	info, err := os.Stat(device)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrDevice, device)
	}
	// Opened without O_NONBLOCK and so not polled by the runtime: read(2) of
	// a TPM that is polled returns 0 while the chip computes, which is EOF.
	fd, err := syscall.Open(device, syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	if err == syscall.EBUSY {
		return nil, nil, fmt.Errorf("%w: %s", ErrBusy, device)
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	f := os.NewFile(uintptr(fd), device)
	if err := flock(f); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, f, nil
}

// connectSocket connects to an swtpm. A socket cannot be locked, so a file
// next to it is. The queue of an swtpm has room for one or two; it is full for
// a moment when others have just left, and for long if they wait in it.
func connectSocket(socket string, limit time.Duration) (io.ReadWriteCloser, io.Closer, error) {
	info, err := os.Stat(socket)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrDevice, socket)
	}
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := flock(lock); err != nil {
		lock.Close()
		return nil, nil, err
	}
	deadline := time.Now().Add(min(limit, probeTime))
	conn, err := net.Dial("unix", socket)
	for errors.Is(err, syscall.EAGAIN) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		conn, err = net.Dial("unix", socket)
	}
	if err != nil {
		lock.Close()
		if errors.Is(err, syscall.EAGAIN) {
			err = fmt.Errorf("%w, and others wait for it: %w", ErrBusy, err)
		}
		return nil, nil, err
	}
	return conn, lock, nil
}

// flock takes the lock that an owner holds while it is open. The kernel
// releases it with the process, so a crash leaves nothing to clean up.
func flock(f *os.File) error {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case nil:
			return nil
		case syscall.EINTR:
		case syscall.EWOULDBLOCK:
			return fmt.Errorf("%w: %s is locked", ErrBusy, f.Name())
		default:
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// Send sends a command and returns the response. A chip that could not do it
// now gets the same bytes again; it has not looked at their nonces.
func (t *transport) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(t.limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 256*time.Millisecond) {
		response, err := t.exchange(command, time.Until(deadline))
		if err != nil {
			return nil, err
		}
		code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
		if !passing(code) {
			t.balance.count(command, code)
			if err := refusal(code); err != nil {
				return nil, err
			}
			return response, nil
		}
		if time.Until(deadline) < wait {
			return nil, t.fail(fmt.Errorf("%w: busy for %v: %w", ErrTimeout, t.limit, code))
		}
		select {
		case <-time.After(wait):
		case <-t.cut:
			return nil, t.fail(errCut)
		}
	}
}

// passing tells the refusals that are over soon: the chip has other things to
// do, saves its flash memory, or is short of working memory (TPM 2.0 Part 2,
// section 6.6.3).
func passing(code tpm2.TPMRC) bool {
	switch code {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable, tpm2.TPMRCMemory:
		return true
	}
	return false
}

// refusal names the refusals that are about the chip and not about the
// command, wherever they come.
func refusal(code tpm2.TPMRC) error {
	switch code {
	case tpm2.TPMRCLockout:
		return fmt.Errorf("%w: %w", ErrLockout, code)
	case tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap:
		return fmt.Errorf("%w: %w", ErrMemory, code)
	case tpm2.TPMRCFailure:
		return fmt.Errorf("%w: %w", ErrFailure, code)
	}
	return nil
}

// errCut is the end of an operation that Close did not wait for.
var errCut = fmt.Errorf("%w while the chip was at work", ErrClosed)

// exchange is one write and one read, in a goroutine of their own because
// neither can be given a deadline on every kind of device. After a failure
// the connection is never used again: a late response would be taken for the
// next command's.
func (t *transport) exchange(command []byte, limit time.Duration) ([]byte, error) {
	if t.failure != nil {
		return nil, t.failure
	}
	type result struct {
		response []byte
		err      error
	}
	done := make(chan result, 1)
	conn := t.conn
	go func() {
		response, err := roundTrip(conn, command)
		done <- result{response, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, t.fail(fmt.Errorf("%w: connection to the chip: %w", ErrClosed, r.err))
		}
		return r.response, nil
	case <-timer.C:
		return nil, t.fail(fmt.Errorf("%w: no answer within %v", ErrTimeout, t.limit))
	case <-t.cut:
		return nil, t.fail(errCut)
	}
}

// fail ends the transport, for this reason. The connection is closed aside:
// closing a character device waits for a driver that hangs.
func (t *transport) fail(err error) error {
	t.failure = err
	go t.conn.Close()
	return err
}

// roundTrip returns a whole response: tag, size, response code and the rest.
// A device hands it over in one read, a socket in any number.
func roundTrip(conn io.ReadWriter, command []byte) ([]byte, error) {
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	buf := make([]byte, maxResponse)
	n, want := 0, 10
	for n < want {
		k, err := conn.Read(buf[n:])
		if k == 0 && err == nil {
			err = io.ErrNoProgress
		}
		if err != nil {
			return nil, err
		}
		n += k
		if n >= 10 {
			size := binary.BigEndian.Uint32(buf[2:])
			if size < 10 || size > maxResponse {
				return nil, fmt.Errorf("response of %d bytes", size)
			}
			want = int(size)
		}
	}
	if n != want {
		return nil, fmt.Errorf("%d bytes after the response", n-want)
	}
	return buf[:n], nil
}

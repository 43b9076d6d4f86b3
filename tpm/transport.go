package tpm

import (
	"encoding/binary"
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

// maxResponse is above the 4096 bytes of every TPM in use.
const maxResponse = 8192

// transport carries one command at a time to a chip. It implements go-tpm's
// transport.TPM. It has no lock of its own: TPM.mu is held by its callers.
type transport struct {
	conn    io.ReadWriteCloser
	limit   time.Duration
	failure error // set once; every later command returns it
}

// dial connects to the device and takes the lock that makes this process its
// owner. The lock is released by closing release.
func dial(device string, limit time.Duration) (t *transport, release io.Closer, err error) {
	if socket, ok := strings.CutPrefix(device, "swtpm:"); ok {
		return dialSocket(socket, limit)
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
	fd, err := syscall.Open(device, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err == syscall.EBUSY {
		return nil, nil, fmt.Errorf("%w: %s", ErrBusy, device)
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	// A device carries the lock itself.
	f := os.NewFile(uintptr(fd), device)
	if err := flock(f); err != nil {
		f.Close()
		return nil, nil, err
	}
	return &transport{conn: f, limit: limit}, f, nil
}

// dialSocket connects to an swtpm. A socket cannot be locked, so a file next
// to it is.
func dialSocket(socket string, limit time.Duration) (*transport, io.Closer, error) {
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
	conn, err := net.DialTimeout("unix", socket, probeTime)
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	return &transport{conn: conn, limit: limit}, lock, nil
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

// Send sends a command and returns the response. A chip that could not start
// the command (TPM 2.0 Part 2, section 6.6.3: TPM_RC_RETRY, _YIELDED,
// _TESTING) gets the same bytes again; it has not looked at their nonces.
func (t *transport) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(t.limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 256*time.Millisecond) {
		response, err := t.exchange(command, time.Until(deadline))
		if err != nil {
			return nil, err
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		default:
			return response, nil
		}
		if time.Until(deadline) < wait {
			return nil, fmt.Errorf("%w: busy for %v", ErrTimeout, t.limit)
		}
		time.Sleep(wait)
	}
}

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
	go func() {
		response, err := roundTrip(t.conn, command)
		done <- result{response, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.err != nil {
			t.fail(fmt.Errorf("tpm: connection to the chip: %w", r.err))
			return nil, t.failure
		}
		return r.response, nil
	case <-timer.C:
		t.fail(fmt.Errorf("%w within %v", ErrTimeout, t.limit))
		return nil, t.failure
	}
}

// fail ends the transport. The connection is closed aside: closing a
// character device waits for a driver that hangs.
func (t *transport) fail(err error) {
	t.failure = err
	go t.conn.Close()
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

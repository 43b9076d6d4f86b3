package tpm_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A tty is an swtpm behind a character device: a pseudo-terminal, as machines
// without /dev/tpmrm0 have it. Unlike that one it does not flush what its users
// leave.
type tty struct {
	device string

	mu    sync.Mutex
	judge func(command []byte) (response []byte) // blocks as long as it likes; nil: the chip
}

func newTTY(t *testing.T, process *tpmtest.TPM) *tty {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	number := must(unix.IoctlGetInt(fd, unix.TIOCGPTN))(t)
	raw := must(unix.IoctlGetTermios(fd, unix.TCGETS))(t)
	raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := errors.Join(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetTermios(fd, unix.TCSETS, raw)); err != nil {
		t.Fatal(err)
	}
	d := &tty{device: fmt.Sprintf("/dev/pts/%d", number)}
	// While somebody has it open the other end is there.
	open := must(unix.Open(d.device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0))(t)
	chip := must(net.Dial("unix", strings.TrimPrefix(process.Device(), "swtpm:")))(t)
	t.Cleanup(func() {
		unix.Close(open)
		master.Close()
		chip.Close()
	})
	go func() {
		for {
			command, err := message(master)
			if err != nil {
				return
			}
			d.mu.Lock()
			judge := d.judge
			d.mu.Unlock()
			var response []byte
			if judge != nil {
				response = judge(command)
			}
			if response == nil {
				if _, err := chip.Write(command); err != nil {
					return
				}
				if response, err = message(chip); err != nil {
					return
				}
			}
			if _, err := master.Write(response); err != nil {
				return
			}
		}
	}()
	return d
}

func (d *tty) decide(judge func(command []byte) []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.judge = judge
}

// A device is opened anew for what could not be flushed, and is still ours
// afterwards.
func TestDeviceLeftovers(t *testing.T) {
	d := newTTY(t, tpmtest.New(t))
	chip := must(tpm.Open(d.device))(t)
	defer chip.Close()
	file := createKey(t, chip, newApprover(t).sealing())
	before := chip.Connection()
	wantSigns(t, "on a device", chip, file)
	if chip.Connection() != before {
		t.Error("opened anew for nothing")
	}
	refused := 0
	d.decide(func(command []byte) []byte {
		if commandCode(command) != uint32(tpm2.TPMCCFlushContext) || refused > 0 {
			return nil
		}
		refused++
		return refusal(uint32(tpm2.TPMRCDisabled))
	})
	wantSigns(t, "while a flush fails", chip, file)
	wantSigns(t, "after it", chip, file)
	if refused != 1 || chip.Connection() == before {
		t.Error("not opened anew")
	}
	if _, err := tpm.Open(d.device); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("a second owner: %v", err)
	}
	if err := chip.Close(); err != nil {
		t.Error(err)
	}
	again := must(tpm.Open(d.device))(t)
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A device whose driver hangs is given up; it is free when the driver returns.
func TestDeviceHangs(t *testing.T) {
	d := newTTY(t, tpmtest.New(t))
	chip := must(tpm.Open(d.device))(t)
	file := createKey(t, chip, nil)
	key := must(chip.LoadKey(file))(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	d.decide(func(command []byte) []byte {
		if commandCode(command) == uint32(tpm2.TPMCCSign) {
			close(entered)
			<-leave
			d.decide(nil)
		}
		return nil
	})
	signed := make(chan error, 1)
	go func() { _, err := key.Sign(t.Context(), fleet, statement); signed <- err }()
	<-entered
	within(t, "Close", 4*time.Second, func() {
		if err := chip.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := <-signed; !errors.Is(err, tpm.ErrClosed) {
		t.Errorf("the signature that was cut off: %v", err)
	}
	if _, err := tpm.Open(d.device); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("opened while the driver hangs: %v", err)
	}
	close(leave)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		again, err := tpm.Open(d.device)
		if err == nil {
			again.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not free when the driver has returned: %v", err)
		}
	}
}

package chip_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must is for calls whose failure is a broken test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// blank is an swtpm that no manufacturer has certified, which is made much
// faster than one of tpmtest.
func blank(t testing.TB) *swtpm.Process {
	t.Helper()
	p, err := swtpm.Start(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, p.Stop()) })
	return p
}

// newChip makes a chip in front of the swtpm, until the test ends.
func newChip(t testing.TB, behind *swtpm.Process, m chip.Model) *chip.Chip {
	t.Helper()
	c, err := chip.New("", behind.Device(), m)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// wires are a connection with nothing to it: no retries, no limit. They are
// go-tpm's transport.TPM.
type wires struct{ net.Conn }

func (w wires) Send(command []byte) ([]byte, error) {
	if _, err := w.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, 10)
	if _, err := io.ReadFull(w, answer); err != nil {
		return nil, err
	}
	rest := make([]byte, max(binary.BigEndian.Uint32(answer[2:]), 10)-10)
	_, err := io.ReadFull(w, rest)
	return append(answer, rest...), err
}

// connect opens a device until the test ends, or until it is closed. An swtpm
// that has not noticed yet that others have gone has no room for one more.
func connect(t testing.TB, device string) wires {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(device, "swtpm:"))
	for ; errors.Is(err, syscall.EAGAIN); conn, err = net.Dial("unix", strings.TrimPrefix(device, "swtpm:")) {
		time.Sleep(time.Millisecond)
	}
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return wires{conn}
}

// random asks for random bytes: the least that a chip does.
func (w wires) random() error {
	rsp, err := tpm2.GetRandom{BytesRequested: 16}.Execute(w)
	if err == nil && len(rsp.RandomBytes.Buffer) != 16 {
		err = fmt.Errorf("%d random bytes", len(rsp.RandomBytes.Buffer))
	}
	return err
}

// handles lists the objects and sessions in the chip.
func (w wires) handles(t testing.TB) (all []tpm2.TPMHandle) {
	t.Helper()
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(w)
		check(t, err)
		list, err := rsp.CapabilityData.Data.Handles()
		check(t, err)
		all = append(all, list.Handle...)
	}
	return all
}

// wantEmpty looks into the swtpm itself, behind its chip.
func wantEmpty(t testing.TB, step string, behind *swtpm.Process) {
	t.Helper()
	w := connect(t, behind.Device())
	defer w.Close()
	if left := w.handles(t); len(left) != 0 {
		t.Errorf("%s: objects and sessions are left in the chip: %x", step, left)
	}
}

// A chip of the zero model is its swtpm.
func TestTransparent(t *testing.T) {
	behind := blank(t)
	read := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTManufacturer),
		PropertyCount: 16,
	}
	ask := func(device string) string {
		w := connect(t, device)
		defer w.Close()
		return string(tpm2.Marshal(must(read.Execute(w))(t).CapabilityData))
	}
	c := newChip(t, behind, chip.Model{})
	if got, want := ask(c.Device()), ask(behind.Device()); got != want {
		t.Errorf("the chip says %x, and the swtpm behind it %x", got, want)
	}
	w := connect(t, c.Device())
	for range 3 {
		check(t, w.random())
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x80000000)}).Execute(w); !errors.Is(err, tpm2.TPMRCReferenceH0) {
		t.Errorf("an object that is not there: %v, want %v", err, tpm2.TPMRCReferenceH0)
	}
	if a, b, all := c.Calls(tpm2.TPMCCGetRandom), c.Calls(tpm2.TPMCCReadPublic), c.Calls(0); a != 3 || b != 1 || all != 5 {
		t.Errorf("%d, %d and %d commands were counted, want 3, 1 and 5", a, b, all)
	}
}

// A second owner's command waits for the first owner to go, and finds what he
// left.
func TestOneOwner(t *testing.T) {
	behind := blank(t)
	c := newChip(t, behind, chip.Model{})
	first := connect(t, c.Device())
	created := must(tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHNull,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(first))(t)
	second := connect(t, c.Device())
	answered := make(chan error, 1)
	go func() { answered <- second.random() }()
	for range 100 {
		check(t, first.random())
	}
	if len(answered) > 0 {
		t.Error("two owners are served at a time")
	}
	check(t, first.Close())
	check(t, <-answered)
	if left := second.handles(t); len(left) != 1 || left[0] != created.ObjectHandle {
		t.Errorf("objects in the chip: %x, want the one of the first owner, %x", left, created.ObjectHandle)
	}
}

// An owner in the middle of a power cut is cut off, and the next one finds the
// chip again.
func TestPowerCycle(t *testing.T) {
	behind := blank(t)
	c := newChip(t, behind, chip.Model{})
	w := connect(t, c.Device())
	check(t, w.random())
	check(t, behind.Kill())
	if err := w.random(); err == nil {
		t.Error("a chip without power answers")
	}
	if err := connect(t, c.Device()).random(); err == nil {
		t.Error("a chip without power answers a new owner")
	}
	check(t, behind.Restart())
	check(t, connect(t, c.Device()).random())
}

func TestNew(t *testing.T) {
	behind := blank(t)
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	check(t, os.Mkdir(long, 0o700))
	for _, test := range []struct {
		name, dir, device string
		model             chip.Model
		want              string
	}{
		{"no scheme", "", strings.TrimPrefix(behind.Device(), "swtpm:"), chip.Model{}, "swtpm:/path/to/socket"},
		{"no socket", "", behind.Device() + "x", chip.Model{}, "no such file"},
		{"no directory", filepath.Join(t.TempDir(), "x"), behind.Device(), chip.Model{}, "no such file"},
		{"long path", long, behind.Device(), chip.Model{}, "at most 107"},
		{"model", "", behind.Device(), chip.Model{Busy: 1}, "busy 1 must be"},
	} {
		c, err := chip.New(test.dir, test.device, test.model)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.want)
		}
	}
	if left := must(os.ReadDir(long))(t); len(left) != 0 {
		t.Errorf("what failed left %v behind", left)
	}
}

// Close ends everything, also what hangs.
func TestClose(t *testing.T) {
	behind := blank(t)
	dir := t.TempDir()
	c, err := chip.New(dir, behind.Device(), chip.Model{})
	check(t, err)
	idle, hanging := connect(t, c.Device()), connect(t, c.Device())
	check(t, c.Inject(chip.Fault{Kind: chip.Hang}))
	answered := make(chan error, 1)
	go func() { answered <- hanging.random() }()
	await(t, c, tpm2.TPMCCGetRandom, 1)
	check(t, c.Close())
	check(t, c.Close())
	if err := <-answered; err == nil {
		t.Error("a command is answered by a chip that was closed")
	}
	if err := idle.random(); err == nil {
		t.Error("a chip that was closed takes commands")
	}
	if left := must(os.ReadDir(dir))(t); len(left) != 0 {
		t.Errorf("a chip that was closed left %v behind", left)
	}
	check(t, connect(t, behind.Device()).random())
}

package swtpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/simulator/swtpm"
)

func located(t *testing.T) {
	t.Helper()
	if err := swtpm.Locate(); err != nil {
		t.Fatalf("%v: apt-get install swtpm swtpm-tools (make deps)", err)
	}
}

// ask sends one raw command to the TPM and returns its response code and the
// rest of the answer.
func ask(t *testing.T, p *swtpm.Process, command ...byte) (uint32, []byte) {
	t.Helper()
	conn, answer := begin(t, strings.TrimPrefix(p.Device(), "swtpm:"), command, 10)
	defer conn.Close()
	rest := make([]byte, binary.BigEndian.Uint32(answer[2:])-10)
	if _, err := io.ReadFull(conn, rest); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(answer[6:]), rest
}

// begin sends a command to a socket and returns the first bytes of the answer.
func begin(t *testing.T, socket string, command []byte, n int) (net.Conn, []byte) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(command); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	return conn, answer
}

// control asks on the control channel what it can do (CMD_GET_CAPABILITY of
// swtpm_ioctls(3)).
func control(t *testing.T, p *swtpm.Process) {
	t.Helper()
	conn, answer := begin(t, p.Socket()+".ctrl", []byte{0, 0, 0, 1}, 8)
	defer conn.Close()
	if binary.BigEndian.Uint64(answer) == 0 {
		t.Error("the control channel can do nothing")
	}
}

// resetCount reads the clock (TPM2_ReadClock): TPMS_TIME_INFO holds time,
// clock, resetCount, restartCount, safe.
func resetCount(t *testing.T, p *swtpm.Process) uint32 {
	t.Helper()
	rc, info := ask(t, p, 0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81)
	if rc != 0 || len(info) != 25 {
		t.Fatalf("TPM2_ReadClock: rc %#x, %d bytes", rc, len(info))
	}
	return binary.BigEndian.Uint32(info[16:])
}

func TestLife(t *testing.T) {
	located(t)
	dir := t.TempDir()
	ca := filepath.Join(dir, "manufacturer")
	state, err := swtpm.Manufacture(filepath.Join(dir, "chips"), "node-0", ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range swtpm.Roots(ca) {
		pem, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(pem, []byte("BEGIN CERTIFICATE")) {
			t.Errorf("%s is not a PEM certificate (%v)", path, err)
		}
	}

	p, err := swtpm.Start(state)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	socket := p.Socket()
	if len(socket) >= 100 {
		t.Errorf("socket path has %d bytes, sockaddr_un ends at 108: %s", len(socket), socket)
	}
	control(t, p)
	first := resetCount(t, p)
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := resetCount(t, p); got != first+1 {
		t.Errorf("resetCount after a power cycle = %d, want %d", got, first+1)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		conn.Close()
		t.Error("a killed TPM accepts connections")
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := resetCount(t, p); got != first+2 {
		t.Errorf("resetCount after a loss of power = %d, want %d", got, first+2)
	}
	control(t, p)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stop left %s behind", filepath.Dir(socket))
	}
}

// A factory runs in parallel: chips of one CA made at the same time.
func TestManufactureConcurrently(t *testing.T) {
	located(t)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			if _, err := swtpm.Manufacture(dir, name, ca); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if _, err := swtpm.Manufacture(dir, "a", ca); !errors.Is(err, os.ErrExist) {
		t.Errorf("manufacturing a chip twice: %v, want %v", err, os.ErrExist)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "-x", "a/b", "a b", "a\n", strings.Repeat("a", 65)} {
		if _, err := swtpm.Manufacture(t.TempDir(), name, t.TempDir()); !errors.Is(err, swtpm.ErrName) {
			t.Errorf("Manufacture(%q): %v, want %v", name, err, swtpm.ErrName)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var missing *swtpm.MissingError
	if err := swtpm.Locate(); !errors.As(err, &missing) || missing.Hint() == "" {
		t.Fatalf("Locate without swtpm: %v, want a *MissingError with a hint", err)
	}
	if _, err := swtpm.Start(t.TempDir()); !errors.As(err, &missing) {
		t.Errorf("Start without swtpm: %v", err)
	}
}

// A new chip has no endorsement certificate, which the manufacturer leaves at
// 0x01c00002, and keeps its state as others do.
func TestStartEmpty(t *testing.T) {
	located(t)
	p, err := swtpm.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if rc, _ := ask(t, p, 0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x69, 0x01, 0xc0, 0, 0x02); rc == 0 {
		t.Error("TPM2_NV_ReadPublic finds a certificate in a new chip")
	}
	first := resetCount(t, p)
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := resetCount(t, p); got != first+1 {
		t.Errorf("resetCount after a power cycle = %d, want %d", got, first+1)
	}
}

// A directory in which a TPM cannot start is an error and not a hang.
func TestStartFails(t *testing.T) {
	located(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("not a TPM's state"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := swtpm.Start(dir)
	if err == nil {
		p.Stop()
		t.Fatal("a TPM with a broken state starts")
	}
}

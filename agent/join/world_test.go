package join_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A goroutine that outlives its join fails the whole run.
func TestMain(m *testing.M) {
	if os.Getenv("CHANCERY_TEST_JOIN") != "" {
		os.Exit(joinInChild())
	}
	goleak.VerifyTestMain(m)
}

// A machine is a computer that wants to join: a chip, tapped, and a disk.
type machine struct {
	t    *testing.T
	chip *tpmtest.TPM
	tap  *tap
	path string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	chip := tpmtest.New(t)
	return &machine{t: t, chip: chip, tap: tapChip(t, chip.Device()), path: filepath.Join(t.TempDir(), "state")}
}

// options are those of an ordinary join of the machine.
func (m *machine) options(c *testcoordinator.Coordinator) join.Options {
	token := c.Token()
	return join.Options{
		URL: c.URL, Fleet: c.Fleet(), Token: &token, Name: "edge-1", Device: m.tap.device, PCRs: tpm.DefaultPCRs, Wait: true, Now: time.Now,
		Step: func(join.Step) {}, Notice: func(s string) { m.t.Log(s) },
	}
}

func (m *machine) join(o join.Options) (*join.Result, error) {
	m.t.Helper()
	dir, err := state.Open(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	return join.Join(ctx, dir, o)
}

// look returns what is on the machine's disk.
func (m *machine) look() *state.Dir {
	m.t.Helper()
	dir, err := state.Look(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { dir.Close() })
	return dir
}

func (m *machine) nodeKey() chancery.PublicKey {
	m.t.Helper()
	file, err := m.look().Key()
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := file.PublicKey()
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

// wantEnrolled checks that everything on disk is there, fits together, and
// verifies as a peer would verify it, and that nothing is left of the way.
func (m *machine) wantEnrolled(c *testcoordinator.Coordinator) *chancery.Certificate {
	m.t.Helper()
	dir := m.look()
	nc, err := dir.Certificate()
	if err != nil {
		m.t.Fatal(err)
	}
	p, err := dir.Pointer()
	if err != nil {
		m.t.Fatal(err)
	}
	list, err := dir.CRL()
	if err != nil {
		m.t.Fatal(err)
	}
	v := chancery.NewVerifier(chancery.Trust{Pointer: p})
	if _, err := v.UpdateCRL(list, time.Now()); err != nil {
		m.t.Fatal(err)
	}
	if _, err := v.Verify([][]byte{nc.Raw()}, "edge-1", chancery.NodeID{}, chancery.Policy{MinAssurance: chancery.AssuranceEK}, time.Now()); err != nil {
		m.t.Error(err)
	}
	if !nc.NodeKey.Equal(m.nodeKey()) {
		m.t.Error("the certificate is not for the key on disk")
	}
	config, err := dir.Config()
	if err != nil {
		m.t.Fatal(err)
	}
	if config.Name != nc.Name || config.Fleet != c.Fleet().Pin() || config.TPM != m.tap.device || !slices.Equal(config.PCRs, tpm.DefaultPCRs) {
		m.t.Errorf("configuration %+v", config)
	}
	files, err := os.ReadDir(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range files {
		if info, _ := f.Info(); info.Mode().Perm() != 0o600 {
			m.t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
		if strings.HasSuffix(f.Name(), ".tmp") || f.Name() == "intake.json" {
			m.t.Errorf("%s is left over", f.Name())
		}
	}
	return nc
}

func (m *machine) wantNotEnrolled() {
	m.t.Helper()
	if m.look().Enrolled() {
		m.t.Error("the node has a certificate")
	}
}

// A tap stands between an agent and its chip and writes down the commands.
type tap struct {
	device string
	// mu guards commands.
	mu       sync.Mutex
	commands []uint32
}

// Command codes of TPM 2.0 Part 2, section 6.5.2.
const (
	ccActivateCredential = 0x147
	ccCertifyCreation    = 0x14a
	ccQuote              = 0x158
)

func tapChip(t *testing.T, device string) *tap {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tap")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{device: "swtpm:" + path}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { p.forward(from, strings.TrimPrefix(device, "swtpm:")) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		connections.Wait()
	})
	return p
}

func (p *tap) forward(from net.Conn, socket string) {
	defer from.Close()
	to, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer to.Close()
	for {
		command, err := message(from)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.commands = append(p.commands, binary.BigEndian.Uint32(command[6:]))
		p.mu.Unlock()
		if _, err := to.Write(command); err != nil {
			return
		}
		response, err := message(to)
		if err != nil {
			return
		}
		if _, err := from.Write(response); err != nil {
			return
		}
	}
}

// message reads a command or a response: tag, size, code and the rest.
func message(r io.Reader) ([]byte, error) {
	b := make([]byte, 10, 4096)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[2:])
	if size < 10 || size > 4096 {
		return nil, errors.New("not a TPM message")
	}
	b = b[:size]
	_, err := io.ReadFull(r, b[10:])
	return b, err
}

// saw reports whether the chip was sent any of the commands.
func (p *tap) saw(codes ...uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.commands, func(c uint32) bool { return slices.Contains(codes, c) })
}

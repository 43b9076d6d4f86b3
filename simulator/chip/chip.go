package chip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// A Chip stands between the owners of an swtpm and the swtpm. Its methods may be
// called from any goroutine, and at any time.
type Chip struct {
	model    Model
	swtpm    string // its socket
	home     string // the directory of ours
	listener net.Listener

	ctx  context.Context // ends with Close
	end  context.CancelFunc
	life sync.WaitGroup // of the goroutines

	// mu guards the fields below. It is never held while a command is under
	// way or a hook runs.
	mu      sync.Mutex
	random  *rand.Rand
	calls   map[tpm2.TPMCC]uint64
	faults  []*injected
	cleared chan struct{} // closed, and made anew, by Clear
	tap     tap
	command func(command []byte) []byte
	answer  func(command, answer []byte) []byte
}

const scheme = "swtpm:"

// maxSocket is what sockaddr_un of Linux has room for, without the last zero.
const maxSocket = 107

// New makes a chip of the model in front of the swtpm with that device name,
// "swtpm:" and the path of a Unix socket. The chip's own socket is in a new
// directory in dir; dir may be empty, for one whose paths are short. The swtpm
// may be restarted and replaced meanwhile: it is looked for when an owner
// connects.
func New(dir, device string, m Model) (*Chip, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if os.Getenv("SIM_CALM") != "" {
		m.Busy = 0
	}
	socket, ok := strings.CutPrefix(device, scheme)
	if !ok {
		return nil, fmt.Errorf("chip: %q: a chip stands in front of a device named %s/path/to/socket", device, scheme)
	}
	if _, err := os.Stat(socket); err != nil {
		return nil, fmt.Errorf("chip: %w", err)
	}
	home, listener, err := listen(dir)
	if err != nil {
		return nil, fmt.Errorf("chip: %w", err)
	}
	c := &Chip{
		model:    m,
		swtpm:    socket,
		home:     home,
		listener: listener,
		random:   rand.New(rand.NewPCG(m.Seed, 0)),
		calls:    map[tpm2.TPMCC]uint64{},
		cleared:  make(chan struct{}),
	}
	c.ctx, c.end = context.WithCancel(context.Background())
	c.life.Go(c.accept)
	return c, nil
}

// listen makes the directory with the socket.
func listen(dir string) (home string, l net.Listener, err error) {
	if dir == "" {
		if dir = os.TempDir(); len(dir) > 60 {
			dir = "/tmp"
		}
	}
	if home, err = os.MkdirTemp(dir, "chip-"); err != nil {
		return "", nil, err
	}
	socket := filepath.Join(home, "s")
	if len(socket) > maxSocket {
		err = fmt.Errorf("the path of the socket has %d bytes, at most %d are possible: %s", len(socket), maxSocket, socket)
	} else {
		l, err = net.Listen("unix", socket)
	}
	if err != nil {
		os.RemoveAll(home)
	}
	return home, l, err
}

// Device returns the name under which package tpm opens the chip.
func (c *Chip) Device() string { return scheme + filepath.Join(c.home, "s") }

// Model returns what the chip was made as.
func (c *Chip) Model() Model { return c.model }

// Calls returns how often a command was sent; of all commands together, if the
// code is 0. One that is sent again because the chip was busy counts again.
func (c *Chip) Calls(code tpm2.TPMCC) (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if code != 0 {
		return c.calls[code]
	}
	for _, calls := range c.calls {
		n += calls
	}
	return n
}

// Close cuts the connections of all owners, also of those whose command hangs,
// and removes the socket. A second Close does nothing. The swtpm runs on.
func (c *Chip) Close() error {
	c.end()
	err := c.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	c.life.Wait()
	return errors.Join(err, os.RemoveAll(c.home))
}

// accept serves owners until Close.
func (c *Chip) accept() {
	for {
		owner, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.life.Go(func() { c.serve(owner) })
	}
}

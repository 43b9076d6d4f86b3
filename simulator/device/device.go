package device

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// How the module in C finds its device.
const (
	moduleVariable = "CHANCERY_DEVICE_MODULE"
	stateVariable  = "CHANCERY_DEVICE_STATE"
)

// A Device is a PKCS#11 module with a model and with faults. Its methods may be
// called by many goroutines, and at any time while processes use the device.
type Device struct {
	library string // the module in C
	module  string // the real one
	path    string // of the state

	mu     sync.Mutex // guards the fields below, and who writes faults
	mem    []byte     // the mapping; nil after Close
	lastID uint32     // of a fault
}

// New makes a device of the model that stands before the PKCS#11 module at the
// path. Its files are in dir, which New creates if need be. The directory may
// have been used before: what is compiled there is used again, and several
// devices in it do not know of each other.
func New(dir, module string, m Model) (*Device, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	module, err = filepath.Abs(module)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	if _, err := os.Stat(module); err != nil {
		return nil, fmt.Errorf("device: PKCS#11 module: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	library, err := build(dir)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	path, mem, err := newState(dir, m)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	return &Device{library: library, module: module, path: path, mem: mem}, nil
}

// Module returns the path of the PKCS#11 module to open. All devices of a
// directory have the same: it is the environment that tells them apart, when
// the module is loaded.
func (d *Device) Module() string { return d.library }

// Env returns the environment variables that a process needs to use the
// device, besides those of the module behind it. A process uses one device at
// a time.
func (d *Device) Env() map[string]string {
	return map[string]string{moduleVariable: d.module, stateVariable: d.path}
}

// Inject puts a fault in force. There may be 64 at a time; one that has hit its
// number of calls no longer counts.
func (d *Device) Inject(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	function, _ := number(f.Function)
	return d.with(func(s *state) error {
		for i := range s.faults {
			if s.faults[i].free() {
				d.lastID++
				s.faults[i].set(f, function, d.lastID)
				return nil
			}
		}
		return fmt.Errorf("device: %d faults are in force already, that is the most", maxFaults)
	})
}

// Clear ends all faults, also for the calls that hang.
func (d *Device) Clear() {
	d.must(func(s *state) {
		for i := range s.faults {
			s.faults[i].ticket.Store(0)
		}
	})
}

// RenumberSlots adds the offset to the module's slot numbers, in place of the
// offset before. The former numbers are then CKR_SLOT_ID_INVALID, unless they
// happen to be new ones of other slots. Sessions stay.
func (d *Device) RenumberSlots(offset int) {
	d.must(func(s *state) { s.slotOffset.Store(uint64(offset)) })
}

// SetTokenFlags changes the flags that C_GetTokenInfo answers (CKF_*): those in
// set are there, those in clear are not, whatever the token says. It replaces
// the change before.
func (d *Device) SetTokenFlags(set, clear uint) {
	d.must(func(s *state) {
		s.flagsSet.Store(uint64(set))
		s.flagsCleared.Store(uint64(clear))
	})
}

// Calls returns how often a function was called, by all processes together. It
// panics if PKCS#11 2.40 has no such function.
func (d *Device) Calls(function string) (n uint64) {
	i, known := number(function)
	if !known {
		panic(fmt.Sprintf("device: PKCS#11 2.40 has no function %q", function))
	}
	d.must(func(s *state) { n = s.calls[i].Load() })
	return n
}

// Close ends this process' control of the device. Processes that use it go on,
// with the faults that are in force. A second Close does nothing; other methods
// that change or read the device's state then fail, and those that return no
// error panic.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mem == nil {
		return nil
	}
	mem := d.mem
	d.mem = nil
	return unix.Munmap(mem)
}

// with runs f with the state, which is mapped meanwhile.
func (d *Device) with(f func(*state) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mem == nil {
		return fmt.Errorf("device: %w", os.ErrClosed)
	}
	return f(stateOf(d.mem))
}

func (d *Device) must(f func(*state)) {
	if err := d.with(func(s *state) error { f(s); return nil }); err != nil {
		panic(err)
	}
}

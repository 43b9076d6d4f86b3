package device

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The layout of the shared state is that of struct state in device.c: words of
// 64 bits and nothing else, so that two compilers agree about it. Whoever maps
// it compares the first three.
const (
	magic   = 0x4543495645444b43 // "CKDEVICE"
	version = 1
)

const maxFaults = 64

type word = atomic.Uint64

// faultState is in force while its ticket is not 0: an identity that is never
// used twice, above a count of the calls seen, in 32 bits each. Who reads it
// exchanges the ticket last; who writes it sets the ticket last.
type faultState struct {
	ticket                                   word
	function, kind, skip, times, code, delay word
}

// place is a session in the device. Only device.c uses it.
type place struct {
	owner, used, busy word
}

type state struct {
	magic, version, size word

	latency, units, sessions, idle, jitter word // the model
	slotOffset, flagsSet, flagsCleared     word // what a test turns

	random, opened word
	freeAt         [maxUnits]word
	places         [maxSessions]place

	calls  [len(functions)]word
	faults [maxFaults]faultState
}

const stateSize = unsafe.Sizeof(state{})

// newState makes a state of its own in dir, and maps it.
func newState(dir string, m Model) (path string, mem []byte, err error) {
	f, err := os.CreateTemp(dir, "state-*")
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	// Written rather than truncated to its size: on a full disk a page that is
	// not there yet would be a SIGBUS in every process.
	if _, err := f.Write(make([]byte, stateSize)); err != nil {
		os.Remove(f.Name())
		return "", nil, err
	}
	mem, err = unix.Mmap(int(f.Fd()), 0, int(stateSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		os.Remove(f.Name())
		return "", nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	s := stateOf(mem)
	s.latency.Store(uint64(m.Latency))
	s.units.Store(uint64(m.Parallel))
	s.sessions.Store(uint64(m.Sessions))
	s.idle.Store(uint64(m.Idle))
	s.jitter.Store(uint64(m.Jitter * 1e6))
	s.size.Store(uint64(stateSize))
	s.version.Store(version)
	s.magic.Store(magic)
	return f.Name(), mem, nil
}

// stateOf is the mapping as the struct that it is. Pages are aligned to more
// than words.
func stateOf(mem []byte) *state { return (*state)(unsafe.Pointer(&mem[0])) }

// set makes f the fault. Nobody may see a part of it under a ticket.
func (s *faultState) set(f Fault, function int, id uint32) {
	s.ticket.Store(0)
	s.function.Store(uint64(function))
	s.kind.Store(uint64(f.Kind))
	s.skip.Store(uint64(f.Skip))
	s.times.Store(uint64(f.Times))
	s.code.Store(uint64(f.Code))
	s.delay.Store(uint64(f.Delay))
	s.ticket.Store(uint64(id) << 32)
}

// free reports whether there is no fault that could hit a call. One that calls
// are still hanging in is not free, although it hits no more.
func (s *faultState) free() bool {
	t := s.ticket.Load()
	if t == 0 {
		return true
	}
	times := s.times.Load()
	return times > 0 && t&0xffffffff >= s.skip.Load()+times && Kind(s.kind.Load()) != Hang
}

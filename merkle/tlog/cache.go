package tlog

import (
	"fmt"
	"sync"
)

// A Cache keeps full tiles and entry bundles, which never change. It need not
// be trusted: what it returns is authenticated like what a server sent, and
// fetched anew if it does not hold. A Cache is safe for concurrent use.
type Cache interface {
	Get(Tile) ([]byte, bool)
	Put(Tile, []byte)
}

// NewMemory returns a cache that holds at least the n tiles that were used
// last, and at most twice as many.
func NewMemory(n int) (*Memory, error) {
	if n < 1 {
		return nil, fmt.Errorf("tlog: a cache of %d tiles must have room for 1", n)
	}
	return &Memory{room: n, young: map[Tile][]byte{}}, nil
}

// A Memory is a [Cache] in memory.
type Memory struct {
	room int

	// mu guards the two generations. When the young one is full it becomes the
	// old one, and whatever was old and not used since is forgotten.
	mu         sync.Mutex
	young, old map[Tile][]byte
}

// Get returns the tile, if it is held.
func (m *Memory) Get(t Tile) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.young[t]; ok {
		return b, true
	}
	b, ok := m.old[t]
	if ok {
		m.put(t, b)
	}
	return b, ok
}

// Put takes a tile over; the caller must not change it afterwards.
func (m *Memory) Put(t Tile, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(t, b)
}

func (m *Memory) put(t Tile, b []byte) {
	if _, ok := m.young[t]; !ok && len(m.young) >= m.room {
		m.old, m.young = m.young, make(map[Tile][]byte, m.room)
	}
	m.young[t] = b
}

package tlog

import (
	"context"
	"errors"
	"sync"

	"github.com/chancery-pki/chancery/merkle"
)

// A Record is what a witness cosigned last for a log. The zero value says that
// it never did.
type Record struct {
	Size uint64
	Root merkle.Hash

	// Checkpoint is the note with the log's verified signatures and the
	// witness's own, for monitors. It is not empty if there was one.
	Checkpoint []byte
}

// start returns the size and root that the next checkpoint must continue.
func (r *Record) start() (uint64, merkle.Hash) {
	if len(r.Checkpoint) == 0 {
		return 0, emptyRoot
	}
	return r.Size, r.Root
}

// Records keeps the records of a witness. A witness that forgets one can be
// made to cosign a fork: whoever restores a store from a backup gives the
// witness a new key.
type Records interface {
	// Load returns the record of a log, the zero value if there is none.
	Load(ctx context.Context, origin string) (Record, error)

	// Swap puts one record in place of another. It is [ErrStale], and nothing
	// changes, unless the size and root that are stored are those of old; the
	// comparison and the change are one step. When Swap returns without an
	// error the new record survives a crash, and after an error it may or may
	// not be there.
	Swap(ctx context.Context, origin string, old, new Record) error
}

// ErrStale is returned by [Records.Swap] when the record is another one by
// now.
var ErrStale = errors.New("record has changed")

// NewMemoryRecords returns records that are gone when the process ends, for
// tests and trials.
func NewMemoryRecords() Records { return &memoryRecords{records: map[string]Record{}} }

type memoryRecords struct {
	mu      sync.Mutex // guards records
	records map[string]Record
}

func (m *memoryRecords) Load(_ context.Context, origin string) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[origin], nil
}

func (m *memoryRecords) Swap(_ context.Context, origin string, old, new Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[origin]; r.Size != old.Size || r.Root != old.Root {
		return ErrStale
	}
	m.records[origin] = new
	return nil
}

package ledger

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/chancery-pki/chancery/appliance/logs"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A Public is a log as everybody may see it: what its newest signed checkpoint
// covers, and no more. Its methods may be called concurrently.
type Public struct {
	logs.Log
	newest  atomic.Pointer[published] // nil while there is no signed checkpoint
	asking  atomic.Bool               // witnesses are being asked about it
	hashes  tlog.Source
	entries func(ctx context.Context, from uint64, limit int) ([][]byte, error)
}

type published struct {
	size uint64
	note []byte
}

// Checkpoint returns the newest signed checkpoint, nil if there is none yet.
func (p *Public) Checkpoint() []byte {
	if newest := p.newest.Load(); newest != nil {
		return newest.note
	}
	return nil
}

// Tile returns the contents of a tile or entry bundle. They never change. One
// that is not there, or not yet, is fs.ErrNotExist.
func (p *Public) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	var size uint64
	if newest := p.newest.Load(); newest != nil {
		size = newest.size
	}
	if have, ok := tlog.TileAt(size, t.Level, t.Index); !ok || t.Width > have.Width {
		return nil, fmt.Errorf("%s of a log of %d entries: %w", t, size, fs.ErrNotExist)
	}
	if t.Level != tlog.Entries {
		return tlog.Make(t, p.hashes)
	}
	entries, err := p.entries(ctx, t.Index*tlog.FullWidth, t.Width)
	if err != nil {
		return nil, err
	}
	if len(entries) != t.Width {
		return nil, fmt.Errorf("ledger: internal error: %d entries in %s", len(entries), t)
	}
	var bundle []byte
	for _, e := range entries {
		if bundle, err = tlog.AppendEntry(bundle, e); err != nil {
			return nil, err
		}
	}
	return bundle, nil
}

// publish shows a checkpoint, once it is signed.
func (p *Public) publish(c *store.Checkpoint) error {
	note, err := p.Note(c.Size, c.Root, c.At, c.Signature)
	if err != nil {
		return err
	}
	p.newest.Store(&published{c.Size, note})
	return nil
}

// A lockedTree is a tree that one goroutine appends to and many prove with.
type lockedTree struct {
	mu   sync.RWMutex // guards tree
	tree merkle.Tree
}

// Subtree is that of a merkle.Tree.
func (t *lockedTree) Subtree(s merkle.Subtree) (merkle.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Subtree(s)
}

func (t *lockedTree) size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Size()
}

func (t *lockedTree) append(leaves ...merkle.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tree.Append(leaves...)
}

// Issuance is the current issuance log.
func (l *Ledger) Issuance() *Public { return l.issuance }

// Audit is the audit log.
func (l *Ledger) Audit() *Public { return l.audit }

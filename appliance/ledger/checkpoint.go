package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// checkpoints are those of one log: what differs between the issuance log and
// the audit log.
type checkpoints struct {
	*Ledger
	public    *Public
	tree      *lockedTree
	catchUp   func(ctx context.Context) error // the tree with the store
	latest    func(tx *store.Tx) (*store.Checkpoint, error)
	insert    func(tx *store.Tx, c *store.Checkpoint) error
	seal      func(tx *store.Tx, c *store.Checkpoint) error
	statement func(size uint64, root merkle.Hash, at time.Time) chancery.Statement
}

func (l *Ledger) ofIssuance() checkpoints {
	return checkpoints{
		Ledger: l, public: l.issuance, tree: &l.entries,
		catchUp: func(context.Context) error { return nil }, // it always is
		latest:  func(tx *store.Tx) (*store.Checkpoint, error) { return tx.LatestCheckpoint(l.log) },
		insert:  func(tx *store.Tx, c *store.Checkpoint) error { return tx.InsertCheckpoint(l.log, c) },
		seal:    func(tx *store.Tx, c *store.Checkpoint) error { return tx.SignCheckpoint(l.log, c) },
		statement: func(size uint64, root merkle.Hash, at time.Time) chancery.Statement {
			return chancery.NewCheckpoint(l.ca, l.logNo, size, root, at)
		},
	}
}

func (l *Ledger) ofAudit() checkpoints {
	ca := l.log.CA
	return checkpoints{
		Ledger: l, public: l.audit, tree: &l.deeds,
		catchUp: func(ctx context.Context) error {
			return l.Store.View(ctx, func(tx *store.Tx) error {
				leaves, err := tx.AuditLeaves(ca, l.deeds.size())
				l.deeds.append(leaves...)
				return err
			})
		},
		latest: func(tx *store.Tx) (*store.Checkpoint, error) { return tx.LatestAuditCheckpoint(ca) },
		insert: func(tx *store.Tx, c *store.Checkpoint) error { return tx.InsertAuditCheckpoint(ca, c) },
		seal:   func(tx *store.Tx, c *store.Checkpoint) error { return tx.SignAuditCheckpoint(ca, c) },
		statement: func(size uint64, root merkle.Hash, at time.Time) chancery.Statement {
			return chancery.AuditCheckpoint{CA: l.ca, Size: size, Root: root, At: at}
		},
	}
}

// run states the log's size and root at this second. A clock that was set back
// does not make an older checkpoint.
func (c checkpoints) run(ctx context.Context) (finish, error) {
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	c.tree.mu.RLock()
	next := &store.Checkpoint{Size: c.tree.tree.Size(), Root: c.tree.tree.Root(), At: time.Unix(c.Now().Unix(), 0).UTC()}
	c.tree.mu.RUnlock()
	err := c.commit(ctx, func(tx *store.Tx) error {
		last, err := c.latest(tx)
		if errors.Is(err, store.ErrNotFound) {
			return c.insert(tx, next)
		}
		if err != nil {
			return err
		}
		if next.At.Before(last.At) {
			next.At = last.At
		}
		if last.Size == next.Size && !next.At.After(last.At) {
			next = nil // this second has its checkpoint
			return nil
		}
		return c.insert(tx, next)
	})
	if err != nil || next == nil {
		return nil, err
	}
	then, err := c.sign(ctx, next)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := then(); err != nil {
			return err
		}
		c.witness()
		return nil
	}, nil
}

// resume signs the newest checkpoint if that was not done, and shows it. Older
// ones that are unsigned are of no use to anybody.
func (c checkpoints) resume(ctx context.Context) error {
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	var last *store.Checkpoint
	err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		last, err = c.latest(tx)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := c.tree.Subtree(merkle.Subtree{End: last.Size})
	if err != nil || root != last.Root {
		return fmt.Errorf("ledger: %s: the checkpoint of %d entries is not over the entries in the store: %w", c.public.Origin, last.Size, errors.Join(err, ErrRewritten))
	}
	if last.Signature == nil {
		return complete(c.sign(ctx, last))
	}
	return c.public.publish(last)
}

func (c checkpoints) sign(ctx context.Context, next *store.Checkpoint) (finish, error) {
	sig, err := c.Ledger.sign(ctx, c.statement(next.Size, next.Root, next.At))
	if err != nil {
		return nil, err
	}
	next.Signature = sig
	return func() error {
		if err := c.commit(ctx, func(tx *store.Tx) error { return c.seal(tx, next) }); err != nil {
			return err
		}
		return c.public.publish(next)
	}, nil
}

// ErrRewritten means that the store is not what a checkpoint was signed over:
// entries were changed or are missing. CA:SK signs nothing for such a log.
var ErrRewritten = errors.New("the log was rewritten")

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A writer makes changes one after the other and commits all that waited
// together: a commit costs a write to the disk however many changes it has.
// There is no timer: what comes while a commit is under way is in the next.
//
// Whoever finds nobody at work leads: he begins the transaction, lets each of
// the others make his change in it, commits, and leaves the lead to one of those
// who came meanwhile. Everybody runs his own function, so what ends a goroutine
// ends the right one.
type writer struct {
	*statements

	mu    sync.Mutex // guards queue and busy
	queue []*change
	busy  bool
}

// A change waits for its turn, for the lead, or for the end of the transaction
// that it was to be part of.
type change struct {
	chosen   bool // by a leader, or to lead; guarded by the writer's mu
	lead     chan struct{}
	turn     chan *Tx
	finished chan error // of its function
	done     chan error // of the transaction
}

// maxGroup bounds how much one commit has, so that the first does not wait for
// ever.
const maxGroup = 256

// errAborted is what others get whose transaction was left by a panic.
var errAborted = errors.New("store: the transaction was abandoned")

func (w *writer) update(ctx context.Context, f func(*Tx) error) error {
	c := &change{lead: make(chan struct{}, 1), turn: make(chan *Tx, 1), finished: make(chan error, 1), done: make(chan error, 1)}
	w.mu.Lock()
	w.queue = append(w.queue, c)
	if !w.busy {
		w.busy = true
		w.choose()
	}
	w.mu.Unlock()
	withdrawn := ctx.Done()
	for {
		select {
		case <-c.lead:
			return w.commit(ctx, f)
		case t := <-c.turn:
			return c.join(ctx, t, f)
		case err := <-c.done:
			return err
		case <-withdrawn:
			if w.withdraw(c) {
				return fmt.Errorf("store: %w", context.Cause(ctx))
			}
			withdrawn = nil // somebody was faster
		}
	}
}

// choose gives the lead to the first in the queue. The caller holds mu.
func (w *writer) choose() {
	w.queue[0].chosen = true
	w.queue[0].lead <- struct{}{}
}

// withdraw takes a change back that nobody has chosen.
func (w *writer) withdraw(c *change) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.chosen {
		return false
	}
	w.queue = slices.DeleteFunc(w.queue, func(q *change) bool { return q == c })
	return true
}

// join makes a change in another's transaction.
func (c *change) join(ctx context.Context, t *Tx, f func(*Tx) error) error {
	err := errAborted
	func() {
		defer func() { c.finished <- err }() // also when f ends the goroutine
		err = alone(ctx, t, f)
	}()
	if committed := <-c.done; err == nil {
		err = committed
	}
	return err
}

// alone runs a function in a transaction that others share: a statement that
// its context interrupts would take back what they did.
func alone(ctx context.Context, t *Tx, f func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	t.ctx = context.WithoutCancel(ctx)
	return f(t)
}

// commit leads: it takes those who wait, and in the end leaves the lead to one
// who came meanwhile.
func (w *writer) commit(ctx context.Context, f func(*Tx) error) error {
	w.mu.Lock()
	n := min(len(w.queue), maxGroup)
	others := slices.Clone(w.queue[1:n]) // the leader is the first
	for _, c := range others {
		c.chosen = true
	}
	w.queue = slices.Clone(w.queue[n:])
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.busy = len(w.queue) > 0; w.busy {
			w.choose()
		}
	}()
	if len(others) == 0 {
		return run(ctx, w.statements, f)
	}
	return w.group(ctx, f, others)
}

// group makes the leader's change and the others' in one transaction, each in a
// savepoint: one that fails takes back what it did and nothing else. The commit
// fails for all.
func (w *writer) group(ctx context.Context, f func(*Tx) error, others []*change) error {
	committed := errAborted
	defer func() {
		for _, c := range others {
			c.done <- committed
		}
	}()
	var own error
	committed = run(context.WithoutCancel(ctx), w.statements, func(t *Tx) (err error) {
		if own, err = t.savepoint(func() error { return alone(ctx, t, f) }); err != nil {
			return err
		}
		for _, c := range others {
			_, err := t.savepoint(func() error {
				c.turn <- t
				return <-c.finished
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if own != nil {
		return own
	}
	return committed
}

// savepoint runs a function and takes back what it did if it fails. err is the
// store's, and the transaction must not go on.
func (t *Tx) savepoint(f func() error) (failed, err error) {
	if err := t.control(`SAVEPOINT change`); err != nil {
		return nil, err
	}
	if failed = f(); failed != nil {
		if err := t.control(`ROLLBACK TO change`); err != nil {
			return failed, err
		}
	}
	return failed, t.control(`RELEASE change`)
}

func (t *Tx) control(statement string) error {
	_, err := t.prepared(statement).exec()
	if err != nil {
		return fmt.Errorf("store: %s: %w", statement, err)
	}
	return nil
}

package ledger

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A kind is what a signature of CA:SK is about. Of each kind there is one
// message under way at a time.
type kind int

const (
	lists kind = iota
	answers
	certificates
	issuanceHeads // checkpoints of the issuance log
	auditHeads    // and of the audit log
	kinds
)

// maxBatch bounds a batch: hashing and proofs of 2^16 entries stay below what
// a signature of a fast token costs.
const maxBatch = 1 << 16

// A queue is what waits for CA:SK.
type queue struct {
	answers []*answer
	issues  []*issue
	// calls wait for a message of the kind. Those for certificates wait until
	// none is under way.
	calls [kinds][]chan error
}

type answer struct {
	cans *chancery.CANS
	done chan error
}

type issue struct {
	request Request
	fields  merkle.EntryFields
	index   uint64
	done    chan issued
}

// An issued says under what an entry is certified. Whoever asked puts the
// certificate together himself, beside the others and the next batch.
type issued struct {
	subtree *store.Subtree
	err     error
}

// A turn says whose turn it is at the token.
type turn struct {
	busy   [kinds]bool // kinds with a message that is not finished
	last   kind        // that had a turn, of those that take turns
	listed bool        // there was a list since
}

// next returns the kind whose turn it is, if any waits: the kinds one after
// another, and a list before each of them, for what it revokes is in force the
// sooner.
func (t *turn) next(q *queue) (kind, bool) {
	ready := func(k kind) bool {
		return !t.busy[k] && (len(q.calls[k]) > 0 || k == answers && len(q.answers) > 0 || k == certificates && len(q.issues) > 0)
	}
	if !t.listed && ready(lists) {
		t.listed = true
		return lists, true
	}
	for i := range kinds {
		if k := (t.last + 1 + i) % kinds; k != lists && ready(k) {
			t.last, t.listed = k, false
			return k, true
		}
	}
	return lists, ready(lists)
}

// take takes what waits of a kind out of the queue, up to a batch.
func (q *queue) take(k kind) (t queue) {
	t.calls[k], q.calls[k] = q.calls[k], nil
	switch k {
	case answers:
		t.answers = cut(&q.answers, maxBatch)
	case certificates:
		t.issues = cut(&q.issues, maxBatch)
	}
	return t
}

// arrived takes out at most n certificates that arrived since. Those who were
// answered just now get the time of a processor to come back.
func (l *Ledger) arrived(n int) []*issue {
	runtime.Gosched()
	l.mu.Lock()
	defer l.mu.Unlock()
	return cut(&l.queue.issues, n)
}

func cut[T any](list *[]T, most int) []T {
	all := *list
	n := min(len(all), most)
	if *list = all[n:]; n == len(all) {
		*list = nil
	}
	return all[:n:n]
}

func (l *Ledger) enqueue(add func(*queue)) {
	l.mu.Lock()
	add(&l.queue)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // the loop will look anyway
	}
}

func wait[T any](ctx context.Context, l *Ledger, done <-chan T) (v T, err error) {
	select {
	case v = <-done:
		return v, nil
	case <-ctx.Done():
		return v, ctx.Err()
	case <-l.done:
		select {
		case v = <-done: // answered while closing
			return v, nil
		default:
			return v, l.closedErr()
		}
	}
}

// call waits for the next message of a kind.
func (l *Ledger) call(ctx context.Context, k kind) error {
	done := make(chan error, 1)
	l.enqueue(func(q *queue) { q.calls[k] = append(q.calls[k], done) })
	err, waitErr := wait(ctx, l, done)
	return errors.Join(err, waitErr)
}

// A finish commits a signature and tells those who wait for it. It runs beside
// the next step, which has the token meanwhile.
type finish func() error

// complete runs it where nothing is beside it.
func complete(then finish, err error) error {
	if err != nil {
		return err
	}
	return then()
}

// loop takes one step after another.
func (l *Ledger) loop(ctx context.Context) {
	defer close(l.done)
	type outcome struct {
		kind kind
		err  error
	}
	var turn turn
	under, finished := 0, make(chan outcome, kinds)
	end := func(o outcome) error {
		turn.busy[o.kind] = false
		under--
		return o.err
	}
	for ctx.Err() == nil {
		l.mu.Lock()
		k, ok := turn.next(&l.queue)
		var taken queue
		if ok {
			taken = l.queue.take(k)
		}
		l.mu.Unlock()
		var failure error
		if ok {
			then, err := l.step(ctx, k, &taken)
			if then != nil {
				turn.busy[k] = true
				under++
				go func() { finished <- outcome{k, then()} }()
			}
			failure = err
		} else {
			select {
			case <-ctx.Done():
			case <-l.wake:
			case o := <-finished:
				failure = end(o)
			}
		}
		for under > 0 && (failure != nil || len(finished) > 0) {
			failure = errors.Join(failure, end(<-finished))
		}
		l.resync(ctx, failure)
	}
	for under > 0 {
		end(<-finished)
	}
}

// step fixes what waits of a kind, as one message, and has it signed.
func (l *Ledger) step(ctx context.Context, k kind, t *queue) (finish, error) {
	switch k {
	case answers:
		l.signAnswers(ctx, t.answers)
		return nil, nil
	case certificates:
		tell(t.calls[k], nil)
		return l.issue(ctx, t.issues)
	}
	state := map[kind]func(context.Context) (finish, error){lists: l.list, issuanceHeads: l.ofIssuance().run, auditHeads: l.ofAudit().run}[k]
	then, err := state(ctx)
	if then == nil {
		tell(t.calls[k], err)
		return nil, err
	}
	return func() error {
		err := then()
		tell(t.calls[k], err)
		return err
	}, nil
}

func tell(calls []chan error, err error) {
	for _, done := range calls {
		done <- err
	}
}

// resync takes up what a step left behind that failed in the store: a message
// that was committed while its signature was not, or a commit that took place
// although it was reported as failed. Until it succeeds nothing else is fixed.
func (l *Ledger) resync(ctx context.Context, failure error) {
	if failure == nil {
		return
	}
	for ctx.Err() == nil {
		err := l.load(ctx)
		if err == nil {
			return
		}
		l.Logger.Error("log cannot be read", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

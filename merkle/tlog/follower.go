package tlog

import (
	"context"
	"errors"
	"sync"

	"github.com/chancery-pki/chancery/merkle"
)

// A Follower watches one log. It remembers the newest checkpoint that it
// verified, and takes only such as continue it. Its methods may be called
// concurrently.
type Follower struct {
	policy *Policy
	cache  Cache // may be nil

	// advancing is held for a whole Advance, so that no other one comes
	// between the comparison and its outcome.
	advancing sync.Mutex
	mu        sync.Mutex // guards last
	last      *Signed    // nil if there is none yet
}

// NewFollower returns a follower that goes on from a state that
// [Follower.State] returned. With no state it takes the first checkpoint that
// the policy lets pass: what came before it is not known. The cache is
// optional.
func NewFollower(p *Policy, state []byte, cache Cache) (*Follower, error) {
	f := &Follower{policy: p, cache: cache}
	if len(state) > 0 {
		last, err := p.Open(state)
		if err != nil {
			return nil, err
		}
		f.last = last
	}
	return f, nil
}

// State returns the newest checkpoint, as it was signed, for safe keeping;
// nothing if there is none.
func (f *Follower) State() []byte {
	if last := f.Last(); last != nil {
		return last.Raw
	}
	return nil
}

// Last returns the newest checkpoint, nil if there is none.
func (f *Follower) Last() *Signed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Advance verifies a signed checkpoint, and with the log's tiles that its tree
// begins with the one that is known. Then it remembers the checkpoint and
// returns the tree, for the new entries. The caller keeps [Follower.State]
// before acting upon them.
//
// Besides those of [Policy.Open] the errors are [*ForkError], [*RollbackError],
// [*RootError], [*TileError] and [*UnreachableError]. After an error the
// follower stands where it stood.
func (f *Follower) Advance(ctx context.Context, r Reader, checkpoint []byte) (*Tree, error) {
	next, err := f.policy.Open(checkpoint)
	if err != nil {
		return nil, err
	}
	f.advancing.Lock()
	defer f.advancing.Unlock()
	last := f.Last()
	if last != nil && next.Size < last.Size {
		return nil, f.wentBack(ctx, r, last, next)
	}
	if last != nil && next.Size == last.Size && next.Root != last.Root {
		// It takes no tiles to see this one, and they might not be there.
		return nil, &ForkError{Older: last, Newer: next, Root: next.Root}
	}
	tree, err := Open(ctx, r, next.Size, next.Root, f.cache)
	if err != nil {
		return nil, err
	}
	if last != nil {
		if err := compare(ctx, tree, last, next); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	f.last = next
	f.mu.Unlock()
	return tree, nil
}

// wentBack tells an old checkpoint from another history.
func (f *Follower) wentBack(ctx context.Context, r Reader, last, next *Signed) error {
	tree, err := Open(ctx, r, last.Size, last.Root, f.cache)
	if err == nil {
		err = compare(ctx, tree, next, last)
	}
	if fork, ok := errors.AsType[*ForkError](err); ok {
		return fork
	}
	return &RollbackError{Have: last, Got: next, Err: err}
}

// compare checks that the tree of the newer checkpoint begins with that of the
// older. The tree is authenticated by the newer checkpoint, and so what it
// says is the log's own word, whoever served it.
func compare(ctx context.Context, tree *Tree, older, newer *Signed) error {
	s := merkle.Subtree{End: older.Size}
	root, err := tree.Subtree(ctx, s)
	if err != nil {
		return err
	}
	if root == older.Root {
		return nil
	}
	proof, err := tree.Consistency(ctx, s, newer.Size)
	if err != nil {
		return err
	}
	return &ForkError{Older: older, Newer: newer, Root: root, Proof: proof}
}

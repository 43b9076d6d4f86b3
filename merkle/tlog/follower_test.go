package tlog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

const followed = "log.example"

func newFollower(t testing.TB, state []byte) *Follower {
	t.Helper()
	f, err := NewFollower(policy(t, followed, signerFor(t, followed, Ed25519)), state, nil)
	must(t, err)
	return f
}

func (w *world) signed(t testing.TB, size uint64) []byte {
	t.Helper()
	return note(t, w.checkpoint(t, followed, size), signerFor(t, followed, Ed25519))
}

// A follower goes with a log that grows, over restarts, and every other step
// it refuses.
func TestFollower(t *testing.T) {
	honest, forked := newWorld("a", 3000), newWorld("a", 700)
	forked.grow("b", 2300)
	rapid.Check(t, func(rt *rapid.T) {
		f := newFollower(t, nil)
		if f.State() != nil || f.Last() != nil {
			rt.Fatal("a state before the first checkpoint")
		}
		var size uint64
		for range rapid.IntRange(1, 10).Draw(rt, "steps") {
			next := anySize(rt, "size", 3000)
			other := rapid.Bool().Draw(rt, "fork")
			w := honest
			if other {
				w = forked
			}
			tree, err := f.Advance(t.Context(), w, w.signed(t, next))
			fork, isFork := errors.AsType[*ForkError](err)
			_, isRollback := errors.AsType[*RollbackError](err)
			diverged := w.root(t, min(size, next)) != honest.root(t, min(size, next))
			switch {
			case size == 0 && err == nil && next > 0 && w != honest:
				// Whatever came first is the log; begin again.
				f = newFollower(t, nil)
				continue
			case isFork:
				if !diverged && !(next < size && w != honest) {
					rt.Fatalf("from %d to %d: a fork that is none: %v", size, next, err)
				}
				if err := fork.Prove(policy(t, followed, signerFor(t, followed, Ed25519))); err != nil {
					rt.Fatalf("from %d to %d: the fork is not proven: %v", size, next, err)
				}
				if fork.Hint() == "" || fork.Error() == "" {
					rt.Fatal("no hint")
				}
			case err == nil:
				if next < size || diverged || tree.Size() != next {
					rt.Fatalf("from %d to %d, of another history: %t, was accepted", size, next, diverged)
				}
				if w == honest {
					size = next
				} else {
					// It grew over the fork's beginning only if that was common.
					f = newFollower(t, honest.signed(t, size))
				}
			case isRollback:
				if next >= size {
					rt.Fatalf("from %d to %d: %v", size, next, err)
				}
			default:
				// The forked log's server has not the tiles of the honest one.
				if w == honest || next >= size {
					rt.Fatalf("from %d to %d: %v", size, next, err)
				}
			}
			if size > 0 {
				if got := f.Last(); got.Size != size || !bytes.Equal(f.State(), honest.signed(t, size)) {
					rt.Fatalf("it stands at %d, want %d", got.Size, size)
				}
				f = newFollower(t, f.State())
			}
		}
	})
}

func TestFollowerFork(t *testing.T) {
	w, other := newWorld("a", 1000), newWorld("b", 1000)
	p := policy(t, followed, signerFor(t, followed, Ed25519))
	for _, test := range []struct {
		what       string
		have, next uint64
		reader     *world
	}{
		{"a larger tree", 600, 1000, other},
		{"a larger tree, from a full one", 512, 1000, other},
		{"the same size", 600, 600, other},
		{"a smaller tree", 600, 300, w},
	} {
		f := newFollower(t, w.signed(t, test.have))
		_, err := f.Advance(t.Context(), test.reader, other.signed(t, test.next))
		fork, ok := errors.AsType[*ForkError](err)
		if !ok {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if err := fork.Prove(p); err != nil {
			t.Errorf("%s: %v", test.what, err)
		}
		if f.Last().Size != test.have || fork.Older.Size > fork.Newer.Size {
			t.Errorf("%s: stands at %d, fork of %d and %d", test.what, f.Last().Size, fork.Older.Size, fork.Newer.Size)
		}

		// Evidence that says something else proves nothing.
		for what, change := range map[string]func(e *ForkError){
			"no older checkpoint": func(e *ForkError) { e.Older = &Signed{} },
			"no newer checkpoint": func(e *ForkError) { e.Newer = &Signed{} },
			"one checkpoint":      func(e *ForkError) { e.Newer = e.Older },
			"no proof":            func(e *ForkError) { e.Proof = nil },
			"the older root":      func(e *ForkError) { e.Root = e.Older.Root },
			"another root":        func(e *ForkError) { e.Root[0] ^= 1 },
		} {
			e := *fork
			change(&e)
			if test.have == test.next && e.Older.Origin == e.Newer.Origin && e.Older != e.Newer {
				continue // two roots of one size need no proof
			}
			if err := e.Prove(p); err == nil {
				t.Errorf("%s: proven with %s", test.what, what)
			}
		}
	}
	// No tile is needed to see two roots of one size.
	none := readerFunc(func(context.Context, Tile) ([]byte, error) { return nil, fs.ErrNotExist })
	_, err := newFollower(t, w.signed(t, 600)).Advance(t.Context(), none, other.signed(t, 600))
	if _, ok := errors.AsType[*ForkError](err); !ok {
		t.Errorf("without tiles: %v", err)
	}

	honest := &ForkError{Older: mustOpen(t, p, w.signed(t, 5)), Newer: mustOpen(t, p, w.signed(t, 9)), Root: w.root(t, 5)}
	honest.Proof, err = w.tree.Consistency(merkle.Subtree{End: 5}, 9)
	must(t, err)
	if honest.Prove(p) == nil {
		t.Error("an honest log was proven to fork")
	}
	honest.Older, honest.Root = mustOpen(t, p, w.signed(t, 0)), merkle.Hash{1}
	if honest.Prove(p) == nil {
		t.Error("an honest log was proven to fork from nothing")
	}

	// A checkpoint of no entries that has a root.
	rooted := &Checkpoint{Origin: followed, Root: merkle.Hash{1}}
	signed := note(t, rooted, signerFor(t, followed, Ed25519))
	f := newFollower(t, w.signed(t, 10))
	_, err = f.Advance(t.Context(), w, signed)
	fork, ok := errors.AsType[*ForkError](err)
	if !ok || fork.Prove(p) != nil {
		t.Errorf("no entries and a root: %v", err)
	}
	if _, err := newFollower(t, nil).Advance(t.Context(), w, signed); err == nil {
		t.Error("no entries and a root: accepted as the first")
	}
}

func mustOpen(t *testing.T, p *Policy, b []byte) *Signed {
	t.Helper()
	s, err := p.Open(b)
	must(t, err)
	return s
}

// A checkpoint that is merely old is told from a fork, if the tiles are there.
func TestFollowerRollback(t *testing.T) {
	w := newWorld("a", 1000)
	f := newFollower(t, w.signed(t, 1000))
	_, err := f.Advance(t.Context(), w, w.signed(t, 400))
	if e, ok := errors.AsType[*RollbackError](err); !ok || e.Err != nil || e.Hint() == "" || e.Error() == "" {
		t.Errorf("an old checkpoint: %v", err)
	}
	behind := newWorld("a", 400)
	_, err = f.Advance(t.Context(), behind, behind.signed(t, 400))
	unreachable, ok := errors.AsType[*UnreachableError](err)
	if e, rollback := errors.AsType[*RollbackError](err); !ok || !rollback || e.Err == nil || unreachable.Tile.Level != 0 || e.Error() == "" {
		t.Errorf("a mirror that is behind: %v", err)
	}
	if f.Last().Size != 1000 {
		t.Errorf("it stands at %d", f.Last().Size)
	}
}

func TestFollowerUnreachable(t *testing.T) {
	w := newWorld("a", 70000)
	missing := Tile{0, 2, FullWidth} // of the way from 600 entries to 70000
	w.change = func(tile Tile, b []byte) ([]byte, error) {
		if tile == missing {
			return nil, fs.ErrNotExist
		}
		return b, nil
	}
	f := newFollower(t, w.signed(t, 600))
	_, err := f.Advance(t.Context(), w, w.signed(t, 70000))
	if e, ok := errors.AsType[*UnreachableError](err); !ok || e.Tile != missing {
		t.Error(err)
	}
	w.change = func(tile Tile, b []byte) ([]byte, error) {
		if tile == missing {
			b[0] ^= 1
		}
		return b, nil
	}
	if _, err = f.Advance(t.Context(), w, w.signed(t, 70000)); !isTileError(err, missing) {
		t.Error(err)
	}
	if f.Last().Size != 600 {
		t.Errorf("it stands at %d", f.Last().Size)
	}
	w.change = nil
	if _, err := f.Advance(t.Context(), w, w.signed(t, 70000)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	canceled := readerFunc(func(ctx context.Context, _ Tile) ([]byte, error) { return nil, ctx.Err() })
	if _, err := f.Advance(ctx, canceled, w.signed(t, 70000)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := f.Advance(t.Context(), w, nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := NewFollower(f.policy, []byte(exampleNote), nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

type readerFunc func(context.Context, Tile) ([]byte, error)

func (f readerFunc) ReadTile(ctx context.Context, t Tile) ([]byte, error) { return f(ctx, t) }

// Of two that advance at once, the one that takes longer does not undo the
// other.
func TestFollowerConcurrent(t *testing.T) {
	w := newWorld("a", 1000)
	f := newFollower(t, nil)
	var others sync.WaitGroup
	var once sync.Once
	slow := readerFunc(func(ctx context.Context, tile Tile) ([]byte, error) {
		once.Do(func() {
			done := make(chan struct{})
			others.Go(func() {
				defer close(done)
				if _, err := f.Advance(t.Context(), w, w.signed(t, 1000)); err != nil {
					t.Error(err)
				}
			})
			select {
			case <-done:
			case <-time.After(20 * time.Millisecond): // it waits, as it should
			}
		})
		return w.ReadTile(ctx, tile)
	})
	if _, err := f.Advance(t.Context(), slow, w.signed(t, 300)); err != nil {
		t.Error(err)
	}
	others.Wait()
	if f.Last().Size != 1000 {
		t.Errorf("it stands at %d", f.Last().Size)
	}
}

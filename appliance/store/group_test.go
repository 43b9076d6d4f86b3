package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *Store) has(t testing.TB, name string) bool {
	t.Helper()
	err := s.View(t.Context(), func(tx *Tx) error { _, err := tx.Setting(name); return err })
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// hold keeps the writer busy, so that what comes meanwhile waits, until it is
// told to let go.
func hold(t testing.TB, s *Store, end func() error) (letGo func() error) {
	t.Helper()
	begun, over, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Update(context.Background(), func(tx *Tx) error {
			close(begun)
			<-over
			return errors.Join(tx.SetSetting("held", []byte("x")), end())
		})
	}()
	<-begun
	return func() error { close(over); return <-done }
}

// queued waits until so many changes wait.
func queued(s *Store, n int) {
	for {
		s.write.mu.Lock()
		have := len(s.write.queue)
		s.write.mu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

var errOwn = errors.New("a test's error")

// Changes that wait are in one commit, each by itself.
func TestGroup(t *testing.T) {
	s := newStore(t)
	letGo := hold(t, s, func() error { return nil })
	const n = 40
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			errs[i] = s.Update(t.Context(), func(tx *Tx) error {
				if err := tx.SetSetting(fmt.Sprint("change ", i), []byte("x")); err != nil {
					return err
				}
				if i%3 == 1 {
					return errOwn // what it did is taken back
				}
				return nil
			})
		})
		queued(s, i+1)
	}
	if err := letGo(); err != nil {
		t.Error(err)
	}
	all.Wait()
	for i, err := range errs {
		if i%3 == 1 {
			if !errors.Is(err, errOwn) || s.has(t, fmt.Sprint("change ", i)) {
				t.Errorf("change %d, which failed: %v", i, err)
			}
		} else if err != nil || !s.has(t, fmt.Sprint("change ", i)) {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// A commit that fails fails for all who are in it, and for nobody else.
func TestGroupCommitFails(t *testing.T) {
	s := newStore(t)
	if _, err := s.write.db.Exec(`CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	letGo := hold(t, s, func() error { return nil })
	errs := make([]error, 3)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			errs[i] = s.Update(t.Context(), func(tx *Tx) error {
				if i == 1 {
					return tx.exec(`INSERT INTO child VALUES (7)`) // the commit finds out
				}
				return tx.SetSetting(fmt.Sprint("change ", i), []byte("x"))
			})
		})
		queued(s, i+1)
	}
	if err := letGo(); err != nil {
		t.Errorf("the commit before: %v", err)
	}
	all.Wait()
	for i, err := range errs {
		if err == nil || s.has(t, fmt.Sprint("change ", i)) {
			t.Errorf("change %d is told %v", i, err)
		}
	}
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.SetSetting("after", []byte("x")) }); err != nil {
		t.Errorf("the commit after: %v", err)
	}
}

// Whoever gives up before his turn changes nothing; the others go on. One who
// gives up in the middle takes nobody with him.
func TestGroupGivesUp(t *testing.T) {
	s := newStore(t)
	letGo := hold(t, s, func() error { return nil })
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.Update(ctx, func(tx *Tx) error { return tx.SetSetting("gone", []byte("x")) }) }()
	queued(s, 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("gave up: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		first <- s.Update(ctx, func(tx *Tx) error {
			cancel()
			return tx.SetSetting("in the middle", []byte("x"))
		})
	}()
	queued(s, 1)
	go func() {
		second <- s.Update(t.Context(), func(tx *Tx) error { return tx.SetSetting("second", []byte("x")) })
	}()
	queued(s, 2)
	if err := letGo(); err != nil {
		t.Error(err)
	}
	<-first // either way
	if err := <-second; err != nil || !s.has(t, "second") || s.has(t, "gone") {
		t.Errorf("the one beside: %v", err)
	}
}

// A function that ends its goroutine, by a panic or otherwise, ends no other
// one, whether it leads or joins.
func TestGroupLeft(t *testing.T) {
	for _, leader := range []bool{true, false} {
		s := newStore(t)
		letGo := hold(t, s, func() error { return nil })
		left := make(chan struct{})
		leave := func() {
			defer close(left)
			s.Update(t.Context(), func(tx *Tx) error {
				tx.SetSetting("left", []byte("x"))
				runtime.Goexit()
				return nil
			})
		}
		errs := make([]error, 2)
		var all sync.WaitGroup
		before := 0
		if leader {
			go leave()
			before = 1
			queued(s, before)
		}
		for i := range errs {
			all.Go(func() {
				errs[i] = s.Update(t.Context(), func(tx *Tx) error { return tx.SetSetting(fmt.Sprint("change ", i), []byte("x")) })
			})
			queued(s, before+i+1)
		}
		if !leader {
			go leave()
		}
		queued(s, 3)
		if err := letGo(); err != nil {
			t.Error(err)
		}
		<-left
		all.Wait()
		for i, err := range errs {
			if (err == nil) != s.has(t, fmt.Sprint("change ", i)) {
				t.Errorf("change %d is told %v", i, err)
			}
			if err != nil && !leader {
				t.Errorf("one that joined was left, and change %d fails: %v", i, err)
			}
		}
		if s.has(t, "left") {
			t.Error("half a change is there")
		}
		if err := s.Update(t.Context(), func(tx *Tx) error { return tx.SetSetting("after", []byte("x")) }); err != nil {
			t.Errorf("the next: %v", err)
		}
	}
}

// Many at once: each change that was told to be there is, and no other.
func TestGroupMany(t *testing.T) {
	s := newStore(t)
	var all sync.WaitGroup
	for who := range 16 {
		all.Go(func() {
			for i := range 50 {
				name := fmt.Sprint(who, "/", i)
				err := s.Update(context.Background(), func(tx *Tx) error {
					if err := tx.SetSetting(name, []byte("x")); err != nil || i%5 != 0 {
						return err
					}
					return errOwn
				})
				if (err == nil) != (i%5 != 0) || (err == nil) != s.has(t, name) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkUpdate is what a small change takes when many wait.
func BenchmarkUpdate(b *testing.B) {
	for _, waiting := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			s := newStore(b)
			b.SetParallelism(waiting)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := s.Update(context.Background(), func(tx *Tx) error { return tx.SetSetting("x", []byte("y")) }); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// Package anchor notes, outside of a coordinator's database, how far the
// coordinator has come, so that an older copy of the database is noticed before
// it takes a revocation back or gives a place in a log out twice
// (docs/protocol.md section 6.7).
//
// Start with [Open], which compares and refuses, and tell its [Keeper] what is
// committed with [Keeper.Note].
//
// # Order
//
// A mark is saved after the database has committed what it speaks of, so it is
// never ahead. A list is anchored before anybody sees it: no node holds one with
// a higher number than is anchored. A batch of certificates is not waited for;
// it is anchored with the next list, which a coordinator makes with every
// heartbeat, so the size of a log is behind by a heartbeat at most, and what is
// missing then, nodes show (ledger.Ledger.Shown). A TPM, whose memory wears out, is
// behind by up to ten minutes in both.
//
// # Failure
//
// At the start a place that cannot be read is an error: nobody knows what is
// there. Afterwards lists go out whether the place can be written or not, because
// a revocation must; [Keeper.Problem] tells.
package anchor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// patience is how long a list waits for a place that does not answer, such as a
// file system that is away.
const patience = 5 * time.Second

// A MissingError says that nothing is where there was a mark.
type MissingError struct{ Place string }

func (e *MissingError) Error() string { return "there is no anchor any more in " + e.Place }

// Hint says what to do.
func (e *MissingError) Hint() string {
	return "bring it back, or correct anchor in chancery.toml. Only if you know that the database is the newest one: chancery anchor reset"
}

// A ForeignError says that the mark is another fleet's.
type ForeignError struct{ Place, Pin string }

func (e *ForeignError) Error() string {
	return "the anchor in " + e.Place + " is of another fleet, " + e.Pin
}

// Hint says what to do.
func (e *ForeignError) Hint() string { return "name another place with anchor in chancery.toml" }

// A Keeper saves marks in a place. Its methods may be called concurrently.
type Keeper struct {
	place  Place
	logger *slog.Logger

	// mu guards the fields below. It is never held while the place is used.
	mu      sync.Mutex
	next    *Mark           // to be saved
	waiting []chan struct{} // for it
	problem string

	wake   chan struct{} // has room for one
	closed chan struct{}
	done   chan struct{}
}

// Open compares a database, which has come as far as have, with the place. known
// says that there was a mark before: none then is a [*MissingError]. A database
// that is behind is a [*BehindError].
func Open(place Place, have *Mark, known bool, logger *slog.Logger) (*Keeper, error) {
	switch err := Compare(place, have); {
	case errors.Is(err, fs.ErrNotExist) && known:
		return nil, &MissingError{place.String()}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := place.Save(have); err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	k := &Keeper{place: place, logger: logger, wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{})}
	go k.run()
	return k, nil
}

// Compare returns an error unless a database that has come as far as have is as
// new as the mark in the place: fs.ErrNotExist where there is none.
func Compare(place Place, have *Mark) error {
	saved, err := place.Load()
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	if saved.Fleet != have.Fleet {
		return &ForeignError{place.String(), saved.Fleet.Pin()}
	}
	return saved.behind(have, place.String())
}

// Close ends the keeper. What a TPM was not told yet, it is told now.
func (k *Keeper) Close() {
	close(k.closed)
	<-k.done
}

// Note has a mark saved. It returns when that is done, or after some seconds, or
// at once where the place takes a mark only now and then.
func (k *Keeper) Note(m *Mark) {
	done := make(chan struct{})
	k.mu.Lock()
	k.next = m
	k.waiting = append(k.waiting, done)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
	if k.place.Every() > 0 {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		k.fail(fmt.Errorf("it does not answer for %s", patience))
	case <-k.done:
	}
}

// Problem tells why the place is behind; empty is good.
func (k *Keeper) Problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}

// Place names the place.
func (k *Keeper) Place() string { return k.place.String() }

func (k *Keeper) run() {
	defer close(k.done)
	saved := time.Now() // Open did
	for {
		select {
		case <-k.wake:
		case <-k.closed:
			k.save()
			return
		}
		pause := time.NewTimer(k.place.Every() - time.Since(saved))
		select {
		case <-pause.C:
		case <-k.closed:
		}
		pause.Stop()
		k.save()
		saved = time.Now()
	}
}

func (k *Keeper) save() {
	k.mu.Lock()
	next, waiting := k.next, k.waiting
	k.next, k.waiting = nil, nil
	k.mu.Unlock()
	if next == nil {
		return
	}
	err := k.place.Save(next)
	for _, done := range waiting {
		close(done)
	}
	if err != nil {
		k.fail(err)
		return
	}
	k.mu.Lock()
	k.problem = ""
	k.mu.Unlock()
}

func (k *Keeper) fail(err error) {
	k.mu.Lock()
	k.problem = fmt.Sprintf("the anchor in %s is not written: %v", k.place, err)
	k.mu.Unlock()
	k.logger.Error("the anchor is not written: an older copy of the database would not be noticed", "place", k.place.String(), "error", err)
}

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
)

// A load is callers that ask for one signature after the other, each for
// another statement.
type load struct {
	stop  atomic.Bool
	group sync.WaitGroup

	mu     sync.Mutex
	served []request
	lost   []error // requests without an answer, or with a wrong one
}

type request struct{ began, done time.Time }

// giveUp is when a caller takes its request for lost: long after anything
// that is to be measured.
const giveUp = time.Minute

func startLoad(key *hsm.PoolKey, callers int) *load {
	l := &load{}
	for i := range callers {
		l.group.Go(func() {
			var c chancery.Challenge
			for n := uint64(0); !l.stop.Load(); n++ {
				c.Nonce[0] = byte(i)
				binary.BigEndian.PutUint64(c.Nonce[1:], n)
				l.ask(key, c)
			}
		})
	}
	return l
}

func (l *load) ask(key *hsm.PoolKey, s chancery.Statement) {
	ctx, cancel := context.WithTimeout(context.Background(), giveUp)
	defer cancel()
	began := time.Now()
	sig, err := key.Sign(ctx, chancery.FleetID{}, s)
	done := time.Now()
	if err == nil {
		err = key.PublicKey().Verify(chancery.FleetID{}, s, sig)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.lost = append(l.lost, err)
		return
	}
	l.served = append(l.served, request{began, done})
}

// end lets every caller have its last answer.
func (l *load) end() {
	l.stop.Store(true)
	l.group.Wait()
}

// firstAfter is when the first signature after t was there.
func (l *load) firstAfter(t time.Time) (time.Time, error) {
	var first time.Time
	for _, r := range l.served {
		if r.done.After(t) && (first.IsZero() || r.done.Before(first)) {
			first = r.done
		}
	}
	if first.IsZero() {
		return first, fmt.Errorf("nothing was signed after the restart: %w", errors.Join(l.lost...))
	}
	return first, nil
}

// longest is the longest that anybody waited.
func (l *load) longest() (longest time.Duration) {
	for _, r := range l.served {
		longest = max(longest, r.done.Sub(r.began))
	}
	return longest
}

package appliancetest

import (
	"sync/atomic"
	"time"
)

// A Clock stands still until a test moves it.
type Clock struct{ seconds atomic.Int64 }

// NewClock returns a clock that shows the time.
func NewClock(start time.Time) *Clock {
	c := &Clock{}
	c.seconds.Store(start.Unix())
	return c
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time { return time.Unix(c.seconds.Load(), 0).UTC() }

// Advance moves the clock, in whole seconds.
func (c *Clock) Advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

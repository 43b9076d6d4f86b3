package hsm

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// A member is one token of a pool, with a signer process or without.
type member struct {
	pool   *Pool
	config TokenConfig
	keys   []int // indexes in PoolConfig.Keys that it is used for
	// tagKey and known recognise the PIN that the token took last, see
	// [Options]. Only run uses them.
	tagKey, known []byte
	tried         bool          // outcome has been called; likewise
	settled       chan struct{} // closed by outcome
	reported      string        // the last error that was logged; likewise
	lies          int           // faults, one after the other; likewise
	lied          time.Time     // when the last one was

	// Pool.mu guards these.
	process    *process      // nil while there is none that may be asked
	lost       chan struct{} // closed when process ends
	state      State
	since      time.Time
	err        error                 // the last failure
	info       Info                  // as last seen
	attributes map[int]KeyAttributes // by index in PoolConfig.Keys
	latency    latency
	stats      struct{ signatures, retries, faults, starts uint64 }
}

// Bounds of a TokenConfig.
const (
	minTime     = 10 * time.Millisecond
	maxSessions = 1024
)

// withDefaults fills in what is left out.
func (c TokenConfig) withDefaults() TokenConfig {
	c.Deadline = cmp.Or(c.Deadline, defaultDeadline)
	c.KeepAlive = cmp.Or(c.KeepAlive, defaultKeepAlive)
	c.Sessions = cmp.Or(c.Sessions, defaultSessions)
	return c
}

// Check finds numbers that are out of bounds.
func (c TokenConfig) Check() error {
	c = c.withDefaults()
	switch {
	case c.Sessions < 1 || c.Sessions > maxSessions:
		return fmt.Errorf("%d sessions, want from 1 to %d", c.Sessions, maxSessions)
	case c.Deadline < minTime:
		return fmt.Errorf("deadline %s, want at least %s", c.Deadline, minTime)
	case c.KeepAlive < minTime:
		return fmt.Errorf("keep-alive %s, want at least %s", c.KeepAlive, minTime)
	}
	return nil
}

func newMember(p *Pool, c TokenConfig) (*member, error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("token %s: %w", c.URI, err)
	}
	m := &member{pool: p, settled: make(chan struct{}), config: c, state: Connecting, since: time.Now(), tagKey: make([]byte, 32)}
	rand.Read(m.tagKey)
	for i, k := range p.config.Keys {
		if len(c.Keys) == 0 || slices.Contains(c.Keys, k.Name) {
			m.keys = append(m.keys, i)
		}
	}
	for _, name := range c.Keys {
		if !slices.ContainsFunc(p.config.Keys, func(k PinnedKey) bool { return k.Name == name }) {
			return nil, fmt.Errorf("token %s: no key is called %q", c.URI, name)
		}
	}
	return m, nil
}

func (m *member) serves(key int) bool { return slices.Contains(m.keys, key) }

// Pauses before a signer process is started again: short ones where the device
// is away, because it may be back any moment, long ones where a person has to
// do something, or where a token lied.
const (
	firstPause  = 25 * time.Millisecond
	longPause   = 500 * time.Millisecond
	personPause = 5 * time.Second
	faultPause  = time.Minute
	latchPause  = time.Second
	// A process that lived for steady has nothing to do with failures before;
	// a fault is remembered longer.
	steady      = 10 * time.Second
	faultMemory = time.Hour
)

// run keeps a signer process until the pool closes.
func (m *member) run() {
	failures := 0
	for {
		q, err := m.connect()
		m.outcome(err)
		if err == nil {
			began := time.Now()
			if err = m.serve(q); time.Since(began) > steady {
				failures = 0
			}
		} else {
			m.pool.mu.Lock()
			m.out(err)
			m.pool.mu.Unlock()
		}
		if m.closed() {
			return
		}
		failures++
		select { // nothing is tried again for a pool that will not be
		case <-m.pool.opened:
		case <-m.pool.closing:
			return
		}
		m.report(err)
		select {
		case <-time.After(m.pauseAfter(failures, err)):
		case <-m.pool.closing:
			return
		}
	}
}

func (m *member) closed() bool {
	select {
	case <-m.pool.closing:
		return true
	default:
		return false
	}
}

// outcome reports the first try to connect.
func (m *member) outcome(err error) {
	if !m.tried {
		m.tried = true
		close(m.settled)
		m.pool.first <- outcome{m, err} // has room
	}
}

// pauseAfter is how long to wait after so many failures in a row, of which err
// is the last.
func (m *member) pauseAfter(failures int, err error) time.Duration {
	limit := longPause
	switch {
	case isA[*LatchedError](err) || isA[*PINError](err):
		return latchPause // a look at the latch costs nothing
	case isA[*FaultError](err):
		if time.Since(m.lied) > faultMemory {
			m.lies = 0
		}
		m.lied = time.Now()
		m.lies++
		return min(time.Second<<min(m.lies-1, 10), faultPause)
	case isA[*WrongKeyError](err) || isA[*KeyNotFoundError](err) || isA[*KeyRefusedError](err) || isA[*URIError](err) || isA[*Error](err) && !dead(err):
		limit = personPause
	}
	if failures <= 1 {
		return 0
	}
	return min(firstPause<<min(failures-2, 20), limit)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// serve lets the process sign until it ends, and returns why it did.
func (m *member) serve(q *process) error {
	m.up(q)
	tick := time.NewTicker(m.config.KeepAlive / 2)
	defer tick.Stop()
	for {
		select {
		case <-m.lost:
			m.bury(q)
			return q.err
		case <-q.child.Done():
			select {
			case <-q.ended: // read knows why
			case <-time.After(farewell): // the socket is open still, in a program that the module started
			}
			m.end(q, &CrashError{Token: q.info.Label, Status: q.child.Wait()})
		case <-m.pool.closing:
			m.end(q, ErrClosed)
		case <-tick.C:
			m.keepAlive(q)
		}
	}
}

func (m *member) end(q *process, err error) {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	q.end(err)
}

// bury sees to it that the process is gone: it may have things to give back,
// unless it hangs.
func (m *member) bury(q *process) {
	q.conn.CloseWrite()
	if !isA[*TimeoutError](q.err) {
		select {
		case <-q.child.Done():
		case <-time.After(2 * farewell):
		}
	}
	gone := make(chan struct{})
	go func() { q.child.Kill(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(2 * farewell): // stuck in the kernel, where no signal reaches it
	}
	q.conn.Close()
	<-q.ended
}

// up puts the process into service.
func (m *member) up(q *process) {
	m.pool.mu.Lock()
	m.process, m.lost, m.info, m.err = q, make(chan struct{}), q.info, nil
	m.state, m.since = Up, time.Now()
	m.stats.starts++
	m.attributes = map[int]KeyAttributes{}
	for i, k := range q.keys {
		m.attributes[m.keys[i]] = k.Attributes
	}
	sessions := q.info.Sessions
	to := m.pool.advance()
	m.pool.mu.Unlock()
	m.reported = ""
	go q.read()
	flush(to)
	m.log(slog.LevelInfo, "token is in service", "sessions", sessions, "signer", q.child.PID())
}

// out notes why there is no process. The caller holds mu.
func (m *member) out(err error) {
	state := Down
	switch {
	case isA[*LatchedError](err) || isA[*PINError](err):
		state = Latched
	case isA[*WrongKeyError](err) || isA[*KeyNotFoundError](err) || isA[*KeyRefusedError](err):
		state = Refused
	}
	if m.state != state || isA[*PINError](err) { // which was a login, even if it was latched before
		m.since = time.Now()
	}
	m.process, m.state, m.err = nil, state, err
}

// report logs why there is no process: a reason once, not at each try.
func (m *member) report(err error) {
	if m.reported == err.Error() {
		return
	}
	m.reported = err.Error()
	args := []any{"error", err}
	if h, ok := errors.AsType[hinter](err); ok {
		args = append(args, "hint", h.Hint())
	}
	m.log(slog.LevelError, "token is out of service", args...)
}

func (m *member) log(level slog.Level, message string, args ...any) {
	m.pool.mu.Lock()
	about := []any{"token", m.name(), "serial", m.info.Serial}
	m.pool.mu.Unlock()
	m.pool.config.Logger.Log(context.Background(), level, message, append(about, args...)...)
}

// name is how messages call the token.
func (m *member) name() string {
	if m.info.Label != "" {
		return m.info.Label
	}
	return m.config.URI.String()
}

// keepAlive uses sessions that may have been idle, so that a device does not
// drop them, and a token that is gone is noticed before somebody needs it. A
// process that is busy is left alone.
func (m *member) keepAlive(q *process) {
	m.pool.mu.Lock()
	used := q.signed
	q.signed = 0
	// Sessions take turns, so that twice as many signatures have used them all.
	if q.over || len(q.flight) > 0 || used >= 2*q.info.Sessions {
		m.pool.mu.Unlock()
		return
	}
	asked := make([]*request, q.info.Sessions)
	index := m.keys[0]
	public := m.pool.public[index]
	for i := range asked {
		asked[i] = &request{key: index, digest: m.challengeDigest(public), answer: make(chan answer, 1), own: q}
		q.add(asked[i])
	}
	m.pool.mu.Unlock()
	q.flush()
	for _, r := range asked {
		var a answer
		select {
		case a = <-r.answer: // the watch sees to it that there is one
		case <-m.pool.closing:
			return
		}
		if a.err != nil {
			return
		}
		if _, err := accept(public, a.raw, r.digest); err != nil {
			q.fault(&FaultError{Label: m.pool.config.Keys[index].Name, Err: err})
			return
		}
	}
}

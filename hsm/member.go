package hsm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/child"
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

	// Pool.mu guards these.
	process    *process      // nil while there is none that may be asked
	lost       chan struct{} // closed when process ends
	state      State
	since      time.Time
	err        error                 // the last failure
	info       Info                  // as last seen
	attributes map[int]KeyAttributes // by index in PoolConfig.Keys
	latency    latency
	stats      struct{ signatures, retries, refusals, faults, starts uint64 }
}

func newMember(p *Pool, c TokenConfig) (*member, error) {
	if c.Deadline == 0 {
		c.Deadline = defaultDeadline
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	if c.Deadline < 0 || c.KeepAlive < 0 || c.Sessions < 0 {
		return nil, fmt.Errorf("token %s: deadline, keep-alive and sessions must not be negative", c.URI)
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
	longPause   = time.Second
	personPause = 5 * time.Second
	faultPause  = time.Minute
	latchPause  = time.Second
	// A process that lived for steady has nothing to do with failures before.
	steady = 10 * time.Second
)

// run keeps a signer process until the pool closes.
func (m *member) run() {
	failures := 0
	for {
		q, err := m.connect()
		if err == nil {
			failures = m.serve(q, failures)
			if err = q.err; errors.Is(err, ErrClosed) {
				return
			}
		} else {
			m.down(err)
			failures++
		}
		m.outcome(err)
		if !m.pause(pauseAfter(failures, err)) {
			return
		}
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
func pauseAfter(failures int, err error) time.Duration {
	limit := longPause
	switch {
	case isA[*LatchedError](err) || isA[*PINError](err):
		return latchPause // a look at the latch costs nothing
	case isA[*FaultError](err):
		limit = faultPause
	case isA[*WrongKeyError](err) || isA[*KeyNotFoundError](err) || isA[*KeyRefusedError](err) || isA[*URIError](err):
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

func (m *member) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-m.pool.closing:
		return false
	}
	select {
	case <-m.pool.closing:
		return false
	default:
		return true
	}
}

// serve lets the process sign until it ends, and returns how many failures
// there have been in a row.
func (m *member) serve(q *process, failures int) int {
	m.up(q)
	m.outcome(nil)
	began := time.Now()
	tick := time.NewTicker(m.config.KeepAlive / 2)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-m.lost:
			alive = false
		case <-m.pool.closing:
			m.pool.mu.Lock()
			q.end(ErrClosed)
			m.pool.mu.Unlock()
		case <-tick.C:
			m.keepAlive(q)
		}
	}
	m.bury(q)
	if errors.Is(q.err, ErrClosed) {
		return 0
	}
	m.down(q.err)
	if time.Since(began) > steady {
		failures = 0
	}
	return failures + 1
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
	to := m.pool.drain()
	m.pool.mu.Unlock()
	go q.read()
	flush(to)
	m.log(slog.LevelInfo, "token is in service", "sessions", q.info.Sessions, "signer", q.child.PID())
}

// down notes why there is no process. It logs a reason once, not at each try.
func (m *member) down(err error) {
	state := Down
	switch {
	case isA[*LatchedError](err) || isA[*PINError](err):
		state = Latched
	case isA[*WrongKeyError](err) || isA[*KeyNotFoundError](err) || isA[*KeyRefusedError](err):
		state = Refused
	}
	m.pool.mu.Lock()
	news := m.state != state || m.err == nil || m.err.Error() != err.Error()
	if m.state != state {
		m.since = time.Now()
	}
	m.state, m.err = state, err
	m.pool.mu.Unlock()
	if news {
		args := []any{"state", string(state), "error", err}
		if h, ok := errors.AsType[hinter](err); ok {
			args = append(args, "hint", h.Hint())
		}
		m.log(slog.LevelError, "token is out of service", args...)
	}
}

func (m *member) log(level slog.Level, message string, args ...any) {
	m.pool.config.Logger.Log(context.Background(), level, message, append([]any{"token", m.name()}, args...)...)
}

// name is how messages call the token.
func (m *member) name() string {
	if m.info.Label != "" {
		return m.info.Label
	}
	return m.config.URI.String()
}

// connect starts a signer process and lets it prove itself: the token is the
// one that was named, its keys are the pinned ones, and it signs.
func (m *member) connect() (q *process, err error) {
	if e, err := m.pool.config.Latch.latched(m.config.URI); err != nil {
		return nil, err
	} else if e != nil {
		return nil, &LatchedError{*e}
	}
	q, err = m.start()
	if err != nil {
		return nil, err
	}
	q.watch = time.AfterFunc(time.Hour, q.watched)
	q.watch.Stop()
	q.conn.SetDeadline(time.Now().Add(connectTime))
	stop := make(chan struct{})
	defer close(stop)
	go func() { // closing the pool interrupts it
		select {
		case <-m.pool.closing:
			q.conn.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	err = m.greet(q)
	if err == nil {
		err = m.challenge(q)
	}
	if err != nil {
		q.conn.Close()
		select {
		case <-q.child.Done(): // it says why it failed, and ends
		case <-time.After(farewell):
		}
		go q.child.Kill() // it may be stuck in the kernel
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			err = &TimeoutError{Token: m.name(), Deadline: connectTime}
		}
		return nil, err
	}
	q.conn.SetDeadline(time.Time{})
	return q, nil
}

// start starts the process.
func (m *member) start() (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("signer process: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "signer")
	defer theirs.Close()
	ours := os.NewFile(uintptr(fds[0]), "signer")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("signer process: %w", err)
	}
	// The file that this program was started from, whatever lies under its
	// name by now.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{signerName, m.config.URI.String()}
	cmd.ExtraFiles = []*os.File{theirs} // signerSocket
	cmd.Env = m.environment()
	words := &lastWords{member: m, name: m.name()}
	cmd.Stderr = words
	c, err := child.Start(cmd)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("signer process: %w", err)
	}
	q := &process{member: m, pool: m.pool, child: c, conn: conn.(*net.UnixConn), frames: newFrameReader(conn), ended: make(chan struct{})}
	return q, nil
}

// environment is this process's, without what is meant for it alone, and with
// what the vendor's module wants.
func (m *member) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
			continue
		}
		if _, ours := m.config.Environment[name]; !ours {
			env = append(env, v)
		}
	}
	for name, value := range m.config.Environment {
		env = append(env, name+"="+value)
	}
	return append(env, "GOTRACEBACK=none")
}

// greet tells the process what to do, and compares what it found with what is
// known.
func (m *member) greet(q *process) error {
	h := hello{URI: m.config.URI.String(), Sessions: m.config.Sessions, Latch: m.pool.config.Latch, Wrappable: m.config.Wrappable, TagKey: m.tagKey, Known: m.known}
	for _, i := range m.keys {
		h.Keys = append(h.Keys, m.pool.config.Keys[i].Key.String())
	}
	if err := writeJSON(q.conn, frameHello, h); err != nil {
		return fmt.Errorf("signer process: %w", err)
	}
	var r ready
	if err := q.expect(frameReady, &r); err != nil {
		return err
	}
	if len(r.Keys) != len(m.keys) || r.Info.Sessions < 1 {
		return fmt.Errorf("signer process: %w", errFrame)
	}
	q.info, q.keys, m.known = r.Info, r.Keys, r.PINTag
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	for i, k := range r.Keys {
		public, err := chancery.ParsePublicKey(k.SPKI)
		if err != nil {
			return err
		}
		index := m.keys[i]
		if m.pool.public[index].IsZero() {
			m.pool.public[index] = public
		}
		if want := m.pool.public[index]; !want.Equal(public) {
			return &WrongKeyError{Token: r.Info.Label, Serial: r.Info.Serial, Name: m.pool.config.Keys[index].Name, Want: want.String(), Got: public.String()}
		}
	}
	return nil
}

// expect reads a frame of JSON, or the reason why there is none.
func (q *process) expect(want byte, v any) error {
	kind, body, err := q.frames.next()
	switch {
	case err != nil:
		return q.crashed(err)
	case kind == frameFailed:
		return parseRemote(body)
	case kind != want:
		return fmt.Errorf("signer process: %w", errFrame)
	}
	return json.Unmarshal(body, v)
}

// challenge has the token sign a random statement with each key.
func (m *member) challenge(q *process) error {
	for i, index := range m.keys {
		var c chancery.Challenge
		rand.Read(c.Nonce[:])
		public := m.pool.public[index] // set once, by greet
		frame := appendSign(beginFrame(nil), uint32(i), i, digestOf(public, m.pool.config.Fleet, c))
		if _, err := q.conn.Write(endFrame(frame, frameSign)); err != nil {
			return fmt.Errorf("signer process: %w", err)
		}
		kind, body, err := q.frames.next()
		if err != nil {
			return q.crashed(err)
		}
		if kind != frameSigned {
			return fmt.Errorf("signer process: %w", errFrame)
		}
		var refused, wrong error
		var took time.Duration
		err = eachSigned(body, func(s signed) {
			took, refused = s.took, s.err
			if s.err == nil {
				_, wrong = accept(public, s.raw, m.pool.config.Fleet, c)
			}
		})
		if err = errors.Join(err, refused); err != nil {
			return err
		}
		if wrong != nil {
			m.pool.mu.Lock()
			m.stats.faults++
			m.pool.mu.Unlock()
			return &FaultError{Label: m.pool.config.Keys[index].Name, Err: wrong}
		}
		m.pool.mu.Lock()
		m.latency.add(took)
		m.pool.mu.Unlock()
	}
	return nil
}

// keepAlive uses sessions that have been idle, so that a device does not drop
// them, and a token that is gone is noticed before somebody needs it.
func (m *member) keepAlive(q *process) {
	m.pool.mu.Lock()
	if q.over || len(q.flight) > 0 || time.Since(q.used) < m.config.KeepAlive/2 {
		m.pool.mu.Unlock()
		return
	}
	asked := make([]*request, q.info.Sessions)
	challenges := make([]chancery.Challenge, len(asked))
	index := m.keys[0]
	public := m.pool.public[index]
	for i := range asked {
		rand.Read(challenges[i].Nonce[:])
		asked[i] = &request{key: index, digest: digestOf(public, m.pool.config.Fleet, challenges[i]), answer: make(chan answer, 1), own: q}
		q.add(asked[i])
	}
	m.pool.mu.Unlock()
	q.flush()
	for i, r := range asked {
		var a answer
		select {
		case a = <-r.answer: // the watch sees to it that there is one
		case <-m.pool.closing:
			return
		}
		if a.err != nil {
			return
		}
		if _, err := accept(public, a.raw, m.pool.config.Fleet, challenges[i]); err != nil {
			q.fault(&FaultError{Label: m.pool.config.Keys[index].Name, Err: err})
			return
		}
	}
}

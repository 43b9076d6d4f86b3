package hsm

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/child"
)

// connect starts a signer process and lets it prove itself: the token is the
// one that was named, its keys are the pinned ones, and it signs.
func (m *member) connect() (q *process, err error) {
	if err := m.stillLatched(); err != nil {
		return nil, err
	}
	q, err = m.start()
	if err != nil {
		return nil, err
	}
	q.watch = time.AfterFunc(time.Hour, q.watched)
	q.watch.Stop()
	opened := time.Now().Add(connectTime)
	q.conn.SetDeadline(opened)
	stop := make(chan struct{})
	go func() { // closing the pool interrupts it
		select {
		case <-m.pool.closing:
			q.conn.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	keys, err := m.greet(q)
	if err == nil {
		err = m.challenge(q, keys, opened)
	}
	if err == nil {
		err = m.pin(q, keys)
	}
	close(stop)
	if err == nil {
		err = q.conn.SetDeadline(time.Time{})
	}
	if err == nil {
		return q, nil
	}
	q.conn.Close()
	grace := farewell // it says why it failed, and ends
	switch ne, ok := errors.AsType[net.Error](err); {
	case m.closed():
		grace, err = loginGrace, ErrClosed
	case ok && ne.Timeout():
		grace, err = 0, &TimeoutError{Token: m.name(), Deadline: connectTime, Opening: true}
	case isA[*TimeoutError](err):
		grace = 0
	}
	select {
	case <-q.child.Done():
	case <-time.After(grace):
		go q.child.Kill() // which may take long, if it is stuck in the kernel
	}
	return nil, err
}

// loginGrace is how long a process may go on that is being opened when the pool
// closes: a login that is cut off looks like one that was refused.
const loginGrace = 5 * time.Second

// stillLatched spares starting a process to hear that the token is latched. A
// URI that may mean several tokens has to be looked at by a process.
func (m *member) stillLatched() error {
	uri := m.config.URI
	if uri.Token == "" || uri.Serial == "" {
		return nil
	}
	e, err := m.pool.config.Latch.entry(uri.Token, uri.Serial)
	if err != nil {
		return err
	}
	if e != nil && e.Latched() {
		return &LatchedError{*e}
	}
	return nil
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
	cmd.WaitDelay = farewell // for who inherited standard error from it
	c, err := child.Start(cmd)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("signer process: %w", err)
	}
	go func() { <-c.Done(); words.end() }()
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

// greet tells the process what to do, and returns the keys that it found.
func (m *member) greet(q *process) ([]chancery.PublicKey, error) {
	h := hello{URI: m.config.URI.String(), Sessions: m.config.Sessions, Latch: m.pool.config.Latch, Wrappable: m.config.Wrappable, TagKey: m.tagKey, Known: m.known, Pause: growFactor * m.config.KeepAlive}
	for _, i := range m.keys {
		h.Keys = append(h.Keys, m.pool.config.Keys[i].Key.String())
	}
	if err := writeJSON(q.conn, frameHello, h); err != nil {
		return nil, q.crashed(err)
	}
	var r ready
	if err := q.expect(frameReady, &r); err != nil {
		return nil, err
	}
	if len(r.Keys) != len(m.keys) || r.Info.Sessions < 1 || r.Info.Sessions > m.config.Sessions {
		return nil, fmt.Errorf("signer process: %w", errFrame)
	}
	q.info, q.keys, m.known = r.Info, r.Keys, r.PINTag
	keys := make([]chancery.PublicKey, len(r.Keys))
	for i, k := range r.Keys {
		var err error
		if keys[i], err = chancery.ParsePublicKey(k.SPKI); err != nil {
			return nil, fmt.Errorf("signer process: %w", err)
		}
	}
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return keys, m.compare(q, keys)
}

// compare holds the keys against the pinned ones. The caller holds mu.
func (m *member) compare(q *process, keys []chancery.PublicKey) error {
	for i, got := range keys {
		index := m.keys[i]
		if want := m.pool.public[index]; !want.IsZero() && !want.Equal(got) {
			return &WrongKeyError{Token: q.info.Label, Serial: q.info.Serial, Name: m.pool.config.Keys[index].Name, Want: want.String(), Got: got.String()}
		}
	}
	return nil
}

// pin pins the keys that were not, now that the token has proved that it has
// them.
func (m *member) pin(q *process, keys []chancery.PublicKey) error {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	if err := m.compare(q, keys); err != nil { // another token was first
		return err
	}
	for i, k := range keys {
		m.pool.public[m.keys[i]] = k
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

// minChallenges is how many challenges a token has to sign, so that the first
// one, which finds everything cold, is not taken for its speed.
const minChallenges = 3

// challenge has the token sign random statements with each key in turn, each
// within the deadline of signatures: those that wait for this token wait for
// no longer than they would for its signature.
func (m *member) challenge(q *process, keys []chancery.PublicKey, opened time.Time) error {
	best := time.Duration(math.MaxInt64)
	for i := range max(len(keys), minChallenges) {
		key := i % len(keys)
		digest := m.challengeDigest(keys[key])
		frame := appendSign(beginFrame(nil), uint32(i), key, digest)
		due := time.Now().Add(m.config.Deadline)
		if due.Before(opened) {
			q.conn.SetDeadline(due)
			if m.closed() { // and that deadline was overwritten
				return ErrClosed
			}
		}
		if _, err := q.conn.Write(endFrame(frame, frameSign)); err != nil {
			return q.crashed(err)
		}
		body, err := q.nextSigned()
		if errors.Is(err, os.ErrDeadlineExceeded) && due.Before(opened) && !m.closed() {
			return &TimeoutError{Token: q.info.Label, Deadline: m.config.Deadline}
		}
		if err != nil {
			return q.crashed(err)
		}
		var got []signed
		err = eachSigned(body, func(s signed) { got = append(got, s) })
		if err != nil || len(got) != 1 || got[0].id != uint32(i) {
			return fmt.Errorf("signer process: %w", errors.Join(err, errFrame))
		}
		if got[0].err != nil {
			return got[0].err
		}
		if _, err := accept(keys[key], got[0].raw, digest); err != nil {
			m.pool.mu.Lock()
			m.stats.faults++
			m.pool.mu.Unlock()
			return &FaultError{Label: m.pool.config.Keys[m.keys[key]].Name, Err: err}
		}
		best = min(best, got[0].took)
	}
	m.pool.mu.Lock()
	m.latency.average = best
	m.pool.mu.Unlock()
	return nil
}

// challengeDigest is what a token is given to sign to prove itself.
func (m *member) challengeDigest(k chancery.PublicKey) []byte {
	var c chancery.Challenge
	rand.Read(c.Nonce[:])
	return digestOf(k, m.pool.config.Fleet, c)
}

package hsm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
)

// A process is a signer process that has proved itself, as its parent sees it.
// Pool.mu guards all that changes.
type process struct {
	member *member
	pool   *Pool
	child  *child.Child
	conn   *net.UnixConn
	frames *frameReader
	info   Info
	keys   []readyKey
	ended  chan struct{} // closed when nothing more will come from it

	// flight holds what was given to the process and not answered, in the
	// order in which it was given: the first as many as there are sessions are
	// in the token, the others wait for them.
	flight    []*flying
	next      uint32 // id of the next entry
	out       []byte // entries of a sign frame that is to be written
	writing   bool   // somebody writes
	late      bool
	lateSince time.Time
	heard     time.Time // when it last answered
	signed    int       // since keepAlive last looked
	watch     *time.Timer
	err       error // why it ended; the first reason stands
	over      bool  // it gets no more requests
}

// A flying request is one that a process has.
type flying struct {
	*request
	id    uint32
	began time.Time // when a session took it, as far as can be told; zero before
}

// full reports whether the process has as much as it should: enough that no
// session waits for the next request, and not so much that it is stuck with a
// slow token while others idle.
func (q *process) full() bool { return q.over || len(q.flight) >= max(32, 4*q.info.Sessions) }

// delay estimates when one more request would be done: in rounds of as many as
// there are sessions, each as long as a signature took lately.
func (q *process) delay() time.Duration {
	rounds := len(q.flight)/q.info.Sessions + 1
	return time.Duration(rounds) * q.member.latency.average
}

// add gives the process a request. The caller holds mu, and calls flush when
// it no longer does.
func (q *process) add(r *request) {
	f := &flying{request: r, id: q.next}
	r.holders = append(r.holders, q)
	q.next++
	q.flight = append(q.flight, f)
	if len(q.flight) <= q.info.Sessions {
		f.began = time.Now()
	}
	q.out = appendSign(q.out, f.id, slices.Index(q.member.keys, r.key), r.digest)
	if len(q.flight) == 1 {
		q.watch.Reset(q.lateAfter())
	}
}

// flush writes what was added, unless somebody does already, who then writes
// this too: that is how requests come to travel in batches.
func (q *process) flush() {
	if q == nil {
		return
	}
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	if q.writing {
		return
	}
	q.writing = true
	var frame []byte
	for len(q.out) > 0 {
		frame = append(beginFrame(frame), q.out...)
		q.out = q.out[:0]
		q.pool.mu.Unlock()
		_, err := q.conn.Write(endFrame(frame, frameSign))
		q.pool.mu.Lock()
		if err != nil {
			return // the process is gone: read knows more. Nobody writes again
		}
	}
	q.writing = false
}

// read takes answers until the process ends.
func (q *process) read() {
	defer close(q.ended)
	for {
		body, err := q.nextSigned()
		if err == nil {
			err = q.answers(body)
		}
		if err != nil {
			err = q.crashed(err)
			q.pool.mu.Lock()
			q.end(err)
			q.pool.mu.Unlock()
			return
		}
	}
}

// nextSigned returns the next signed frame. That there are more sessions is
// taken in on the way.
func (q *process) nextSigned() ([]byte, error) {
	for {
		kind, body, err := q.frames.next()
		switch {
		case err != nil:
			return nil, err
		case kind == frameSigned:
			return body, nil
		case kind != frameSessions || len(body) != 2:
			return nil, errFrame
		}
		if err := q.grew(int(binary.BigEndian.Uint16(body))); err != nil {
			return nil, err
		}
	}
}

// grew notes that the process has so many sessions more.
func (q *process) grew(n int) error {
	q.pool.mu.Lock()
	q.info.Sessions += n
	if q.info.Sessions > q.member.config.Sessions {
		q.pool.mu.Unlock()
		return errFrame
	}
	if q.member.process == q { // else it takes it from here when it is in service
		q.member.info.Sessions = q.info.Sessions
	}
	sessions := q.info.Sessions
	to := q.pool.advance()
	q.pool.mu.Unlock()
	flush(to)
	q.member.log(slog.LevelInfo, "token has more sessions", "sessions", sessions)
	return nil
}

// crashed looks behind an error of the socket: a process that ends closes it.
func (q *process) crashed(err error) error {
	select {
	case <-q.child.Done():
		return &CrashError{Token: cmp.Or(q.info.Label, q.member.config.URI.String()), Status: q.child.Wait()}
	case <-time.After(farewell):
	}
	return fmt.Errorf("signer process: %w", err)
}

// answers handles a signed frame.
func (q *process) answers(body []byte) error {
	q.pool.mu.Lock()
	now := time.Now()
	q.heard = now
	var unknown error
	err := eachSigned(body, func(s signed) {
		if q.over {
			return // others have been given the rest
		}
		i := slices.IndexFunc(q.flight, func(f *flying) bool { return f.id == s.id })
		if i < 0 {
			unknown = errors.New("answer to a question that was not asked")
			return
		}
		q.member.stats.retries += uint64(s.retries)
		if s.err != nil {
			// Whatever the token says, the request is not at fault: a digest of
			// the right size, for a key that signed a challenge.
			q.end(s.err)
			return
		}
		f := q.flight[i]
		q.flight = slices.Delete(q.flight, i, i+1)
		// The session takes the next one.
		if n := q.info.Sessions; i < n && len(q.flight) >= n {
			q.flight[n-1].began = now
		}
		if q.late {
			q.late = false
			q.watch.Reset(q.lateAfter()) // it was set to the deadline
		}
		q.signed++
		q.member.stats.signatures++
		q.member.latency.add(s.took)
		f.leave(q)
		if !f.done {
			f.done = true
			f.answer <- answer{raw: s.raw, by: q}
		}
	})
	to := q.pool.advance()
	q.pool.mu.Unlock()
	flush(to)
	return errors.Join(err, unknown)
}

// leave notes that the process has the request no longer.
func (r *request) leave(q *process) {
	r.holders = slices.DeleteFunc(r.holders, func(h *process) bool { return h == q })
}

// lateAfter is how long a signature may take before it is late.
func (q *process) lateAfter() time.Duration {
	return min(max(minLate, lateFactor*q.member.latency.average), q.member.config.Deadline)
}

// hungFactor is how many times what others take a signature must take, beyond
// the deadline, to count as hung while the process answers others: a slow token
// that has many sessions is busy.
const hungFactor = 8

// watched is called by the timer: when the oldest request may be late or over
// the deadline. It looks, acts, and sets the timer to when to look again.
func (q *process) watched() {
	q.pool.mu.Lock()
	var to []*process
	if len(q.flight) > 0 && !q.over {
		// Sessions take requests in order, so the first is the oldest.
		age, deadline := time.Since(q.flight[0].began), q.member.config.Deadline
		silent := min(age, time.Since(q.heard))
		hung := max(deadline, hungFactor*q.member.latency.average)
		switch late := q.lateAfter(); {
		case silent >= deadline, age >= hung:
			q.end(&TimeoutError{Token: q.info.Label, Deadline: deadline})
		case age >= late:
			if !q.late {
				q.late, q.lateSince = true, time.Now()
			}
			to = q.pool.advance()
			q.watch.Reset(min(deadline-silent, hung-age))
		default:
			q.watch.Reset(late - age)
		}
	}
	q.pool.mu.Unlock()
	flush(to)
}

// end takes the process out of service for a reason. What it has goes to
// others at once, before what waits already; the member sees to it that it is
// gone. The caller holds mu.
func (q *process) end(err error) {
	if q.over {
		return
	}
	q.over, q.err = true, err
	q.watch.Stop()
	q.member.out(err)
	var lost []*request
	for _, f := range q.flight {
		f.leave(q)
		switch {
		case f.done:
		case f.own != nil:
			f.done = true
			f.answer <- answer{err: err, by: q}
		case len(f.holders) == 0:
			lost = append(lost, f.request)
		}
	}
	q.flight = nil
	q.pool.waiting = append(lost, q.pool.waiting...)
	if to := q.pool.advance(); len(to) > 0 {
		go flush(to) // mu is held here
	}
	close(q.member.lost)
}

// fault ends the process because it returned a signature that does not verify.
func (q *process) fault(err *FaultError) {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	q.member.stats.faults++
	q.end(err)
}

// A CrashError is a signer process that ended without a word: the vendor's
// module crashed it, or somebody killed it.
type CrashError struct {
	Token  string
	Status error // of the process, as [exec.Cmd.Wait] tells it
}

func (e *CrashError) Error() string {
	return fmt.Sprintf("token %q: the signer process crashed: %v", e.Token, e.Status)
}

// Hint tells what to do about it.
func (e *CrashError) Hint() string {
	return "what the PKCS#11 module wrote before is in the log; report it to the vendor"
}

// A TimeoutError is a signature that took longer than the token's deadline, or
// a token that took too long to open.
type TimeoutError struct {
	Token    string
	Deadline time.Duration
	Opening  bool
}

func (e *TimeoutError) Error() string {
	if e.Opening {
		return fmt.Sprintf("token %q was not open within %s", e.Token, e.Deadline)
	}
	return fmt.Sprintf("token %q did not answer within %s", e.Token, e.Deadline)
}

// Hint tells what to do about it.
func (e *TimeoutError) Hint() string {
	if e.Opening {
		return "check that the device is reachable"
	}
	return "check that the device is reachable; if it is slow, use fewer sessions or a longer deadline: see chancery hsm bench"
}

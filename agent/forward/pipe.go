package forward

import (
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery/agent/mesh"
)

// Errors that end a connection.
var (
	// ErrIdle: nothing was sent in either direction for the idle timeout.
	ErrIdle = errors.New("forward: idle for too long")
	// ErrStopped: the relay was stopped and the time to drain is over.
	ErrStopped = errors.New("forward: stopped")
)

// A stream is a connection whose two directions end separately, as those of
// TCP, Unix sockets and sessions do.
type stream interface {
	net.Conn
	CloseWrite() error
}

const (
	// A connection that is idle holds a buffer of waiting for each direction,
	// one in which bytes flow holds one of flowing.
	waiting = 512
	flowing = 32 << 10
)

var buffers = sync.Pool{New: func() any { return new([flowing]byte) }}

// A pipe carries bytes between two streams in both directions.
type pipe struct {
	a, b stream
	ab   atomic.Uint64 // bytes
	ba   atomic.Uint64
	idle time.Duration // 0: for ever

	last  atomic.Int64 // when something moved, since begin
	begin time.Time
	timer *time.Timer  // of idle, or nil
	open  atomic.Int32 // directions
	done  func(error)
	ended sync.Once
	err   error // why; set before the streams are closed
}

// start carries both directions, and calls done when both have ended. A stream
// that ends is half closed at the other side, so that what comes back still
// arrives; a failure resets both, so that nobody takes what he has for all there
// was.
//
// Nobody waits for the two goroutines: a stack on which there was a handshake
// stays as large as that, and connections wait by the thousand.
func (p *pipe) start(done func(error)) {
	p.begin, p.done = time.Now(), done
	if p.idle > 0 {
		p.timer = time.AfterFunc(math.MaxInt64, p.checkIdle) // which sets it again, so it must be there
		p.timer.Reset(p.idle)
	}
	p.open.Store(2)
	go p.direction(p.a, p.b, &p.ba)
	go p.direction(p.b, p.a, &p.ab)
}

func (p *pipe) checkIdle() {
	if left := p.idle - time.Since(p.begin) + time.Duration(p.last.Load()); left > 0 {
		p.timer.Reset(left)
		return
	}
	p.abort(ErrIdle)
}

// direction carries one direction; the second one to end is the pipe's end.
func (p *pipe) direction(dst, src stream, moved *atomic.Uint64) {
	if err := p.copy(dst, src, moved); err != nil {
		p.abort(err)
	}
	if p.open.Add(-1) > 0 {
		return
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.end(errors.Join(p.a.Close(), p.b.Close())) // to no effect after an abort
	p.done(p.err)
}

// end notes why the pipe ended, the first time.
func (p *pipe) end(err error) { p.ended.Do(func() { p.err = err }) }

// abort ends the pipe now.
func (p *pipe) abort(err error) {
	p.end(err)
	for _, s := range []stream{p.a, p.b} {
		reset(s)
	}
}

// reset closes a connection so that its peer sees a failure, not an end.
func reset(c net.Conn) {
	switch c := c.(type) {
	case *mesh.Session:
		c.Abort()
		return
	case *net.TCPConn:
		c.SetLinger(0)
	}
	c.Close()
}

// copy carries one direction to its end.
func (p *pipe) copy(dst, src stream, moved *atomic.Uint64) error {
	var small [waiting]byte
	var large *[flowing]byte
	put := func() {
		if large != nil {
			buffers.Put(large)
			large = nil
		}
	}
	defer put()
	buf := small[:]
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.last.Store(int64(time.Since(p.begin)))
			moved.Add(uint64(n))
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return dst.CloseWrite()
		case err != nil:
			return err
		case n == len(buf) && large == nil: // there is more
			large = buffers.Get().(*[flowing]byte)
			buf = large[:]
		case n <= waiting:
			put()
			buf = small[:]
		}
	}
}

package coordinator

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A wire speaks HTTP/1.1 over one connection, one call at a time, and never
// over another. http.Transport would do, but it closes a connection whose
// writing goroutine does not report within 50 ms of the response, which on a
// starved machine costs an enrolment.
type wire struct {
	conn *tls.Conn
	r    *bufio.Reader
	in   *meter
	turn chan struct{} // holds a value while nobody calls
	lost error         // why there is no further call; who has the turn may look
}

const (
	maxHeader  = 64 << 10 // of a response
	maxInterim = 8        // responses of status 1xx before the one
)

func newWire(conn *tls.Conn) *wire {
	w := &wire{conn: conn, in: &meter{r: conn}, turn: make(chan struct{}, 1)}
	w.r = bufio.NewReader(w.in)
	w.turn <- struct{}{}
	return w
}

// RoundTrip makes a call. When its context ends, so does the connection: what
// is left of a call on it would be taken for the answer to the next.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	select {
	case <-w.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if w.lost != nil {
		w.turn <- struct{}{}
		return nil, w.lost
	}
	stop := context.AfterFunc(ctx, func() { w.conn.NetConn().SetDeadline(time.Unix(1, 0)) })
	response, err := w.call(req)
	if err != nil {
		stop()
		w.end(err)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	response.Body = &body{ReadCloser: response.Body, wire: w, stop: stop, last: response.Close}
	return response, nil
}

func (w *wire) call(req *http.Request) (*http.Response, error) {
	out := bufio.NewWriter(w.conn)
	sendErr := req.Write(out)
	if sendErr == nil {
		sendErr = out.Flush()
	}
	// A server may refuse a request before it has read all of it.
	for range maxInterim {
		w.in.left = maxHeader
		response, err := http.ReadResponse(w.r, req)
		if err != nil {
			return nil, errors.Join(sendErr, err)
		}
		if response.StatusCode >= 200 {
			w.in.left = -1 // the caller bounds the body
			response.Close = response.Close || sendErr != nil
			return response, nil
		}
	}
	return nil, fmt.Errorf("more than %d interim responses", maxInterim)
}

// end gives the turn back, and gives the connection up for the reason if there
// is one.
func (w *wire) end(reason error) {
	if reason != nil {
		w.lost = fmt.Errorf("%w: %w", ErrLost, reason)
		w.conn.NetConn().Close()
	}
	w.turn <- struct{}{}
}

// A body is a response's. Once it is closed the next call begins.
type body struct {
	io.ReadCloser
	wire   *wire
	stop   func() bool
	last   bool // the server closes the connection after it
	whole  bool // it was read to its end
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.whole = b.whole || err == io.EOF
	return n, err
}

func (b *body) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	if !b.whole { // nothing but the end may be left
		_, err := io.ReadFull(b.ReadCloser, make([]byte, 1))
		b.whole = err == io.EOF
	}
	var reason error
	switch running := b.stop(); {
	case !running:
		reason = errors.New("a call was given up")
	case b.last:
		reason = errors.New("the coordinator closed it")
	case !b.whole || b.wire.r.Buffered() > 0: // it would be the next call's answer
		reason = errors.New("a response was not read to its end")
	}
	b.wire.end(reason)
	return nil
}

// A meter reads no more than is left, if that is not negative.
type meter struct {
	r    io.Reader
	left int
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left == 0 {
		return 0, fmt.Errorf("response header of more than %d bytes", maxHeader)
	}
	if m.left > 0 {
		p = p[:min(len(p), m.left)]
	}
	n, err := m.r.Read(p)
	if m.left > 0 {
		m.left -= n
	}
	return n, err
}

package api

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A park is where the connections of nodes are that wait for a list: all of a
// fleet's, nearly all of the time. What [http.Server] has for a request under
// way, two goroutines and three buffers, is twice what the connection has
// itself, so a poll that has to wait takes the connection away from the server
// and keeps what it needs to answer. Then the server gets the connection back
// as if it were a new one, with TLS as it stands.
type park struct {
	net.Listener // of TLS connections
	conns        chan accepted
	closed       chan struct{}
	once         sync.Once
	parked       atomic.Int64 // connections
}

type accepted struct {
	conn net.Conn
	err  error
}

// maxRecord is what a TLS record holds (RFC 8446 section 5.1).
const maxRecord = 16 << 10

// parkWrite is how long a node may take to read what it waited for.
const parkWrite = 90 * time.Second

// Listen returns the listener for the [http.Server.Serve] of the one server that
// has the handler of n. It speaks TLS as [Node.TLSConfig] says.
func (n *Node) Listen(inner net.Listener, cert tls.Certificate) net.Listener {
	config := n.TLSConfig(cert)
	config.NextProtos = []string{"h2", "http/1.1"}
	p := &park{Listener: tls.NewListener(inner, config), conns: make(chan accepted), closed: make(chan struct{})}
	n.park = p
	go func() {
		for {
			conn, err := p.Listener.Accept()
			select {
			case p.conns <- accepted{conn, err}:
			case <-p.closed:
				if err == nil {
					conn.Close()
				}
				return
			}
		}
	}()
	return p
}

// Accept returns a connection that is new, or whose poll was answered.
func (p *park) Accept() (net.Conn, error) {
	select {
	case a := <-p.conns:
		return a.conn, a.err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close also ends all that is parked.
func (p *park) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Listener.Close()
}

// take takes a connection away from the server. It does not where it could not
// give it back as it is: if it is HTTP/2's, or if the answer may be another one
// than a list or nothing. The connection is nil if it had to be closed.
func (p *park) take(w http.ResponseWriter, r *http.Request) (conn *tls.Conn, taken bool) {
	if p == nil || r.TLS == nil || r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.Method != http.MethodGet || r.Close ||
		r.ContentLength != 0 || r.Header.Get("If-None-Match") != "" || r.Header.Get("Range") != "" {
		return nil, false
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil, false
	}
	hijacked, rw, err := h.Hijack()
	if err != nil {
		return nil, false
	}
	conn, ok = hijacked.(*tls.Conn)
	if !ok || rw.Reader.Buffered() > 0 { // what was read ahead cannot be put back
		hijacked.Close()
		return nil, true
	}
	p.parked.Add(1)
	return conn, true
}

// giveBack answers, and gives the connection back to the server.
func (p *park) giveBack(conn *tls.Conn, s *news) {
	conn.SetWriteDeadline(time.Now().Add(parkWrite))
	if err := s.write(conn); err != nil {
		p.drop(conn)
		return
	}
	conn.SetWriteDeadline(time.Time{})
	if s.update != nil {
		p.yield()
	}
	select {
	case p.conns <- accepted{conn, nil}:
		p.parked.Add(-1)
	case <-p.closed:
		p.drop(conn)
	}
}

// drop gives a connection up.
func (p *park) drop(conn *tls.Conn) {
	p.parked.Add(-1)
	conn.Close()
}

// perNode is about what it costs a processor to send a list to one node, and
// less than it costs to take up its next poll.
const perNode = 50 * time.Microsecond

// yield lets the others have their list before the next polls of those who have
// it take the processors from them. It takes up to as long as all who wait
// need, by chance, so that the polls come spread over that.
func (p *park) yield() {
	timer := time.NewTimer(rand.N(perNode * time.Duration(max(1, p.parked.Load()))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.closed:
	}
}

// write writes a response of HTTP/1.1 (RFC 9112) that does not end the
// connection. What is short goes out as one TLS record.
func (s *news) write(w io.Writer) error {
	var b bytes.Buffer
	s.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var body []byte
	if s.update == nil {
		b.WriteString("HTTP/1.1 204 No Content\r\n")
	} else {
		body = s.update.List
		b.WriteString("HTTP/1.1 200 OK\r\n")
		s.header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	s.header.Write(&b)
	b.WriteString("\r\n")
	if b.Len()+len(body) <= maxRecord {
		b.Write(body)
		body = nil
	}
	if _, err := w.Write(b.Bytes()); err != nil || len(body) == 0 {
		return err
	}
	_, err := w.Write(body)
	return err
}

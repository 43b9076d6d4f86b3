// Package ping is the one service that every agent offers to its peers: it
// answers, and says whom it takes the asker for.
//
// Start with [Serve] on the side that was dialled and [Client] on the side that
// dials. Both ends are authentic already, see package mesh; what the responder
// says of the asker shows that both verdicts were reached.
//
// On the wire a ping and its answer are a line of JSON each, of at most
// [maxLine] bytes.
package ping

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
)

const (
	maxLine = 1 << 10
	// idleTime is how long a responder waits for the next ping.
	idleTime = 10 * time.Minute
	// answerTime is how long a dialler waits for an answer.
	answerTime = 10 * time.Second
)

type ping struct {
	Seq uint64 `json:"seq"`
}

// A Pong is the responder's answer.
type Pong struct {
	Seq  uint64 `json:"seq"`
	Node string `json:"node"` // the responder's own name
	Peer Peer   `json:"peer"` // whom the responder has accepted
}

// A Peer is how one node sees another.
type Peer struct {
	Name      string `json:"name"`
	Serial    string `json:"serial"`
	Assurance string `json:"assurance"`
	Simulator bool   `json:"simulator"`
}

// Describe returns what a node says of a peer that it has accepted.
func Describe(p *chancery.Peer) Peer {
	nc := p.Certificate
	return Peer{Name: p.Name, Serial: nc.Serial.String(), Assurance: nc.Assurance.Level.String(), Simulator: nc.Assurance.Simulator}
}

// Serve answers the pings of a session until the peer hangs up, and closes it.
// self is this node's name.
func Serve(s *mesh.Session, self string) error {
	defer s.Close()
	in := newReader(s)
	for {
		s.SetDeadline(time.Now().Add(idleTime))
		var p ping
		if err := in.read(&p); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := send(s, Pong{Seq: p.Seq, Node: self, Peer: Describe(s.Peer())}); err != nil {
			return err
		}
	}
}

// A Client pings over one session.
type Client struct {
	session *mesh.Session
	in      *reader
	seq     uint64
}

// NewClient returns a client. The session stays the caller's.
func NewClient(s *mesh.Session) *Client { return &Client{session: s, in: newReader(s)} }

// ErrAnswer means that the peer's answer makes no sense.
var ErrAnswer = errors.New("ping: the peer's answer is not one to this ping")

// Ping sends a ping and returns the answer and the time it took.
func (c *Client) Ping() (*Pong, time.Duration, error) {
	c.seq++
	start := time.Now()
	c.session.SetDeadline(start.Add(answerTime))
	if err := send(c.session, ping{c.seq}); err != nil {
		return nil, 0, err
	}
	p := new(Pong)
	if err := c.in.read(p); err != nil {
		return nil, 0, err
	}
	took := time.Since(start)
	// The peer is authentic, and still its words end up in a terminal.
	if p.Seq != c.seq || p.Node != c.session.Peer().Name || !plain(p.Peer.Name) || !plain(p.Peer.Serial) || !plain(p.Peer.Assurance) {
		return nil, 0, ErrAnswer
	}
	return p, took, nil
}

// plain reports whether a text is printable ASCII.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func send(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

type reader struct{ *bufio.Reader }

func newReader(r io.Reader) *reader { return &reader{bufio.NewReaderSize(r, maxLine)} }

// read reads a line into v. A peer that hangs up between two lines is io.EOF.
func (r *reader) read(v any) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if len(line) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

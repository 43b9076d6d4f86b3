package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A program is what tunnels lead to. Each connection begins with a byte that
// says what is wanted.
type program struct{ net.Listener }

const (
	wantEcho  = 'e' // everything back, this byte too
	wantTake  = 't' // a length follows, and then so many bytes are taken and one is answered
	wantBytes = 'b' // a length follows, and so many bytes are sent
)

const chunk = 256 << 10 // of what is sent and received

func newProgram() (*program, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &program{l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c) // who asks notices what fails
			}()
		}
	}()
	return p, nil
}

func (p *program) address() string { return p.Addr().String() }

// answer does what a connection asks for.
func answer(c net.Conn) error {
	var head [9]byte
	if _, err := io.ReadFull(c, head[:1]); err != nil {
		return err
	}
	if head[0] == wantEcho {
		if _, err := c.Write(head[:1]); err != nil {
			return err
		}
		return echo(c)
	}
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint64(head[1:]))
	if head[0] == wantBytes {
		return send(c, n)
	}
	if err := receive(c, n); err != nil {
		return err
	}
	_, err := c.Write(head[:1])
	return err
}

// echo holds little while nothing comes: thousands of them wait.
func echo(c net.Conn) error {
	var small [64]byte
	for {
		n, err := c.Read(small[:])
		if err != nil {
			return err
		}
		if _, err := c.Write(small[:n]); err != nil {
			return err
		}
	}
}

func send(c net.Conn, n int) error {
	buf := make([]byte, chunk)
	for n > 0 {
		m, err := c.Write(buf[:min(n, chunk)])
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

func receive(c net.Conn, n int) error {
	buf := make([]byte, chunk)
	for n > 0 {
		m, err := c.Read(buf[:min(n, chunk)])
		if n -= m; err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// transfer opens a connection, and takes the time of so many bytes in one
// direction over it.
func transfer(address string, want byte, n int) (took time.Duration, err error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	head := binary.BigEndian.AppendUint64([]byte{want}, uint64(n))
	start := time.Now()
	if _, err := c.Write(head); err != nil {
		return 0, err
	}
	if want == wantBytes {
		err = receive(c, n)
	} else if err = send(c, n); err == nil {
		_, err = io.ReadFull(c, head[:1])
	}
	return time.Since(start), err
}

// oneByte opens a connection, sends a byte that comes back, and closes it.
func oneByte(address string) error {
	c, err := hold(address)
	if err != nil {
		return err
	}
	return c.Close()
}

// hold opens a connection on which a byte has come back.
func hold(address string) (net.Conn, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if err := speak(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// speak sends a byte, which comes back.
func speak(c net.Conn) error {
	b := [1]byte{wantEcho}
	c.SetDeadline(time.Now().Add(giveUp))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[0] != wantEcho {
		return fmt.Errorf("%q came back", b[0])
	}
	return nil
}

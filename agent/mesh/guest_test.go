package mesh_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// An echo is a guest that says what it hears.
type echo struct {
	config *tls.Config
	served chan error // receives how each connection ended
}

func (e *echo) TLS(net.Addr) (*tls.Config, error) {
	if e.config == nil {
		return nil, errors.New("not wanted")
	}
	return e.config, nil
}

func (e *echo) Serve(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(time.Hour))
	_, err := io.Copy(conn, conn)
	e.served <- err
	return err
}

const echoProtocol = "echo/1"

// host starts a node that has an echo as a guest.
func host(t *testing.T, w *world, wanted bool) (m *member, e *echo) {
	t.Helper()
	e = &echo{served: make(chan error, 10)}
	m = w.enroll("host", func(c *mesh.Config) { c.Guests = map[string]mesh.Guest{echoProtocol: e} })
	if wanted {
		id, err := m.paper.Identity()
		if err != nil {
			t.Fatal(err)
		}
		e.config = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{id.Session}, PrivateKey: id.Key}}, NextProtos: []string{echoProtocol}}
	}
	return m, e
}

func guestDial(l net.Listener, protocols ...string) (*tls.Conn, error) {
	return tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
}

// Strangers speak with a guest and nodes with the node, over one port, and
// what is a guest's counts as nothing of the node's.
func TestGuest(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	h, e := host(t, w, true)
	a := w.enroll("a")
	list := w.publish()
	h.update(list)
	a.update(list)
	l := h.listen()
	conn, err := guestDial(l, echoProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := a.dial(l, "host")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptSession()
	if err != nil {
		t.Fatal(err)
	}
	checkAlive(t, s, accepted)
	said := []byte("still there?")
	heard := make([]byte, len(said))
	conn.Write(said)
	if _, err := io.ReadFull(conn, heard); err != nil || string(heard) != string(said) {
		t.Errorf("heard %q, %v", heard, err)
	}
	if s := h.Stats(); s.Accepted != 1 || s.Live != 1 || s.Broken != 0 || len(s.Refused) != 0 {
		t.Errorf("counted %+v, want one session", s)
	}
	conn.Close()
	if err := <-e.served; err != nil {
		t.Error(err)
	}
}

// Who also offers the nodes' protocol is judged as a node.
func TestGuestIsNoWayIn(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	h, e := host(t, w, true)
	l := h.listen()
	for _, protocols := range [][]string{{echoProtocol, chancery.ALPN}, {chancery.ALPN, echoProtocol}, {"other/1"}, nil} {
		conn, err := guestDial(l, protocols...)
		if err == nil { // the client's side of TLS 1.3 is done before the server has judged
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Errorf("%q: let in", protocols)
		}
	}
	if len(e.served) > 0 {
		t.Error("the guest was asked")
	}
}

// A guest that does not want somebody has TLS refuse him.
func TestGuestRefuses(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	h, _ := host(t, w, false)
	if conn, err := guestDial(h.listen(), echoProtocol); err == nil {
		conn.Close()
		t.Error("let in")
	}
}

// Closing a listener ends what its guests do, whoever they wait for.
func TestGuestEndsWithTheListener(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	h, e := host(t, w, true)
	l := h.listen()
	conn, err := guestDial(l, echoProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := <-e.served; err == nil {
		t.Error("the connection was not closed")
	}
}

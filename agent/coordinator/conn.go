// Package coordinator asks the coordinators of a fleet over HTTPS.
//
// Start with [FetchPointer], which needs no trust because the pointer record
// proves itself, and then [Dial], which returns a [Conn]: one TLS 1.3
// connection to an endpoint that the record names, checked against the record's
// pins. The methods of Conn are the calls of the exchange (messages.go of
// package chancery).
//
// # One connection
//
// A Conn never connects a second time by itself. An enrolment is bound to its
// connection by [Conn.Exporter], so a lost one ends it: [ErrLost].
//
// # Failure
//
// What the coordinator says is a *chancery.Problem, cut and freed of control
// characters. A server whose key the record does not name is
// chancery.ErrNotOurCoordinator. Everything else is an error of the network.
package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/chancery-pki/chancery"
)

// dialTime is how long connecting to one endpoint may take, TLS included.
const dialTime = 10 * time.Second

// ErrLost means that the connection is gone; dial again and begin anew.
var ErrLost = errors.New("the connection to the coordinator was lost")

// ErrNoEndpoint means that the pointer record names no coordinator.
var ErrNoEndpoint = errors.New("the pointer record names no coordinator")

// A Conn is a connection to one coordinator. Its methods may be called
// concurrently; HTTP/1.1 carries one call at a time.
type Conn struct {
	base   *url.URL
	tls    *tls.Conn
	client http.Client
}

// Dial connects to the first endpoint of the record that answers with a
// pinned key. identity, if not nil, is what the node presents if it is asked,
// see [chancery.PinnedConfig].
func Dial(ctx context.Context, p *chancery.Pointer, identity func() (*chancery.Identity, error)) (*Conn, error) {
	if len(p.Endpoints) == 0 {
		return nil, ErrNoEndpoint
	}
	var failed []error
	for _, ep := range p.Endpoints {
		c, err := dial(ctx, ep, identity)
		if err == nil {
			return c, nil
		}
		failed = append(failed, fmt.Errorf("coordinator %s: %w", ep.URL, err))
	}
	return nil, errors.Join(failed...)
}

func dial(ctx context.Context, ep chancery.Endpoint, identity func() (*chancery.Identity, error)) (*Conn, error) {
	base, err := parseURL(ep.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", hostPort(base))
	if err != nil {
		return nil, err
	}
	config := chancery.PinnedConfig(ep, identity)
	config.ServerName = base.Hostname() // for servers of many names; not checked
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return newConn(base, conn), nil
}

func newConn(base *url.URL, conn *tls.Conn) *Conn {
	return &Conn{base: base, tls: conn, client: http.Client{Transport: newWire(conn), CheckRedirect: noRedirect}}
}

// noRedirect: a redirect would lead away from the pinned server.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Exporter returns the 32 bytes that only the two ends of this connection know
// (RFC 8446 section 7.5).
func (c *Conn) Exporter() ([32]byte, error) {
	state := c.tls.ConnectionState()
	b, err := state.ExportKeyingMaterial(chancery.ExporterLabel, nil, 32)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(b), nil
}

// URL returns the coordinator's address.
func (c *Conn) URL() string { return c.base.String() }

// LocalIP returns the address from which this machine reaches the
// coordinator, the best guess at where others reach this machine.
func (c *Conn) LocalIP() string {
	host, _, _ := net.SplitHostPort(c.tls.LocalAddr().String())
	return host
}

// Close closes the connection; a call under way fails.
func (c *Conn) Close() error { return c.tls.NetConn().Close() }

// A URLError says that an address is not a coordinator's.
type URLError struct{ URL string }

func (e *URLError) Error() string {
	return fmt.Sprintf("%q is not the address of a coordinator", e.URL)
}

// Hint says what one looks like.
func (e *URLError) Hint() string { return "it has the form https://HOST:PORT" }

// ValidURL reports whether an address can be a coordinator's.
func ValidURL(s string) bool {
	_, err := parseURL(s)
	return err == nil
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, &URLError{s}
	}
	return u, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

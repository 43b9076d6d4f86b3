package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/internal/socket"
)

// Limits of a relay. The zero value is the defaults.
type Limits struct {
	Connections int           // at a time; more are reset. Default [DefaultConnections].
	Connect     time.Duration // for the way to the other side. Default [DefaultConnect].
	Idle        time.Duration // without a byte in either direction. Default: for ever.
	Drain       time.Duration // for connections to end by themselves when the relay stops. Default [DefaultDrain].
}

// dialling is how many sessions a relay opens at a time: when many programs
// connect at once, handshakes one after the other are done sooner than all of
// them side by side, and no listener takes them for slow.
const dialling = 16

// Defaults of [Limits].
const (
	DefaultConnections = 4096
	DefaultConnect     = 10 * time.Second
	DefaultDrain       = 30 * time.Second
)

func (l *Limits) connect() time.Duration { return cmp.Or(l.Connect, DefaultConnect) }

// A Dialer opens sessions to nodes by name.
type Dialer func(ctx context.Context, name, port string) (*mesh.Session, error)

// A Relay takes connections at one side and carries each to the other. Its
// methods may be called concurrently.
type Relay struct {
	what     string
	listener net.Listener
	open     func(ctx context.Context, in net.Conn) (out net.Conn, err error)
	limits   Limits
	logger   *slog.Logger
	slots    chan struct{}

	// mu guards the fields below; it is not held while bytes move.
	mu    sync.Mutex
	rules Rules
	live  map[*connection]struct{}
}

// A connection is one that is carried.
type connection struct {
	pipe
	session *mesh.Session
	inbound bool
	opened  time.Time
}

// A Connection describes a connection that is carried.
type Connection struct {
	Relay   string    // as [Relay.String] has it
	Peer    string    // the node at the other end
	Serial  string    // of its certificate
	Program string    // address of the program at this end
	Opened  time.Time // here
	In, Out uint64    // bytes from the peer and to it
}

// NewForward carries what connects at the listener to the node that is called
// name, where it exposes something at the port.
func NewForward(l net.Listener, dial Dialer, name, port string, limits Limits, logger *slog.Logger) (*Relay, error) {
	if err := chancery.ValidateName(name); err != nil {
		return nil, err
	}
	turns := make(chan struct{}, dialling)
	return newRelay(fmt.Sprintf("forward %s to %s:%s", Describe(l.Addr()), name, port), l, limits, logger, func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(ctx, limits.connect())
		defer cancel()
		s, err := dial(ctx, name, port)
		if err != nil {
			return nil, err
		}
		return s, nil
	}), nil
}

// NewExpose carries the sessions that the listener accepts, of peers that a
// rule allows, to a program at an address as [ParseAddress] has it. With proxy
// each connection begins with a PROXY protocol header.
func NewExpose(l *mesh.Listener, target string, rules Rules, proxy bool, limits Limits, logger *slog.Logger) (*Relay, error) {
	network, address, err := ParseAddress(target)
	if err != nil {
		return nil, err
	}
	r := newRelay(fmt.Sprintf("expose %s at %s", target, Describe(l.Addr())), l, limits, logger, nil)
	r.rules = rules
	r.open = func(ctx context.Context, in net.Conn) (net.Conn, error) {
		s := in.(*mesh.Session)
		if !r.allows(s.Peer()) {
			return nil, &NotAllowedError{Peer: s.Peer().Name}
		}
		d := net.Dialer{Timeout: limits.connect()}
		out, err := d.DialContext(ctx, network, address)
		if err != nil || !proxy {
			return out, err
		}
		header, err := proxyHeader(s)
		if err == nil {
			_, err = out.Write(header)
		}
		if err != nil {
			out.Close()
			return nil, err
		}
		return out, nil
	}
	return r, nil
}

// A NotAllowedError is a peer that no rule allows.
type NotAllowedError struct{ Peer string }

func (e *NotAllowedError) Error() string { return "forward: no rule allows " + e.Peer }

func newRelay(what string, l net.Listener, limits Limits, logger *slog.Logger, open func(context.Context, net.Conn) (net.Conn, error)) *Relay {
	limits.Connections, limits.Drain = cmp.Or(limits.Connections, DefaultConnections), cmp.Or(limits.Drain, DefaultDrain)
	return &Relay{what: what, listener: l, open: open, limits: limits, logger: logger, slots: make(chan struct{}, limits.Connections), live: map[*connection]struct{}{}}
}

// String says what goes where.
func (r *Relay) String() string { return r.what }

// Addr returns where it listens.
func (r *Relay) Addr() net.Addr { return r.listener.Addr() }

// Close stops listening, which ends Run.
func (r *Relay) Close() error { return r.listener.Close() }

// Run takes connections until ctx ends or the relay is closed, lets those that
// are open drain, and resets the rest. It returns when the last one is gone, and
// an error only if listening failed.
func (r *Relay) Run(ctx context.Context) error {
	var all sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { r.listener.Close() })
	defer stop()
	// Connections outlive ctx by the time to drain.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var failed error
	for pause := time.Duration(0); ; {
		in, err := r.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				break
			}
			if socket.Shortage(err) {
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				r.logger.Warn("accepting connections is held up", "relay", r.what, "error", err, "pause", pause)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
				continue
			}
			failed = err
			break
		}
		pause = 0
		select {
		case r.slots <- struct{}{}:
		default:
			r.logger.Warn("connection reset: too many", "relay", r.what, "limit", r.limits.Connections)
			reset(in)
			continue
		}
		all.Add(1)
		go r.carry(life, in, func() {
			<-r.slots
			all.Done()
		})
	}
	r.listener.Close()
	drained := make(chan struct{})
	go func() { all.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(r.limits.Drain):
		end()
		for _, c := range r.connections() {
			c.abort(ErrStopped)
		}
		<-drained
	}
	return failed
}

// carry opens the other side of a connection and has it carried to its end. It
// calls done at that, or when there is no other side.
func (r *Relay) carry(ctx context.Context, in net.Conn, done func()) {
	out, err := r.open(ctx, in)
	if err != nil {
		reset(in)
		level := slog.LevelWarn
		if _, ok := errors.AsType[*NotAllowedError](err); ok {
			level = slog.LevelInfo
		}
		r.logger.Log(ctx, level, "not connected", "relay", r.what, "from", Describe(in.RemoteAddr()), "error", err)
		done()
		return
	}
	c := &connection{pipe: pipe{a: in.(stream), b: out.(stream), idle: r.limits.Idle}, opened: time.Now()}
	if s, ok := in.(*mesh.Session); ok {
		c.session, c.inbound = s, true
	} else {
		c.session = out.(*mesh.Session)
	}
	r.mu.Lock()
	r.live[c] = struct{}{}
	allowed := !c.inbound || r.rules.Allow(c.session.Peer()) // they may have changed meanwhile
	r.mu.Unlock()
	if !allowed || ctx.Err() != nil {
		c.abort(ErrStopped)
	}
	c.start(func(err error) {
		r.mu.Lock()
		delete(r.live, c)
		r.mu.Unlock()
		if err != nil {
			r.logger.Debug("connection ended", "relay", r.what, "peer", c.session.Peer().Name, "error", err)
		}
		done()
	})
}

func (r *Relay) allows(p *chancery.Peer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules.Allow(p)
}

// SetRules replaces the rules of what is exposed, and resets the connections
// of peers that none of the new ones allows. It returns how many.
func (r *Relay) SetRules(rules Rules) (cut int) {
	r.mu.Lock()
	r.rules = rules
	r.mu.Unlock()
	for _, c := range r.connections() {
		if c.inbound && !rules.Allow(c.session.Peer()) {
			c.abort(&NotAllowedError{c.session.Peer().Name})
			cut++
		}
	}
	return cut
}

func (r *Relay) connections() []*connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*connection, 0, len(r.live))
	for c := range r.live {
		list = append(list, c)
	}
	return list
}

// Connections describes the connections that are carried now.
func (r *Relay) Connections() []Connection {
	var list []Connection
	for _, c := range r.connections() {
		d := Connection{Relay: r.what, Peer: c.session.Peer().Name, Serial: c.session.Peer().Certificate.Serial.String(), Opened: c.opened,
			Program: Describe(c.a.RemoteAddr()), In: c.ba.Load(), Out: c.ab.Load()}
		if c.inbound {
			d.Program, d.In, d.Out = Describe(c.b.RemoteAddr()), d.Out, d.In
		}
		list = append(list, d)
	}
	return list
}

// ParseAddress splits "127.0.0.1:5432", ":8444" or "unix:/run/app.sock" into
// what package net takes.
func ParseAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return "", "", &AddressError{s, errors.New("no path")}
		}
		return "unix", path, nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		if e, ok := errors.AsType[*net.AddrError](err); ok {
			err = errors.New(e.Err) // which names the address too
		}
		return "", "", &AddressError{s, err}
	}
	return "tcp", s, nil
}

// An AddressError is an address that cannot be used.
type AddressError struct {
	Address string
	err     error
}

func (e *AddressError) Error() string { return fmt.Sprintf("address %q: %v", e.Address, e.err) }
func (e *AddressError) Unwrap() error { return e.err }

// Hint says what one looks like.
func (e *AddressError) Hint() string { return "it has the form HOST:PORT, or unix:PATH" }

// Describe is the inverse of [ParseAddress].
func Describe(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}

// Listen listens at an address as [ParseAddress] has it. The socket that a
// crash left is replaced; one that somebody listens at is not.
func Listen(s string) (net.Listener, error) {
	network, address, err := ParseAddress(s)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return socket.Listen(address, 0)
	}
	return net.Listen(network, address)
}

package gossip

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

const (
	// atOnce bounds the exchanges that strangers have under way here.
	atOnce = 8
	// connectTime bounds the way to a peer, wholeTime all of an exchange.
	connectTime = 5 * time.Second
	wholeTime   = time.Minute
)

var (
	// ErrShunned means that an address sent what is wrong lately, and is not
	// talked to.
	ErrShunned = errors.New("peer sent what is wrong, and is not talked to for a while")
	// ErrBusy means that an address comes too often, or too many do.
	ErrBusy = errors.New("too many exchanges")
	// ErrFleet means that the other end is of another fleet.
	ErrFleet = errors.New("peer is of another fleet")
	// ErrPromise means that a peer sent something else than it said it has.
	ErrPromise = errors.New("peer does not have what it says")
)

// A Config says what a node has and how it takes what is newer. All fields are
// required.
type Config struct {
	// Trust returns what the node holds.
	Trust func() chancery.Trust
	// TakePointer and TakeCRL judge what a peer sent, keep it, and act on it,
	// as on what the coordinator sends. Whoever takes a list, from wherever,
	// calls [Gossip.Keep].
	TakePointer func(*chancery.Pointer) error
	TakeCRL     func([]byte) error
	Now         func() time.Time
	Logger      *slog.Logger
}

// A Gossip is one node's end of all exchanges. Its methods may be called
// concurrently.
type Gossip struct {
	config    Config
	server    *tls.Config
	standings standings
	slots     chan struct{} // one for each exchange with a stranger

	// mu guards steps: the deltas that lead to the list held, as they came, each
	// from where the one before leads.
	mu    sync.Mutex
	steps []step
}

// A step is a delta.
type step struct {
	from, to uint64
	delta    []byte
}

// New returns a node's end.
func New(c Config) (*Gossip, error) {
	cert, err := anonymous()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g := &Gossip{config: c, server: config(), slots: make(chan struct{}, atOnce)}
	g.server.Certificates = []tls.Certificate{cert}
	return g, nil
}

// config is what both ends ask of TLS: version and protocol. Who they are is
// not asked.
func config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // see Trust in the package's documentation
	}
}

// anonymous makes the certificate that TLS wants of one end. It says nothing,
// and its key is as old as the process.
func anonymous() (c tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// TLS returns the configuration for a connection from remote that asks for
// [ALPN], or why it is not wanted, before it costs anything.
func (g *Gossip) TLS(remote net.Addr) (*tls.Config, error) {
	if err := g.standings.admits(host(remote), g.config.Now()); err != nil {
		return nil, err
	}
	return g.server, nil
}

// Serve has the exchange over a connection that was accepted with the
// configuration of [Gossip.TLS]. The caller closes it.
func (g *Gossip) Serve(conn net.Conn) error {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		return ErrBusy
	}
	conn.SetDeadline(time.Now().Add(wholeTime))
	e := &exchange{Gossip: g, conn: conn}
	return g.note(host(conn.RemoteAddr()), e.answer())
}

// Exchange has one with the peer at a network address, and reports whether
// anything newer came from there, or went there.
func (g *Gossip) Exchange(ctx context.Context, address string) (moved bool, err error) {
	if g.standings.shuns(address, g.config.Now()) {
		return false, ErrShunned
	}
	ctx, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	conn, err := connect(ctx, address)
	if err != nil {
		return false, err // nobody is there: no matter of standing
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
	e := &exchange{Gossip: g, conn: conn}
	err = e.begin()
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	return e.moved, g.note(address, err)
}

func connect(ctx context.Context, address string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config()}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// note keeps account of how an exchange ended.
func (g *Gossip) note(who string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	wrong := isWrong(err)
	if !wrong && !isBroken(err) {
		return err
	}
	if g.standings.strike(who, g.config.Now(), wrong) {
		g.config.Logger.Warn("peer is not asked for lists for a while", "address", who, "for", shunTime, "reason", err)
	}
	return err
}

// Keep keeps what was just taken as the newest list, for peers that are a step
// behind.
func (g *Gossip) Keep(update []byte) {
	from, head, err := chancery.ParseDeltaHead(update)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil { // a full list: nothing leads to it
		g.steps = nil
		return
	}
	if n := len(g.steps); n > 0 && g.steps[n-1].to != from {
		g.steps = nil
	}
	g.steps = append(g.steps, step{from, head.Number, update})
	if n := len(g.steps); n > maxSteps {
		g.steps = append([]step(nil), g.steps[n-maxSteps:]...) // and let go of what was before
	}
}

// updates returns what leads a holder of a list to crl: deltas, if they do,
// else the full list.
func (g *Gossip) updates(held version, crl *chancery.CRL) [][]byte {
	if held.number < crl.Head().Number {
		g.mu.Lock()
		defer g.mu.Unlock()
		var deltas [][]byte
		at, to := held.number, crl.Head().Number
		for _, s := range g.steps {
			if s.from == at && at < to {
				deltas, at = append(deltas, s.delta), s.to
			}
		}
		if at == to {
			return deltas
		}
	}
	return [][]byte{crl.Marshal()}
}

package local

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
)

// An Agent is the agent of this machine's node, as a program has it: what it
// trusts, kept up to date, and a session certificate, renewed at half of its
// life. Its methods may be called concurrently.
type Agent struct {
	http     http.Client
	now      func() time.Time
	logger   *slog.Logger
	onChange atomic.Pointer[func()]
	verifier *chancery.Verifier
	name     string
	self     chancery.NodeID
	present  atomic.Pointer[presented]
	cancel   context.CancelFunc
	work     sync.WaitGroup

	// mu guards what follows, and is held while news are taken.
	mu        sync.Mutex
	suspended string // the reason that the verifier has
}

type presented struct {
	chancery.Identity
	notBefore, notAfter time.Time
}

// Errors of this package. [Connect] says more.
var (
	// ErrNoAgent: nobody serves the socket.
	ErrNoAgent = errors.New("local: no agent serves the socket")
	// ErrNotAllowed: the agent has no rule for this program.
	ErrNotAllowed = errors.New("local: the agent does not answer this program")
)

const (
	// pollTime is how long the agent may wait for news.
	pollTime = 25 * time.Second
	// longest is the longest pause after failures.
	longest = 10 * time.Second
	// maxAnswer bounds what an agent may say: a list at its limit, in base64.
	maxAnswer = 256 << 20
)

// Connect returns the agent that serves the socket, when it has said whom it
// trusts and has certified a key. Close it after use.
func Connect(ctx context.Context, socket string, now func() time.Time, logger *slog.Logger) (*Agent, error) {
	a := &Agent{now: now, logger: logger, cancel: func() {}}
	a.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			err = fmt.Errorf("%w %s: %w", ErrNoAgent, socket, err)
		}
		return conn, err
	}}
	err := a.begin(ctx)
	if err != nil {
		a.Close()
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.work.Go(func() { a.follow(life) })
	a.work.Go(func() { a.rotate(life) })
	return a, nil
}

// Close ends the connection to the agent.
func (a *Agent) Close() {
	a.cancel()
	a.work.Wait()
	a.http.CloseIdleConnections()
}

// Verifier judges peers by what the agent trusts.
func (a *Agent) Verifier() *chancery.Verifier { return a.verifier }

// Name returns the node's name.
func (a *Agent) Name() string { return a.name }

// Self returns the node.
func (a *Agent) Self() chancery.NodeID { return a.self }

// OnChange has f called whenever what is trusted has changed. There is one f.
func (a *Agent) OnChange(f func()) { a.onChange.Store(&f) }

// Identity returns what to present in a handshake, out of memory.
func (a *Agent) Identity() (*chancery.Identity, error) {
	p := a.present.Load()
	if a.now().After(p.notAfter) {
		return nil, fmt.Errorf("local: the session certificate ended at %s, and the agent has given no other", p.notAfter)
	}
	return &p.Identity, nil
}

func (a *Agent) begin(ctx context.Context) error {
	t, err := a.trust(ctx, 0, 0, 0)
	if err != nil {
		return err
	}
	fleet, err := chancery.ParsePin(t.Fleet)
	if err != nil {
		return err
	}
	p, err := chancery.ParsePointer(t.Pointer)
	if err != nil {
		return err
	}
	if err := p.Verify(fleet); err != nil {
		return err
	}
	a.name, a.verifier = t.Name, chancery.NewVerifier(chancery.Trust{Pointer: p})
	if err := a.take(t); err != nil {
		return err
	}
	return a.certify(ctx)
}

// Refresh has the agent fetch a newer CRL now, and takes it.
func (a *Agent) Refresh(ctx context.Context) error {
	if err := a.call(ctx, http.MethodPost, "/v1/refresh", struct{}{}, nil); err != nil {
		return err
	}
	t, err := a.poll(ctx, 0)
	if err != nil {
		return err
	}
	return a.take(t)
}

// poll asks for what is newer than what is held.
func (a *Agent) poll(ctx context.Context, wait time.Duration) (*Trust, error) {
	held := a.verifier.Trust()
	number := uint64(0)
	if held.CRL != nil {
		number = held.CRL.Head().Number
	}
	return a.trust(ctx, held.Pointer.Seq, number, wait)
}

// follow takes what is newer until ctx ends.
func (a *Agent) follow(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		t, err := a.poll(ctx, pollTime)
		if err == nil {
			err = a.take(t)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = 0
			continue
		}
		pause = min(max(2*pause, 100*time.Millisecond), longest)
		a.logger.Warn("the agent cannot be followed", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// take has the verifier judge what the agent sent.
func (a *Agent) take(t *Trust) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var failed []error
	changed := false
	if t.Pointer != nil {
		p, err := chancery.ParsePointer(t.Pointer)
		if err == nil && p.Seq > a.verifier.Trust().Pointer.Seq {
			err = a.verifier.UpdatePointer(p, a.now())
			changed = err == nil
		}
		failed = append(failed, err)
	}
	if number, err := chancery.CRLNumber(t.CRL); t.CRL != nil && (err != nil || a.verifier.Trust().CRL == nil || number > a.verifier.Trust().CRL.Head().Number) {
		_, err := a.verifier.UpdateCRL(t.CRL, a.now())
		changed = changed || err == nil
		failed = append(failed, err)
	}
	if t.Suspended != a.suspended {
		var reason error
		if t.Suspended != "" {
			reason = errors.New(t.Suspended)
		}
		a.verifier.Suspend(reason)
		a.suspended = t.Suspended
	}
	if f := a.onChange.Load(); changed && f != nil {
		(*f)()
	}
	return errors.Join(failed...)
}

// rotate has the next key certified at half of the life of the one before,
// until ctx ends.
func (a *Agent) rotate(ctx context.Context) {
	pause := time.Duration(0)
	for {
		p := a.present.Load()
		wait := p.notBefore.Add(p.notAfter.Sub(p.notBefore) / 2).Sub(a.now())
		if pause > 0 {
			wait = pause
		}
		// The clock may be set and the machine sleep.
		select {
		case <-time.After(min(max(wait, 0), time.Minute)):
		case <-ctx.Done():
			return
		}
		if wait > time.Minute {
			continue
		}
		if err := a.certify(ctx); err != nil {
			pause = min(max(2*pause, time.Second), time.Minute)
			if ctx.Err() == nil {
				a.logger.Warn("the agent certifies no key", "error", err, "pause", pause)
			}
			continue
		}
		pause = 0
	}
}

// certify makes a key and has N:SK certify it.
func (a *Agent) certify(ctx context.Context) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return err
	}
	var s Session
	if err := a.call(ctx, http.MethodPost, "/v1/session", SessionRequest{public.SPKI()}, &s); err != nil {
		return err
	}
	nc, err := chancery.ParseCertificate(s.NC)
	if err != nil {
		return err
	}
	if nc.Name != a.name {
		return fmt.Errorf("local: the agent's certificate is for %s, and it is %s", nc.Name, a.name)
	}
	if a.present.Load() == nil {
		a.self = nc.NodeID(a.verifier.Fleet())
	}
	a.present.Store(&presented{chancery.Identity{Session: s.Session, NC: nc, Key: private}, s.NotBefore, s.NotAfter})
	return nil
}

func (a *Agent) trust(ctx context.Context, pointer, crl uint64, wait time.Duration) (*Trust, error) {
	a.mu.Lock()
	suspended := a.suspended
	a.mu.Unlock()
	q := url.Values{"pointer": {strconv.FormatUint(pointer, 10)}, "crl": {strconv.FormatUint(crl, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}, "suspended": {suspended}}
	t := new(Trust)
	return t, a.call(ctx, http.MethodGet, "/v1/trust?"+q.Encode(), nil, t)
}

func (a *Agent) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrNoAgent) {
			return errors.Unwrap(err) // without the URL, which says nothing
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
		err := fmt.Errorf("local: the agent says: %s", strings.TrimSpace(string(why)))
		if resp.StatusCode == http.StatusForbidden {
			err = fmt.Errorf("%w: %w", ErrNotAllowed, err)
		}
		return err
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
}

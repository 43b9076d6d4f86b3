package hsm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Options of [Open]. The zero value is good.
type Options struct {
	// Sessions is how many signatures may be in the token at a time; 0 means
	// 4. More than the token allows is an error.
	Sessions int
}

const defaultSessions = 4

// A Token is one token of one module with one login and its pinned sessions.
// Its methods may be called by many goroutines.
type Token struct {
	module  module
	slot    slot
	info    Info
	release func() // gives the module back to the process

	// idle holds the sessions that nobody uses. Whoever holds a session may
	// call the module; Close takes all of them, for good, and so knows that no
	// call is in flight when it calls C_Finalize.
	idle chan pkcs11.SessionHandle

	// signRaw is callSign, but for tests.
	signRaw func(pkcs11.SessionHandle, pkcs11.ObjectHandle, []byte) ([]byte, error)

	lost     atomic.Pointer[error] // the first error that was dead
	closing  chan struct{}         // closed when Close begins
	close    sync.Once
	closeErr error // set within close
}

// Open loads the module that the URI names, finds the one token that matches,
// and logs in to it, once. The errors are [*URIError], [*TokenError],
// [*PINSourceError], [*PINError], [ErrModuleInUse] and [*Error]. The caller
// closes the token.
func Open(uri URI, opts Options) (*Token, error) {
	path, release, err := claim(uri)
	if err != nil {
		return nil, err
	}
	m, err := load(path, uri.InitReserved)
	if err != nil {
		release()
		return nil, err
	}
	t, err := open(m, uri, opts)
	if err != nil {
		m.unload() // the error at hand says more than one of C_Finalize
		release()
		return nil, err
	}
	t.release = release
	return t, nil
}

func open(m module, uri URI, opts Options) (*Token, error) {
	s, err := m.slot(uri)
	if err != nil {
		return nil, err
	}
	n := opts.Sessions
	if n == 0 {
		n = defaultSessions
	}
	if n < 1 || s.limited() && uint(n) > s.maxSessions {
		return nil, fmt.Errorf("token %q: %d sessions wanted, it allows 1 to %s", s.info.Label, n, s.sessionLimit())
	}
	t := &Token{module: m, slot: s, info: s.info, idle: make(chan pkcs11.SessionHandle, n), closing: make(chan struct{})}
	t.info.Sessions = n
	t.signRaw = t.callSign
	var first pkcs11.SessionHandle
	for i := range n {
		// Read/write, although signing writes nothing: some network HSMs
		// have no read-only sessions.
		h, err := m.OpenSession(s.id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return nil, failed("C_OpenSession", err)
		}
		if i == 0 {
			first = h
		}
		t.idle <- h
	}
	if s.loginRequired() {
		if err := m.login(first, s, uri); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// login logs all sessions of the process in (PKCS#11 2.40 section 5.6), in
// one try.
func (m module) login(h pkcs11.SessionHandle, s slot, uri URI) error {
	if err := s.mayLogin(); err != nil {
		return err
	}
	pin, err := readPIN(uri)
	if err != nil {
		return err
	}
	defer clear(pin)
	if err := m.Login(h, pkcs11.CKU_USER, asString(pin)); err != nil {
		return s.loginFailed(failed("C_Login", err))
	}
	return nil
}

// limited reports whether the token tells how many sessions it allows.
func (s slot) limited() bool {
	return s.maxSessions != pkcs11.CK_EFFECTIVELY_INFINITE && s.maxSessions != pkcs11.CK_UNAVAILABLE_INFORMATION
}

func (s slot) sessionLimit() string {
	if s.limited() {
		return fmt.Sprint(s.maxSessions)
	}
	return "any number"
}

// Info describes the token, as it was when it was opened.
func (t *Token) Info() Info { return t.info }

// Close waits for the calls that are inside the module, ends the sessions and
// the login, and unloads the module. Calls that wait for a session and later
// ones get [ErrClosed]. If a call hangs in the module, so does Close: only
// ending the process ends such a call.
func (t *Token) Close() error {
	t.close.Do(func() {
		close(t.closing)
		for range cap(t.idle) {
			<-t.idle
		}
		// A courtesy to tokens that count sessions. If the device is gone it
		// fails, and C_Finalize is what frees the module all the same.
		t.module.CloseAllSessions(t.slot.id)
		t.closeErr = t.module.unload()
		t.release()
	})
	return t.closeErr
}

// withSession runs f with a session of its own. f may call the module; nobody
// else may.
func (t *Token) withSession(ctx context.Context, f func(pkcs11.SessionHandle) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var h pkcs11.SessionHandle
	select {
	case <-t.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case h = <-t.idle:
	}
	defer func() { t.idle <- h }()
	select {
	case <-t.closing: // select chose at random between this and a session
		return ErrClosed
	default:
	}
	if lost := t.lost.Load(); lost != nil {
		return fmt.Errorf("token %q is lost since an earlier failure: %w", t.info.Label, *lost)
	}
	err := f(h)
	t.judge(err)
	return err
}

// judge remembers the first error after which the token must not be used.
func (t *Token) judge(err error) {
	if dead(err) {
		t.lost.CompareAndSwap(nil, &err)
	}
}

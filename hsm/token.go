package hsm

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Options of [Open]. The zero value is good for trials; whoever starts again
// by itself needs a Latch.
type Options struct {
	// Sessions is how many signatures may be in the token at a time; 0 means
	// 4. A token that allows fewer is opened with those: see [Info].
	Sessions int
	// Latch remembers refused PINs.
	Latch Latch
	// Wrappable accepts keys that can leave the token wrapped by a key that
	// its security officer trusts (CKA_WRAP_WITH_TRUSTED).
	Wrappable bool

	// known is what [Token.pinTag] was when the token last took the PIN, and
	// tagKey the key that it was made with.
	tagKey, known []byte
}

const defaultSessions = 4

// A Token is one token of one module with one login and its pinned sessions.
// Its methods may be called by many goroutines.
type Token struct {
	module  module
	slot    slot
	info    Info
	options Options
	release func() // gives the module back to the process
	// pinTag is HMAC-SHA-256 under Options.tagKey of the PIN that was taken.
	pinTag []byte

	// idle holds the sessions that nobody uses. Whoever holds a session may
	// call the module; Close takes all of them, for good, and so knows that no
	// call is in flight when it calls C_Finalize.
	idle chan *session
	// growing is held while a session is opened that was not there before; it
	// guards open, the number of those that are.
	growing sync.Mutex
	open    int

	// signRaw is callSign, but for tests.
	signRaw func(pkcs11.SessionHandle, pkcs11.ObjectHandle, []byte) ([]byte, error)

	lost     atomic.Pointer[error] // the first error that was dead
	closing  chan struct{}         // closed when Close begins
	close    sync.Once
	closeErr error // set within close
}

// A session belongs to who took it out of Token.idle.
type session struct {
	handle pkcs11.SessionHandle
}

// Open loads the module that the URI names, finds the one token that matches,
// and logs in to it, once. The errors are [*URIError], [*TokenError],
// [*PINSourceError], [*PINError], [*LatchedError], [ErrModuleInUse] and
// [*Error]. The caller closes the token.
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
	if opts.Sessions < 0 {
		return nil, fmt.Errorf("token %q: %d sessions wanted", s.info.Label, opts.Sessions)
	}
	n := opts.Sessions
	if n == 0 {
		n = defaultSessions
	}
	if s.limited() {
		n = min(n, int(s.maxSessions))
	}
	handles, err := m.openSessions(s, n)
	if err != nil {
		return nil, err
	}
	t := &Token{module: m, slot: s, info: s.info, options: opts, idle: make(chan *session, n), open: len(handles), closing: make(chan struct{})}
	t.info.Sessions = len(handles)
	t.signRaw = t.callSign
	for _, h := range handles {
		t.idle <- &session{h}
	}
	if s.loginRequired() {
		if t.pinTag, err = m.login(handles[0], s, uri, opts); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// openSessions opens n sessions, or as many as the token has left, if that is
// one at least. Devices are shared, and some have 16 sessions in all.
func (m module) openSessions(s slot, n int) (handles []pkcs11.SessionHandle, err error) {
	for range n {
		h, err := m.openSession(s)
		if e, ok := err.(*Error); ok && e.Code == pkcs11.CKR_SESSION_COUNT && len(handles) > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		handles = append(handles, h)
	}
	return handles, nil
}

// missing returns how many sessions there are fewer than were wanted.
func (t *Token) missing() int {
	t.growing.Lock()
	defer t.growing.Unlock()
	return cap(t.idle) - t.open
}

// grow opens one more session, if there are fewer than were wanted and the
// token has one now. It is logged in as the others are.
func (t *Token) grow() bool {
	t.growing.Lock()
	defer t.growing.Unlock()
	select {
	case <-t.closing:
		return false
	default:
	}
	if t.open == cap(t.idle) {
		return false
	}
	h, err := t.module.openSession(t.slot)
	if err != nil { // if it means more than that there is none, a signature will tell
		return false
	}
	t.open++
	t.idle <- &session{h}
	return true
}

// openSession opens a read/write session, although signing writes nothing:
// some network HSMs have no read-only sessions.
func (m module) openSession(s slot) (pkcs11.SessionHandle, error) {
	h, err := m.OpenSession(s.id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return h, failed("C_OpenSession", err)
}

// login logs all sessions of the process in (PKCS#11 2.40 section 5.6), in
// one try.
func (m module) login(h pkcs11.SessionHandle, s slot, uri URI, opts Options) (tag []byte, err error) {
	err = withPIN(uri, s, opts, func(pin []byte) error {
		tag = opts.tag(s, pin)
		return failed("C_Login", m.Login(h, pkcs11.CKU_USER, asString(pin)))
	})
	return tag, err
}

// withPIN runs f, which tries the PIN once, if a try is allowed. f's error is
// the answer of C_Login.
func withPIN(uri URI, s slot, opts Options, f func(pin []byte) error) error {
	pin, err := readPIN(uri)
	if err != nil {
		return err
	}
	defer clear(pin)
	attempt, err := opts.Latch.begin(s, len(opts.known) > 0 && hmac.Equal(opts.known, opts.tag(s, pin)))
	if err != nil {
		return err
	}
	return attempt.end(f(pin))
}

// tag recognises the PIN of a token without telling it to who has not the key.
func (o Options) tag(s slot, pin []byte) []byte {
	if len(o.tagKey) == 0 {
		return nil
	}
	mac := hmac.New(sha256.New, o.tagKey)
	fmt.Fprintf(mac, "%q %q ", s.info.Label, s.info.Serial)
	mac.Write(pin)
	return mac.Sum(nil)
}

// limited reports whether the token tells how many sessions it allows.
func (s slot) limited() bool {
	return s.maxSessions != pkcs11.CK_EFFECTIVELY_INFINITE && s.maxSessions != pkcs11.CK_UNAVAILABLE_INFORMATION
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
		t.growing.Lock() // from now on there will be no more sessions
		defer t.growing.Unlock()
		for range t.open {
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
func (t *Token) withSession(ctx context.Context, f func(*session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var s *session
	select {
	case s = <-t.idle:
	default: // none is idle
		select {
		case <-t.closing:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		case s = <-t.idle:
		}
	}
	defer func() { t.idle <- s }()
	select {
	case <-t.closing: // Close waits for the session
		return ErrClosed
	default:
	}
	if lost := t.lost.Load(); lost != nil {
		return fmt.Errorf("token %q is lost since an earlier failure: %w", t.info.Label, *lost)
	}
	err := f(s)
	t.judge(err)
	return err
}

// judge remembers the first error after which the token must not be used.
func (t *Token) judge(err error) {
	if dead(err) {
		t.lost.CompareAndSwap(nil, &err)
	}
}

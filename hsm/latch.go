package hsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery/internal/durable"
)

// A Latch is a directory that remembers, across restarts and crashes, which
// tokens refused a PIN. A token that did is not asked again until somebody
// calls [Latch.Release]: whoever restarts in a loop must not use up the few
// tries that a token allows. The empty Latch remembers nothing, and then the
// token's own flags are all that stands between a loop and a locked token.
//
// A login is written down before it is tried, so that one whose answer was
// never seen (the module hung or crashed, the power went) counts too: after
// two of those in a row the token is latched, unless the PIN is one that this
// token took before.
type Latch string

// The states of a token's entry. A token without an entry is fine.
type latchState string

const (
	latchTrying  latchState = "trying"  // a login is under way, or was when the process ended
	latchLatched latchState = "latched" // no login until it is released
	latchAllowed latchState = "allowed" // released: one login, whatever the flags say of wrong tries
)

// A LatchEntry is what a Latch remembers of a token.
type LatchEntry struct {
	Token    string     `json:"token"` // label
	Serial   string     `json:"serial"`
	State    latchState `json:"state"`
	Reason   string     `json:"reason,omitempty"` // as in [PINError].Name
	Since    time.Time  `json:"since"`
	InDoubt  int        `json:"in_doubt,omitempty"`  // logins in a row whose answer was never seen
	FinalTry bool       `json:"final_try,omitempty"` // released even if it is the last try
}

// Latched reports whether the token is not to be asked.
func (e *LatchEntry) Latched() bool { return e.State == latchLatched }

// A LatchedError is a token that refused a PIN earlier and is not asked again
// until it is released.
type LatchedError struct {
	LatchEntry
}

func (e *LatchedError) Error() string {
	return fmt.Sprintf("token %q with serial %s is latched since %s: %s", e.Token, e.Serial, e.Since.UTC().Format(time.RFC3339), reasonText(e.Reason))
}

// Hint tells how to release it.
func (e *LatchedError) Hint() string {
	return unlatchHint(e.Serial)
}

// reasonInDoubt is the reason of a latch after logins without an answer.
const (
	reasonInDoubt = "no answer"
	maxInDoubt    = 2
)

func reasonText(name string) string {
	if name == reasonInDoubt {
		return fmt.Sprintf("%d logins in a row ended without an answer", maxInDoubt)
	}
	if reason, ok := pinReasons[name]; ok {
		return fmt.Sprintf("%s (%s)", reason, name)
	}
	return fmt.Sprintf("login refused (%s)", name)
}

// file is where the token's entry is, or will be.
func (l Latch) file(label, serial string) string {
	return filepath.Join(string(l), fileText(label)+"."+fileText(serial)+entrySuffix)
}

const (
	entrySuffix = ".json"
	lockSuffix  = ".lock"
)

// fileText makes text fit for a part of a file name, of which "." is none.
func fileText(s string) string { return strings.ReplaceAll(url.QueryEscape(s), ".", "%2E") }

// Entries lists what the latch remembers.
func (l Latch) Entries() ([]LatchEntry, error) {
	files, err := os.ReadDir(string(l))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("latch: %w", err)
	}
	var list []LatchEntry
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), entrySuffix) { // a lock, or one that is being written
			continue
		}
		e, err := readEntry(filepath.Join(string(l), f.Name()))
		if err != nil {
			return nil, err
		}
		if e != nil {
			list = append(list, *e)
		}
	}
	return list, nil
}

// entry returns what the latch remembers of a token, nil for nothing.
func (l Latch) entry(label, serial string) (*LatchEntry, error) {
	if l == "" {
		return nil, nil
	}
	return readEntry(l.file(label, serial))
}

// Release allows the token one more login, even if its flags say that a wrong
// PIN was entered before; with finalTry also if they say that a wrong one now
// would lock it.
func (l Latch) Release(label, serial string, finalTry bool) error {
	unlock, err := l.lock(label, serial)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := readEntry(l.file(label, serial))
	if err != nil {
		return err
	}
	if e == nil || !e.Latched() {
		return fmt.Errorf("token %q with serial %s is not latched", label, serial)
	}
	e.State, e.FinalTry, e.InDoubt, e.Since = latchAllowed, finalTry, 0, time.Now().UTC().Truncate(time.Second)
	return l.write(e)
}

// A loginAttempt is between the decision to log in and the token's answer.
type loginAttempt struct {
	latch   Latch
	slot    slot
	trusted bool
	before  *LatchEntry
	doubt   int // answers that were not seen before this one
	unlock  func()
}

// begin decides whether a login may be tried, and writes down that it is.
// trusted says that the PIN is one that the token took before. The caller
// calls end.
func (l Latch) begin(s slot, trusted bool) (a *loginAttempt, err error) {
	if l == "" {
		return &loginAttempt{slot: s, trusted: trusted, unlock: func() {}}, s.mayLogin(false, false)
	}
	unlock, err := l.lock(s.info.Label, s.info.Serial)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	a = &loginAttempt{latch: l, slot: s, trusted: trusted, unlock: unlock}
	e, err := l.entry(s.info.Label, s.info.Serial)
	if err != nil {
		return nil, err
	}
	a.before = e
	if e == nil {
		e = &LatchEntry{}
	}
	switch {
	case e.Latched():
		return nil, &LatchedError{*e}
	case e.State == latchTrying && !trusted:
		if a.doubt = e.InDoubt; a.doubt >= maxInDoubt {
			return nil, a.latched(reasonInDoubt, &LatchedError{})
		}
	}
	if e.State == latchAllowed && !trusted {
		a.doubt = maxInDoubt - 1 // one login, not another two
	}
	if err := s.mayLogin(e.State == latchAllowed, e.FinalTry); err != nil {
		return nil, a.latched(err.(*PINError).Name, err)
	}
	return a, a.write(latchTrying, "", a.doubt+1)
}

// end takes the token's answer to C_Login down and returns what it means: nil
// for success, a [*PINError], or an error that says nothing about the PIN.
func (a *loginAttempt) end(answer error) error {
	defer a.unlock()
	answer = a.slot.loginFailed(answer, a.trusted)
	if a.latch == "" {
		return answer
	}
	if pin, ok := errors.AsType[*PINError](answer); ok {
		return a.latched(pin.Name, answer)
	}
	if answer != nil && a.before != nil {
		// It was no try: what was allowed is so still, and what was in doubt.
		return errors.Join(answer, a.latch.write(a.before))
	}
	err := os.Remove(a.latch.file(a.slot.info.Label, a.slot.info.Serial))
	if err == nil {
		err = durable.SyncDir(string(a.latch))
	}
	if answer == nil {
		answer = err
	}
	return answer
}

// latched latches the token and returns err, the reason.
func (a *loginAttempt) latched(reason string, err error) error {
	if latch, ok := err.(*LatchedError); ok {
		latch.LatchEntry = a.entry(latchLatched, reason, a.doubt)
	}
	return errors.Join(err, a.write(latchLatched, reason, a.doubt))
}

func (a *loginAttempt) entry(state latchState, reason string, doubt int) LatchEntry {
	return LatchEntry{Token: a.slot.info.Label, Serial: a.slot.info.Serial, State: state, Reason: reason, Since: time.Now().UTC().Truncate(time.Second), InDoubt: doubt}
}

func (a *loginAttempt) write(state latchState, reason string, doubt int) error {
	e := a.entry(state, reason, doubt)
	return a.latch.write(&e)
}

// lock makes logins to one token follow one another, also those of several
// processes. The kernel frees it when the process ends.
func (l Latch) lock(label, serial string) (unlock func(), err error) {
	if err := l.make(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(strings.TrimSuffix(l.file(label, serial), entrySuffix)+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("latch: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("latch: %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// make makes the directory, as a user whose files its owner can read: what root
// left there would stop a coordinator that runs as somebody else.
func (l Latch) make() error {
	for _, dir := range []string{filepath.Dir(string(l)), string(l)} {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = os.Mkdir(dir, 0o700)
			if errors.Is(err, fs.ErrExist) { // another process was first
				err = nil
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return &LatchDirError{Dir: string(l), Err: err}
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		shared := info.Mode()&os.ModeSticky != 0 // a directory for everybody, such as /tmp
		if ok && int(owner.Uid) != os.Geteuid() && !shared {
			return &LatchDirError{Dir: string(l), Err: fmt.Errorf("%s belongs to user %d, and this is user %d", dir, owner.Uid, os.Geteuid())}
		}
	}
	return nil
}

// A LatchDirError is a directory in which nothing can be remembered, and so no
// login is tried.
type LatchDirError struct {
	Dir string
	Err error
}

func (e *LatchDirError) Error() string {
	return fmt.Sprintf("no place to remember refused PINs, in %s: %v", e.Dir, e.Err)
}

func (e *LatchDirError) Unwrap() error { return e.Err }

// Hint tells what to do about it.
func (e *LatchDirError) Hint() string {
	return "run it as the user that the coordinator runs as, or choose another data directory"
}

// maxEntry bounds an entry, in bytes.
const maxEntry = 4096

// readEntry returns nil if there is none. An entry that cannot be read is an
// error, and so no login.
func readEntry(file string) (*LatchEntry, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var e LatchEntry
	if err == nil && len(b) > maxEntry {
		err = fmt.Errorf("%d bytes long, at most %d", len(b), maxEntry)
	}
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err == nil && e.State != latchTrying && e.State != latchLatched && e.State != latchAllowed {
		err = fmt.Errorf("unknown state %q", e.State)
	}
	if err != nil {
		return nil, &LatchFileError{File: file, Err: err}
	}
	return &e, nil
}

// A LatchFileError is an entry that cannot be read, and so no login to its
// token.
type LatchFileError struct {
	File string
	Err  error
}

func (e *LatchFileError) Error() string { return fmt.Sprintf("latch: %s: %v", e.File, e.Err) }

func (e *LatchFileError) Unwrap() error { return e.Err }

// Hint tells what to do about it.
func (e *LatchFileError) Hint() string {
	return "make sure that the PIN file is right, then remove the entry"
}

// write replaces the entry on disk. What it says must hold before the token is
// asked.
func (l Latch) write(e *LatchEntry) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err == nil {
		err = durable.WriteFile(l.file(e.Token, e.Serial), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("latch: %w", err)
	}
	return nil
}

package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/tpm2pkcs11"
)

// A chip is a TPM that counts wrong PINs and locks at the third, with a count
// of the logins before it.
type chip struct {
	t      *testing.T
	token  *tpm2pkcs11.Token
	device *device.Device
	uri    hsm.URI
	env    map[string]string
	latch  hsm.Latch
}

func newChip(t *testing.T) *chip {
	t.Helper()
	token, err := tpm2pkcs11.New(t.TempDir(), "trial")
	if err != nil {
		t.Fatalf("%v: install swtpm libtpm2-pkcs11-1 (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, token.Stop()) })
	d, err := device.New(devices, token.URI.ModulePath, device.Model{})
	check(t, err)
	t.Cleanup(func() { check(t, d.Close()) })
	c := &chip{t: t, token: token, device: d, uri: token.URI, env: d.Env(), latch: hsm.Latch(filepath.Join(t.TempDir(), "latch"))}
	c.uri.ModulePath = d.Module()
	maps.Copy(c.env, token.Env())
	for name, value := range c.env {
		t.Setenv(name, value)
	}
	hsmtest.Generate(t, token.URI, "ca") // past the device, which counts
	return c
}

// says is what the chip and the device before it have to tell.
func (c *chip) says() string {
	c.t.Helper()
	wrong, err := c.token.LockoutCounter()
	check(c.t, err)
	locked, err := c.token.InLockout()
	check(c.t, err)
	return fmt.Sprintf("%d logins, %d failed, locked %t", c.device.Calls("C_Login"), wrong, locked)
}

// withPIN is the token's URI, with another PIN in the file.
func (c *chip) withPIN(pin string) hsm.URI {
	c.t.Helper()
	uri := c.uri
	uri.PINSource = filepath.Join(c.t.TempDir(), "pin")
	write(c.t, uri.PINSource, pin, 0o600)
	return uri
}

func (c *chip) openPool(uri hsm.URI) (*hsm.Pool, error) {
	return hsm.OpenPool(c.t.Context(), hsm.PoolConfig{Tokens: []hsm.TokenConfig{{URI: uri}}, Keys: []hsm.PinnedKey{{Name: "ca", Key: hsm.URI{Object: "ca"}}},
		Fleet: fleet, Latch: c.latch, Logger: slog.New(slog.NewTextHandler(c.t.Output(), nil))})
}

// insist does what a service manager does that restarts the program ten times,
// and an operator who tries this and that, and returns the first error.
func (c *chip) insist(uri hsm.URI) (first error) {
	c.t.Helper()
	try := func(way string, err error) {
		c.t.Helper()
		latched, ok := errors.AsType[*hsm.LatchedError](err)
		switch {
		case err == nil:
			c.t.Fatalf("%s succeeded", way)
		case first == nil:
			first = err
		case !ok:
			c.t.Errorf("%s after the token has refused a PIN: error %v, want *LatchedError", way, err)
		case latched.Token != c.uri.Token || latched.Hint() == "":
			c.t.Errorf("%s: error %+v", way, latched)
		}
	}
	for range 10 {
		_, err := c.openPool(uri)
		try("a pool", err)
	}
	_, err := hsm.OpenCeremony(uri, hsm.Options{Latch: c.latch})
	try("a ceremony", err)
	_, err = hsm.Open(uri, hsm.Options{Latch: c.latch})
	try("Open", err)
	return first
}

// latchedFor returns the entry of the one token that the latch has, which is
// latched for the reason.
func latchedFor(t *testing.T, l hsm.Latch, reason string) hsm.LatchEntry {
	t.Helper()
	list, err := l.Entries()
	check(t, err)
	if len(list) != 1 || !list[0].Latched() || list[0].Reason != reason || list[0].Since.IsZero() {
		t.Fatalf("the latch has %+v, want the token, for %q", list, reason)
	}
	return list[0]
}

func noEntries(t *testing.T, l hsm.Latch) {
	t.Helper()
	if list, err := l.Entries(); err != nil || len(list) != 0 {
		t.Errorf("the latch has %+v (%v), want nothing", list, err)
	}
}

func wantPINError(t *testing.T, err error, name string) {
	t.Helper()
	if e, ok := errors.AsType[*hsm.PINError](err); !ok || e.Name != name || e.Hint() == "" {
		t.Fatalf("error %v, want *PINError with %s", err, name)
	}
}

func wantLatchedError(t *testing.T, err error, reason string) {
	t.Helper()
	if e, ok := errors.AsType[*hsm.LatchedError](err); !ok || e.Reason != reason || e.Hint() == "" {
		t.Fatalf("error %v, want *LatchedError for %q", err, reason)
	}
}

// A token that locks at the third wrong PIN, a PIN file that is wrong, and
// everybody persistent: it takes a person to make the program lock the token.
func TestLockout(t *testing.T) {
	c := newChip(t)
	says := func(want string) {
		t.Helper()
		if got := c.says(); got != want {
			t.Fatalf("the chip says %s, want %s", got, want)
		}
	}
	release := func(reason string) {
		t.Helper()
		e := latchedFor(t, c.latch, reason)
		if e.Token != c.uri.Token {
			t.Errorf("latched is %+v", e)
		}
		check(t, c.latch.Release(e.Token, e.Serial, false))
		if err := c.latch.Release(e.Token, e.Serial, false); err == nil {
			t.Error("a token was released that was not latched")
		}
	}
	says("0 logins, 0 failed, locked false")
	wrong := c.withPIN("not the PIN")

	wantPINError(t, c.insist(wrong), "CKR_PIN_INCORRECT")
	says("1 logins, 1 failed, locked false")
	// The right PIN is no exception: who restarts does not know which it is.
	wantLatchedError(t, c.insist(c.uri), "CKR_PIN_INCORRECT")
	says("1 logins, 1 failed, locked false")

	release("CKR_PIN_INCORRECT")
	wantPINError(t, c.insist(wrong), "CKR_PIN_INCORRECT")
	says("2 logins, 2 failed, locked false")

	// The person is wrong once more, which is one time too many.
	release("CKR_PIN_INCORRECT")
	wantPINError(t, c.insist(wrong), "CKR_PIN_INCORRECT")
	says("3 logins, 3 failed, locked true")

	release("CKR_PIN_INCORRECT")
	wantPINError(t, c.insist(c.uri), "CKR_PIN_LOCKED")
	says("4 logins, 3 failed, locked true")
	wantLatchedError(t, c.insist(c.uri), "CKR_PIN_LOCKED")
	says("4 logins, 3 failed, locked true")

	// Neither does the program notice by itself that the chip is unlocked.
	check(t, c.token.ClearLockout())
	wantLatchedError(t, c.insist(c.uri), "CKR_PIN_LOCKED")
	release("CKR_PIN_LOCKED")
	pool, err := c.openPool(c.uri)
	check(t, err)
	defer pool.Close()
	key, err := pool.Key("ca")
	check(t, err)
	signMany(t, key)
	noEntries(t, c.latch)
	says("5 logins, 0 failed, locked false")
}

// here lets this process see the token of the bench. It returns the ways to
// open it, and to close it at once.
func (b *bench) here() map[string]func() error {
	for name, value := range b.config.Environment {
		b.t.Setenv(name, value)
	}
	return map[string]func() error{
		"pool": b.tryPool,
		"open": b.tryOpen,
		"ceremony": func() error {
			c, err := hsm.OpenCeremony(b.config.URI, hsm.Options{Latch: b.latch})
			if err == nil {
				err = c.Close()
			}
			return err
		},
	}
}

func (b *bench) tryOpen() error {
	token, err := hsm.Open(b.config.URI, hsm.Options{Latch: b.latch})
	if err == nil {
		err = token.Close()
	}
	return err
}

func (b *bench) tryPool() error {
	pool, err := hsm.OpenPool(b.t.Context(), b.poolConfig(b.config))
	if err == nil {
		err = pool.Close()
	}
	return err
}

func (b *bench) logins() uint64 { return b.device.Calls("C_Login") }

func (b *bench) wantLogins(want uint64) {
	b.t.Helper()
	if n := b.logins(); n != want {
		b.t.Fatalf("%d logins, want %d", n, want)
	}
}

// A module that crashes in C_Login may have spent a try of the PIN or not. Two
// such logins are what a PIN is given that the token never took.
func TestLatchAfterCrashes(t *testing.T) {
	for _, kind := range []device.Kind{device.Segfault, device.Abort} {
		t.Run(kind.String(), func(t *testing.T) {
			b := newBench(t)
			t.Parallel()
			b.inject(device.Fault{Function: "C_Login", Kind: kind})
			err := b.tryPool()
			for tries := 1; isA[*hsm.CrashError](err); tries++ {
				if tries > 2 {
					t.Fatalf("a pool was opened %d times, and the module has crashed each time", tries)
				}
				err = b.tryPool()
			}
			for range 3 {
				wantLatchedError(t, err, "no answer")
				if !strings.Contains(err.Error(), "2 logins in a row ended without an answer") {
					t.Errorf("error %q does not say what has happened", err)
				}
				err = b.tryPool()
			}
			b.wantLogins(2)
			if e := latchedFor(t, b.latch, "no answer"); e.InDoubt != 2 {
				t.Errorf("latched is %+v, want one with two logins in doubt", e)
			}
			b.clear()
			wantLatchedError(t, b.tryPool(), "no answer")
			b.release()
			check(t, b.tryPool())
			b.wantLogins(3)
			noEntries(t, b.latch)
		})
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// So may one that does not come back from it. The first time whoever opens the
// pool loses patience, the second time the pool.
func TestLatchAfterHangs(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Hang})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		_, err := hsm.OpenPool(ctx, b.poolConfig(b.config))
		opened <- err
	}()
	until(t, "a login", func() bool { return b.logins() == 1 })
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	if err := b.tryPool(); !isA[*hsm.TimeoutError](err) {
		t.Fatalf("error %v, want *TimeoutError", err)
	}
	for range 3 {
		wantLatchedError(t, b.tryPool(), "no answer")
	}
	b.wantLogins(2)
	latchedFor(t, b.latch, "no answer")
	b.clear()
	b.release()
	check(t, b.tryPool())
	b.wantLogins(3)
	noEntries(t, b.latch)
}

// The person who releases a token that gave no answer allows one login, and
// not another two.
func TestReleaseAfterCrashes(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Segfault})
	for logins := range uint64(3) {
		err := b.tryPool()
		for isA[*hsm.CrashError](err) {
			err = b.tryPool()
		}
		wantLatchedError(t, err, "no answer")
		b.wantLogins(2 + logins)
		b.release()
	}
}

// A PIN that the token took while the pool was open costs no try, however the
// login ends: the pool goes on until it comes through.
func TestLatchKnowsThePIN(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.open()
	before := b.logins()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Segfault, Times: 5})
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Abort, Times: 1})
	sig, err := b.key.Sign(patient(t), fleet, approval(1))
	check(t, err)
	check(t, b.key.PublicKey().Verify(fleet, approval(1), sig))
	b.wantLogins(before + 6)
	noEntries(t, b.latch)

	// A PIN that somebody has put in its place meanwhile is another matter.
	write(t, filepath.Join(b.dir, "pin"), "not the PIN", 0o600)
	before = b.logins()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Segfault})
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Abort, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	signed := make(chan error, 1)
	go func() {
		_, err := b.key.Sign(ctx, fleet, approval(1))
		signed <- err
	}()
	until(t, "the latch", func() bool { return b.status().State == hsm.Latched })
	b.wantLogins(before + 2)
	latchedFor(t, b.latch, "no answer")
	cancel()
	if err := <-signed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// Another token in its place, which the uri does not tell apart, never took the
// PIN, although it is in the same file.
func TestLatchKnowsThePINOfOneToken(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	newTokenIn(t, dir) // with a PIN of its own
	check(t, os.Rename(filepath.Join(dir, "tokens"), filepath.Join(b.dir, "other")))
	t.Parallel()
	b.open()
	before := b.logins()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Segfault, Times: 6})
	b.swap()
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Abort, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	signed := make(chan error, 1)
	go func() {
		_, err := b.key.Sign(ctx, fleet, approval(1))
		signed <- err
	}()
	until(t, "the latch", func() bool { return b.status().State == hsm.Latched })
	cancel()
	if err := <-signed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	b.wantLogins(before + 2)
	latchedFor(t, b.latch, "no answer")
}

// A login that fails on the way to the token says nothing about the PIN.
func TestLatchNotByTransport(t *testing.T) {
	for _, code := range []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_GENERAL_ERROR} {
		t.Run(fmt.Sprintf("0x%02x", code), func(t *testing.T) {
			b := newBench(t)
			for way, try := range b.here() {
				b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: code})
				before := b.logins()
				for range 5 {
					err := try()
					if e, ok := errors.AsType[*hsm.Error](err); !ok || e.Code != code {
						t.Fatalf("%s: error %v, want *Error with code 0x%x", way, err, code)
					}
				}
				if n := b.logins() - before; n < 5 {
					t.Errorf("%s: %d logins, want one each time", way, n)
				}
				b.clear()
				check(t, try())
				noEntries(t, b.latch)
			}
		})
	}
}

// Nor does it say anything about what was before: what was in doubt is so
// still, and so is what a person has allowed.
func TestLatchRemembersOverTransportErrors(t *testing.T) {
	t.Run("doubt", func(t *testing.T) {
		b := newBench(t)
		t.Parallel()
		// Every other login crashes.
		const rounds = 5
		for n := range rounds {
			b.inject(device.Fault{Function: "C_Login", Kind: device.Segfault, Skip: 2 * n, Times: 1})
			b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR, Skip: 2*n + 1, Times: 1})
		}
		err := b.tryPool()
		for !isA[*hsm.LatchedError](err) && err != nil {
			err = b.tryPool()
		}
		if n := b.logins(); n > 3 {
			t.Errorf("%d logins in doubt before the latch, want 2", min(rounds, (n+1)/2))
		}
		wantLatchedError(t, err, "no answer")
	})
	t.Run("release", func(t *testing.T) {
		b := newBench(t)
		for way, try := range b.here() {
			b.device.SetTokenFlags(pkcs11.CKF_USER_PIN_COUNT_LOW, 0)
			wantPINError(t, try(), "CKF_USER_PIN_COUNT_LOW")
			b.release()
			b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR})
			if err := try(); !isA[*hsm.Error](err) {
				t.Fatalf("%s: error %v, want *Error", way, err)
			}
			b.clear()
			if err := try(); err != nil {
				t.Errorf("%s: the release is lost, and no PIN was tried: %v", way, err)
			}
			b.device.SetTokenFlags(0, 0)
			check(t, os.RemoveAll(string(b.latch)))
		}
	})
}

// A pool that cannot be opened is over when it says so. A signer process that
// it starts in vain would be killed in the middle of a login.
func TestFailedPoolLeavesNoLoginInDoubt(t *testing.T) {
	for range 3 { // it is a race
		b := newBench(t)
		b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR, Times: 1})
		b.inject(device.Fault{Function: "C_Login", Kind: device.Hang, Skip: 1})
		if err := b.tryPool(); !isA[*hsm.Error](err) {
			t.Fatalf("error %v, want *Error", err)
		}
		b.wantLogins(1)
		noEntries(t, b.latch)
		if strings.Contains(b.log.String(), "did not answer within") {
			t.Errorf("the log has a time limit that has not passed:\n%s", b.log)
		}
	}
}

// A code that nobody knows may well be the vendor's for a wrong PIN.
func TestLatchByUnknownCode(t *testing.T) {
	b := newBench(t)
	for way, try := range b.here() {
		t.Run(way, func(t *testing.T) {
			before := b.logins()
			b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_VENDOR_DEFINED + 0x123, Times: 1})
			wantPINError(t, try(), "code 0x80000123")
			wantLatchedError(t, try(), "code 0x80000123")
			wantLatchedError(t, b.tryPool(), "code 0x80000123")
			b.wantLogins(before + 1)
			b.release()
			check(t, try())
			b.wantLogins(before + 2)
			noEntries(t, b.latch)
		})
	}
}

// What the token's flags say is looked at before the PIN is tried. A person
// can allow a try that may be wrong, and with emphasis one that may be the
// last, but none at a token that is locked.
func TestLatchByFlags(t *testing.T) {
	const low, final, locked = pkcs11.CKF_USER_PIN_COUNT_LOW, pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED
	for _, test := range []struct {
		name                   string
		flags                  uint
		passRelease, passFinal bool
	}{
		{"CKF_USER_PIN_COUNT_LOW", low, true, true},
		{"CKF_USER_PIN_FINAL_TRY", final | low, false, true},
		{"CKF_USER_PIN_LOCKED", locked | final | low, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			for way, try := range b.here() {
				before := b.logins()
				b.device.SetTokenFlags(test.flags, 0)
				info, err := hsm.Look(b.config.URI)
				wantPINError(t, err, test.name)
				if info.Label != b.config.URI.Token {
					t.Errorf("%s: info %+v", way, info)
				}
				wantPINError(t, try(), test.name)
				wantLatchedError(t, try(), test.name)
				for _, finalTry := range []bool{false, true} {
					e := latchedFor(t, b.latch, test.name)
					check(t, b.latch.Release(e.Token, e.Serial, finalTry))
					if list, err := b.latch.Entries(); err != nil || len(list) != 1 || list[0].Latched() || list[0].FinalTry != finalTry {
						t.Errorf("%s: after the release the latch has %+v: %v", way, list, err)
					}
					passes := test.passRelease
					if finalTry {
						passes = test.passFinal
					}
					if passes {
						check(t, try())
						b.wantLogins(before + 1)
						before++
						noEntries(t, b.latch)
					}
					// The release was for one login, and this token goes on
					// saying so.
					wantPINError(t, try(), test.name)
					b.wantLogins(before)
				}
				// Nobody has to release a token that is as it should be but
				// for the latch's memory of it.
				b.device.SetTokenFlags(0, 0)
				wantLatchedError(t, try(), test.name)
				b.release()
				check(t, try())
				noEntries(t, b.latch)
			}
		})
	}
}

// A pool whose token gets latched lets requests wait, and has them signed when
// somebody has corrected the PIN file and released the token; nobody restarts
// anything.
func TestLatchedPoolComesBack(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.open()
	pin := b.pin()
	before := b.logins()
	write(t, filepath.Join(b.dir, "pin"), "not the PIN", 0o600)
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Abort, Times: 1})
	ctx := patient(t)
	signed := make(chan error, 1)
	go func() {
		sig, err := b.key.Sign(ctx, fleet, approval(1))
		if err == nil {
			err = b.key.PublicKey().Verify(fleet, approval(1), sig)
		}
		signed <- err
	}()
	until(t, "the latch", func() bool { return b.status().State == hsm.Latched })
	// It looks at the latch now and then, and leaves the token alone.
	until(t, "that the pool waits for a person", func() bool { return isA[*hsm.LatchedError](b.status().Err) })
	latchedFor(t, b.latch, "CKR_PIN_INCORRECT")
	b.wantLogins(before + 1)
	select {
	case err := <-signed:
		t.Fatalf("a request did not wait for the token: %v", err)
	default:
	}
	write(t, filepath.Join(b.dir, "pin"), pin, 0o600)
	b.release()
	check(t, <-signed)
	until(t, "that the token is in service", func() bool { return b.status().State == hsm.Up })
	if s := b.status(); s.Err != nil || s.Starts != 2 {
		t.Errorf("status %+v", s)
	}
	b.wantLogins(before + 2)
	noEntries(t, b.latch)
}

// An entry that nobody can read may have said that the token is latched.
func TestLatchWithBrokenEntry(t *testing.T) {
	b := newBench(t)
	tries := b.here()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_PIN_INCORRECT, Times: 1})
	wantPINError(t, b.tryOpen(), "CKR_PIN_INCORRECT")
	e := latchedFor(t, b.latch, "CKR_PIN_INCORRECT")
	file := filepath.Join(string(b.latch), onlyMatch(t, string(b.latch), "*.json"))
	good, err := os.ReadFile(file)
	check(t, err)
	before := b.logins()
	for name, text := range map[string]string{
		"empty": "", "cut": string(good[:len(good)/2]), "not JSON": "latched\n", "no entry": "null", "unknown state": `{"state":"fine"}`,
		"long": string(good) + strings.Repeat("\n", 5000),
	} {
		write(t, file, text, 0o600)
		for way, try := range tries {
			if err := try(); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s, %s: error %v, want one that names %s", name, way, err, file)
			}
		}
		if err := b.latch.Release(e.Token, e.Serial, true); err == nil {
			t.Errorf("%s: released", name)
		}
		if _, err := b.latch.Entries(); err == nil {
			t.Errorf("%s: listed", name)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("%s: the entry became %q: %v", name, got, err)
		}
	}
	b.wantLogins(before)
	write(t, file, string(good), 0o600)
	b.release()
	for _, try := range tries {
		check(t, try())
	}
}

// Whatever a token calls itself, its latch is listed and can be released.
func TestLatchOfOddNames(t *testing.T) {
	for _, name := range []struct{ label, serial string }{
		{"", "1"}, {"", ""}, {".", ".."}, {"a/b", "c.json"}, {hsm.Padded("t\xffken"), hsm.Padded("1\x002")},
	} {
		latch := hsm.Latch(filepath.Join(t.TempDir(), "latch"))
		wantPINError(t, hsm.LatchRefused(latch, name.label, name.serial), "CKR_PIN_INCORRECT")
		list, err := latch.Entries()
		check(t, err)
		if len(list) != 1 || list[0].Token != name.label || list[0].Serial != name.serial || !list[0].Latched() {
			t.Errorf("%q: listed are %+v", name, list)
			continue
		}
		if err := hsm.LatchRefused(latch, name.label, name.serial); !isA[*hsm.LatchedError](err) {
			t.Errorf("%q: error %v, want that it is latched", name, err)
		}
		check(t, latch.Release(list[0].Token, list[0].Serial, false))
		wantPINError(t, hsm.LatchRefused(latch, name.label, name.serial), "CKR_PIN_INCORRECT")
	}
}

func onlyMatch(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	check(t, err)
	if len(found) != 1 {
		t.Fatalf("%q match %s in %s, want one", found, pattern, dir)
	}
	return filepath.Base(found[0])
}

// While one process logs in, another one waits: two at a time could spend two
// tries on the same wrong PIN. The lock ends with the process that has it.
func TestLatchOneLoginAtATime(t *testing.T) {
	b := newBench(t)
	b.here()
	b.inject(device.Fault{Function: "C_Login", Kind: device.Hang, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := hsm.OpenPool(ctx, b.poolConfig(b.config))
		first <- err
	}()
	until(t, "the first login", func() bool { return b.logins() == 1 })
	list, err := b.latch.Entries()
	check(t, err)
	if len(list) != 1 || list[0].Latched() || list[0].InDoubt != 1 {
		t.Errorf("during a login the latch has %+v, want one in doubt", list)
	}

	sessions := b.device.Calls("C_OpenSession")
	go func() { second <- b.tryOpen() }()
	until(t, "the sessions of the second", func() bool { return b.device.Calls("C_OpenSession") == sessions+4 })
	select {
	case err := <-second:
		t.Fatalf("opened during another login: %v", err)
	case <-time.After(300 * time.Millisecond): // it would have been time enough
	}
	b.wantLogins(1)

	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	check(t, <-second)
	b.wantLogins(2)
	noEntries(t, b.latch)
}

package hsm_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// A bench is a pool over one SoftHSM token that stands behind a device with
// faults, and what the pool logged.
type bench struct {
	t      *testing.T
	dir    string // of the token
	device *device.Device
	latch  hsm.Latch
	config hsm.TokenConfig
	pool   *hsm.Pool
	key    *hsm.PoolKey
	log    *journal
}

// A journal is a log that tests read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Reset()
}

// deadline is what the tests give a token: long for a signature of SoftHSM on
// a busy machine, short for who waits for it to pass.
const deadline = 2 * time.Second

// newBench makes the token in this process, which has one environment; so call
// it before t.Parallel. The pool needs nothing of it.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), log: new(journal), latch: hsm.Latch(filepath.Join(t.TempDir(), "latch"))}
	uri := newTokenIn(t, b.dir)
	var err error
	b.device, err = device.New(devices, uri.ModulePath, device.Model{})
	check(t, err)
	t.Cleanup(func() { b.device.Close() })
	b.config = hsm.TokenConfig{URI: uri, Environment: b.device.Env(), Deadline: deadline, KeepAlive: time.Hour}
	b.config.Environment["SOFTHSM2_CONF"] = filepath.Join(b.dir, "softhsm2.conf")
	b.config.URI.ModulePath = b.device.Module()
	b.config.URI.Serial = "" // which would tell another token apart before its key does
	return b
}

// newTokenIn makes a token with a key ca in the directory, with its PIN if it
// has one.
func newTokenIn(t *testing.T, dir string) hsm.URI {
	t.Helper()
	i, err := softhsm.New(dir, hsmtest.Label)
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps)", err)
	}
	check(t, i.Setenv())
	defer os.Unsetenv("SOFTHSM2_CONF")
	hsmtest.Generate(t, i.URI, "ca")
	return i.URI
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.pool, err = hsm.OpenPool(b.t.Context(), b.poolConfig(b.config))
	check(b.t, err)
	b.t.Cleanup(func() { b.pool.Close() })
	b.key, err = b.pool.Key("ca")
	check(b.t, err)
}

func (b *bench) poolConfig(tokens ...hsm.TokenConfig) hsm.PoolConfig {
	return hsm.PoolConfig{Tokens: tokens, Keys: []hsm.PinnedKey{{Name: "ca", Key: hsm.URI{Object: "ca"}}},
		Fleet: fleet, Latch: b.latch, Logger: slog.New(slog.NewTextHandler(b.log, nil))}
}

// clear ends all faults.
func (b *bench) clear() { b.device.Clear() }

// release allows the latched token one more login.
func (b *bench) release() {
	b.t.Helper()
	list, err := b.latch.Entries()
	check(b.t, err)
	if len(list) != 1 || !list[0].Latched() {
		b.t.Fatalf("latched are %+v, want the token", list)
	}
	check(b.t, b.latch.Release(list[0].Token, list[0].Serial, false))
}

// move puts what is in the token directory under another name aside, and an
// empty directory or what is there in its place.
func (b *bench) move(from, to string) {
	b.t.Helper()
	from, to = filepath.Join(b.dir, from), filepath.Join(b.dir, to)
	os.Remove(to) // an empty one
	check(b.t, os.Rename(from, to))
	check(b.t, os.MkdirAll(from, 0o700))
}

// swap puts another token of the same label and PIN, with another key of the
// same label, in place of the token, as if a device was exchanged.
func (b *bench) swap() { b.move("tokens", "away"); b.move("other", "tokens") }

func (b *bench) swapBack() { b.move("tokens", "other"); b.move("away", "tokens") }

// makeOther makes the token that swap takes.
func (b *bench) makeOther() {
	b.t.Helper()
	dir := b.t.TempDir()
	for _, name := range []string{"pin", "so-pin"} {
		pin, err := os.ReadFile(filepath.Join(b.dir, name))
		check(b.t, err)
		check(b.t, os.WriteFile(filepath.Join(dir, name), pin, 0o600))
	}
	newTokenIn(b.t, dir)
	check(b.t, os.Rename(filepath.Join(dir, "tokens"), filepath.Join(b.dir, "other")))
}

func (b *bench) pin() string {
	b.t.Helper()
	pin, err := os.ReadFile(filepath.Join(b.dir, "pin"))
	check(b.t, err)
	return string(pin)
}

func (b *bench) inject(f device.Fault) {
	b.t.Helper()
	check(b.t, b.device.Inject(f))
}

func (b *bench) status() hsm.Status { return b.pool.Status()[0] }

// patience is how long anything may take that has to happen.
const patience = time.Minute

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// load is callers that sign all the time.
type load struct {
	stop   chan struct{}
	group  sync.WaitGroup
	signed atomic.Int64
	mu     sync.Mutex
	errs   []error
}

// callers starts a load. Each signature is held against its own statement:
// none is lost, swapped or made up.
func (b *bench) callers(n int) *load {
	l := &load{stop: make(chan struct{})}
	for c := range n {
		l.group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				s := approval(byte(c*31 + i))
				sig, err := b.key.Sign(context.Background(), fleet, s)
				if err == nil {
					err = b.key.PublicKey().Verify(fleet, s, sig)
				}
				l.signed.Add(1)
				if err != nil {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// more waits until the load has signed n more.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.signed.Load() + n
	until(t, fmt.Sprintf("%d more signatures", n), func() bool { return l.signed.Load() >= want })
}

func (l *load) end() []error {
	close(l.stop)
	l.group.Wait()
	return l.errs
}

// What a fault may do to those who wait for signatures, and what heals it.
type effect int

const (
	repeated effect = iota // the same process tries again
	replaced               // a new process takes over
	declined               // whoever asked is told; the process goes on
	stuck                  // a person, or the device, has to do something
)

// Every way in which a module is known to fail, under load. Nobody who waits
// is told of it: no request is lost, and no signature is wrong.
func TestFaults(t *testing.T) {
	returns := func(function string, code uint, times int) func(*bench) {
		return func(b *bench) {
			b.inject(device.Fault{Function: function, Kind: device.Return, Code: code, Times: times})
		}
	}
	does := func(function string, kind device.Kind, times int) func(*bench) {
		return func(b *bench) { b.inject(device.Fault{Function: function, Kind: kind, Times: times}) }
	}
	// both has the running process fail, and the next one at its start.
	both := func(first, second func(*bench)) func(*bench) {
		return func(b *bench) { second(b); first(b) }
	}
	gone := returns("C_Sign", pkcs11.CKR_GENERAL_ERROR, 1)
	for _, test := range []struct {
		name   string
		fault  func(*bench)
		effect effect
		logs   string       // why the process was replaced, or the token is out of service
		repair func(*bench) // for what is stuck, when the log says so
	}{
		{"0x02 host memory", returns("C_Sign", pkcs11.CKR_HOST_MEMORY, 1), replaced, "CKR_HOST_MEMORY", nil},
		{"0x05 general error", returns("C_Sign", pkcs11.CKR_GENERAL_ERROR, 1), replaced, "C_Sign: CKR_GENERAL_ERROR (0x5)", nil},
		{"0x06 function failed", returns("C_SignInit", pkcs11.CKR_FUNCTION_FAILED, 1), replaced, "C_SignInit: CKR_FUNCTION_FAILED (0x6)", nil},
		{"0x30 throttled", returns("C_Sign", pkcs11.CKR_DEVICE_ERROR, 1), repeated, "", nil},
		{"0x30 device gone", returns("C_Sign", pkcs11.CKR_DEVICE_ERROR, 40), replaced, "C_Sign: CKR_DEVICE_ERROR (0x30)", nil},
		{"0x32 device removed", returns("C_Sign", pkcs11.CKR_DEVICE_REMOVED, 1), replaced, "CKR_DEVICE_REMOVED", nil},
		{"0x60 key handle invalid", returns("C_SignInit", pkcs11.CKR_KEY_HANDLE_INVALID, 1), replaced, "CKR_KEY_HANDLE_INVALID", nil},
		{"0x68 not permitted", returns("C_SignInit", pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, 1), replaced, "CKR_KEY_FUNCTION_NOT_PERMITTED", nil},
		{"0x70 mechanism invalid", returns("C_SignInit", pkcs11.CKR_MECHANISM_INVALID, 1), replaced, "CKR_MECHANISM_INVALID", nil},
		{"0x82 object handle invalid", returns("C_SignInit", pkcs11.CKR_OBJECT_HANDLE_INVALID, 1), replaced, "CKR_OBJECT_HANDLE_INVALID (0x82)", nil},
		{"0x90 operation active", returns("C_SignInit", pkcs11.CKR_OPERATION_ACTIVE, 1), repeated, "", nil},
		{"0x91 operation not initialized", returns("C_Sign", pkcs11.CKR_OPERATION_NOT_INITIALIZED, 1), replaced, "CKR_OPERATION_NOT_INITIALIZED", nil},
		{"0xB0 session closed", returns("C_SignInit", pkcs11.CKR_SESSION_CLOSED, 1), repeated, "", nil},
		{"0xB1 no more sessions at the next start", both(gone, func(b *bench) {
			b.inject(device.Fault{Function: "C_OpenSession", Skip: 1, Times: 1, Kind: device.Return, Code: pkcs11.CKR_SESSION_COUNT})
		}), replaced, "CKR_GENERAL_ERROR", nil},
		{"0xB3 session handle invalid", returns("C_SignInit", pkcs11.CKR_SESSION_HANDLE_INVALID, 1), repeated, "", nil},
		{"0xB3 again on the new session", func(b *bench) {
			b.inject(device.Fault{Function: "C_SignInit", Times: 16, Kind: device.Return, Code: pkcs11.CKR_SESSION_HANDLE_INVALID})
		}, replaced, "CKR_SESSION_HANDLE_INVALID (0xb3)", nil},
		{"0xE0 token not present", returns("C_SignInit", pkcs11.CKR_TOKEN_NOT_PRESENT, 1), replaced, "CKR_TOKEN_NOT_PRESENT", nil},
		{"0x101 not logged in", returns("C_SignInit", pkcs11.CKR_USER_NOT_LOGGED_IN, 1), replaced, "CKR_USER_NOT_LOGGED_IN (0x101)", nil},
		{"0x190 not initialized", returns("C_SignInit", pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, 1), replaced, "CKR_CRYPTOKI_NOT_INITIALIZED (0x190)", nil},
		{"a code of the vendor's", returns("C_Sign", pkcs11.CKR_VENDOR_DEFINED+7, 1), replaced, "C_Sign: code 0x80000007", nil},
		{"segmentation fault", does("C_Sign", device.Segfault, 1), replaced, "the signer process crashed", nil},
		{"abort", does("C_Sign", device.Abort, 1), replaced, "the signer process crashed", nil},
		{"hang in C_Sign", does("C_Sign", device.Hang, 1), replaced, "did not answer within", (*bench).clear},
		{"hang of all sessions in C_SignInit", does("C_SignInit", device.Hang, 4), replaced, "did not answer within 2s", nil},
		{"killed", func(b *bench) { check(b.t, syscall.Kill(b.status().Signer, syscall.SIGKILL)) }, replaced, "the signer process crashed: signal: killed", nil},
		{"stopped", func(b *bench) { check(b.t, syscall.Kill(b.status().Signer, syscall.SIGSTOP)) }, replaced, "did not answer within 2s", nil},
		{"wrong signature", does("C_Sign", device.WrongSignature, 1), replaced, "wrong signature", nil},
		{"slot renumbered", func(b *bench) { b.device.RenumberSlots(7); gone(b) }, replaced, "CKR_GENERAL_ERROR", nil},
		{"C_Initialize fails for a while", both(gone, returns("C_Initialize", pkcs11.CKR_GENERAL_ERROR, 3)), replaced, "C_Initialize: CKR_GENERAL_ERROR", nil},
		{"the slot list is away for a while", both(gone, returns("C_GetSlotList", pkcs11.CKR_DEVICE_ERROR, 3)), replaced, "C_GetSlotList: CKR_DEVICE_ERROR", nil},
		{"login fails on the way to the device", both(gone, returns("C_Login", pkcs11.CKR_DEVICE_ERROR, 3)), replaced, "C_Login: CKR_DEVICE_ERROR", nil},
		{"crash in login, PIN known", both(gone, does("C_Login", device.Segfault, 3)), replaced, "the signer process crashed", nil},
		{"hang at the challenge", func(b *bench) {
			check(b.t, syscall.Kill(b.status().Signer, syscall.SIGKILL))
			b.inject(device.Fault{Function: "C_Sign", Kind: device.Hang}) // before the next one has started
		}, stuck, "did not answer within 2s", (*bench).clear},
		{"wrong signature at the challenge", both(gone, does("C_Sign", device.WrongSignature, 0)), stuck, "wrong signature", (*bench).clear},
		{"0xA0 PIN refused at the next start", both(gone, returns("C_Login", pkcs11.CKR_PIN_INCORRECT, 1)), stuck, "CKR_PIN_INCORRECT", (*bench).release},
		{"0xA4 PIN locked at the next start", both(gone, returns("C_Login", pkcs11.CKR_PIN_LOCKED, 1)), stuck, "CKR_PIN_LOCKED", (*bench).release},
		{"token directory moved away and back", func(b *bench) { b.move("tokens", "away") }, stuck, "the module has no tokens", func(b *bench) { b.move("away", "tokens") }},
		{"another token with another key", (*bench).swap, stuck, "has another key ca: sha256:", (*bench).swapBack},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.makeOther()
			t.Parallel()
			b.open()
			l := b.callers(8)
			l.more(t, 50)
			before := b.status()
			b.log.Reset()
			test.fault(b)
			if test.effect == stuck || test.repair != nil {
				until(t, "the log to say "+test.logs, func() bool { return strings.Contains(b.log.String(), test.logs) })
				test.repair(b)
			}
			l.more(t, 50)
			until(t, "the token to be in service", func() bool { return b.status().State == hsm.Up })
			l.more(t, 50)
			errs, s := l.end(), b.status()

			if errs != nil {
				t.Errorf("callers were told %v", errs)
			}
			switch starts := s.Starts - before.Starts; test.effect {
			case repeated:
				if starts != 0 || s.Retries == 0 {
					t.Errorf("%d new processes and %d retries, want none and some", starts, s.Retries)
				}
			default:
				if starts == 0 {
					t.Error("no new process")
				}
			}
			if !strings.Contains(b.log.String(), test.logs) {
				t.Errorf("the log does not say %q:\n%s", test.logs, b.log)
			}
			if pin := b.pin(); strings.Contains(b.log.String(), pin) {
				t.Error("the log has the PIN")
			}
		})
	}
}

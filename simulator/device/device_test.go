package device_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/simulator/device"
)

// A device of the zero model is its module: same token, same key, same codes.
func TestTransparent(t *testing.T) {
	d := newDevice(t, device.Model{})
	real, err := load(d.Env()["CHANCERY_DEVICE_MODULE"])
	check(t, err)
	want, err := real.GetTokenInfo(real.slot)
	check(t, err)
	mechanisms, err := real.GetMechanismList(real.slot)
	check(t, err)
	real.unload()

	s := newSigner(t, d)
	got, err := s.GetTokenInfo(s.slot)
	check(t, err)
	// What changes by itself: the time, and that there is a session.
	got.UTCTime, got.SessionCount, got.RwSessionCount = want.UTCTime, want.SessionCount, want.RwSessionCount
	if got != want {
		t.Errorf("token info %+v\nthe module's %+v", got, want)
	}
	if m, err := s.GetMechanismList(s.slot); err != nil || len(m) != len(mechanisms) {
		t.Errorf("%d mechanisms (%v), the module has %d", len(m), err, len(mechanisms))
	}
	sig, err := s.sign()
	check(t, err)
	if !s.verifies(t, sig) {
		t.Error("the signature does not verify")
	}
	if random, err := s.GenerateRandom(s.session, 16); err != nil || bytes.Equal(random, make([]byte, 16)) {
		t.Errorf("random bytes %x: %v", random, err)
	}
	if _, err := s.GetSessionInfo(s.session + 1000); !is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
		t.Errorf("a session that was never opened: %v", err)
	}
	check(t, s.Logout(s.session))
	check(t, s.CloseSession(s.session))
}

// race makes n signatures in each session, all sessions at a time.
func race(t *testing.T, n int, sessions ...*signer) time.Duration {
	t.Helper()
	var group sync.WaitGroup
	begin := time.Now()
	for _, s := range sessions {
		group.Go(func() {
			for range n {
				if _, err := s.sign(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	return time.Since(begin)
}

// A device is as fast as its units are, however many callers there are.
func TestRate(t *testing.T) {
	const latency, jitter = 20 * time.Millisecond, 0.1
	least := time.Duration(float64(latency) * (1 - jitter))
	timed := func(units, rounds int) time.Duration {
		d := newDevice(t, device.Model{Latency: latency, Parallel: units, Jitter: jitter})
		a := newSigner(t, d)
		defer a.unload() // the module is once in a process: the next device needs it
		took := race(t, 2, a, a.beside(t), a.beside(t))
		if took < time.Duration(rounds)*least {
			t.Errorf("6 signatures by %d units took %v, at least %d times %v is what they need", units, took, rounds, least)
		}
		return took
	}
	// How long it takes on a busy machine is anybody's guess; three units need
	// to be near three times as fast once.
	var ratio float64
	for range 10 {
		ratio = max(ratio, timed(1, 6).Seconds()/timed(3, 2).Seconds())
		if ratio > 2 {
			return
		}
	}
	t.Errorf("three units are only %.1f times as fast as one", ratio)
}

// Processes wait in one queue.
func TestRateOfProcesses(t *testing.T) {
	const latency = 20 * time.Millisecond
	d := newDevice(t, device.Model{Latency: latency, Parallel: 1})
	a, b := start(t, d, "sign 5"), start(t, d, "sign 5")
	begin := time.Now()
	a.work(t)
	b.work(t)
	a.says(t, "done")
	b.says(t, "done")
	if took := time.Since(begin); took < 10*latency {
		t.Errorf("two times 5 signatures took %v, less than 10 times %v", took, latency)
	}
}

// A question for the length takes no time, and neither does anything that is
// no signature.
func TestOnlySignaturesAreSlow(t *testing.T) {
	d := newDevice(t, device.Model{Latency: time.Hour, Parallel: 1})
	s := newSigner(t, d)
	check(t, s.SignInit(s.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, s.key))
	// C_Sign asks for the length first, so this fault would meet it there.
	check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR}))
	if _, err := s.Sign(s.session, digest[:]); !is(err, pkcs11.CKR_DEVICE_ERROR) {
		t.Errorf("a signature under a fault: %v", err)
	}
	if n := d.Calls("C_Sign"); n != 1 {
		t.Errorf("one signature counts as %d calls", n)
	}
}

// The device has so many sessions for all processes together.
func TestSessionLimit(t *testing.T) {
	d := newDevice(t, device.Model{Sessions: 3, Idle: time.Hour})
	p := newProgram(t, d)
	info, err := p.GetTokenInfo(p.slot)
	check(t, err)
	if info.MaxSessionCount != 3 || info.MaxRwSessionCount != 3 {
		t.Errorf("the token says %d sessions, %d of them read/write; want 3", info.MaxSessionCount, info.MaxRwSessionCount)
	}
	other := start(t, d, "hold 2")
	h, err := p.session()
	check(t, err)
	full := func() {
		t.Helper()
		if _, err := p.session(); !is(err, pkcs11.CKR_SESSION_COUNT) {
			t.Errorf("a fourth session: %v, want CKR_SESSION_COUNT", err)
		}
	}
	full()

	// A session that is closed makes room for one.
	check(t, p.CloseSession(h))
	_, err = p.session()
	check(t, err)
	full()
	check(t, p.CloseAllSessions(p.slot))
	_, err = p.session()
	check(t, err)
	full()
	check(t, p.Finalize())
	check(t, p.Initialize())
	_, err = p.session()
	check(t, err)
	full()

	// The device does not know that a process was killed.
	other.kill(t)
	full()
}

// A session that cannot be opened takes no place.
func TestSessionLimitAfterFailure(t *testing.T) {
	d := newDevice(t, device.Model{Sessions: 1})
	p := newProgram(t, d)
	for range 3 {
		if _, err := p.OpenSession(p.slot, 0); !is(err, pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED) {
			t.Fatalf("a parallel session: %v", err)
		}
	}
	_, err := p.session()
	check(t, err)
}

// idle is the time of the devices that are impatient, pause one that is longer.
const idle, pause = 50 * time.Millisecond, 80 * time.Millisecond

// A device takes back a session that nobody uses. Its owner hears of it with
// the next call.
func TestSessionIdle(t *testing.T) {
	d := newDevice(t, device.Model{Sessions: 1, Idle: idle})
	p := newProgram(t, d)
	h, err := p.session()
	check(t, err)
	time.Sleep(pause)
	if _, err := p.GetSessionInfo(h); !is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
		t.Errorf("an idle session: %v, want CKR_SESSION_HANDLE_INVALID", err)
	}
	if _, err := p.GetSessionInfo(h); !is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
		t.Errorf("an idle session, again: %v, want CKR_SESSION_HANDLE_INVALID", err)
	}

	// Somebody else may have it meanwhile, of the same process or another one.
	h, err = p.session()
	check(t, err)
	time.Sleep(pause)
	_, err = p.session()
	check(t, err)
	if _, err := p.GetSessionInfo(h); !is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
		t.Errorf("a session whose place was given away: %v, want CKR_SESSION_HANDLE_INVALID", err)
	}
	time.Sleep(pause)
	h, err = p.session()
	check(t, err)
	time.Sleep(pause)
	start(t, d, "hold 1")
	if _, err := p.GetSessionInfo(h); !is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
		t.Errorf("a session whose place another process has: %v, want CKR_SESSION_HANDLE_INVALID", err)
	}
}

// A session is not idle while a signature is under way in it, in the queue or
// in the device, however long that takes.
func TestSessionNotIdleInCall(t *testing.T) {
	for name, open := range map[string]func(*testing.T, *device.Device, *signer) func() bool{
		"same process": func(t *testing.T, d *device.Device, s *signer) func() bool {
			return func() bool {
				_, err := s.program.session()
				return err == nil
			}
		},
		"another process": func(t *testing.T, d *device.Device, s *signer) func() bool {
			other := start(t, d, "open 1")
			return func() bool {
				other.work(t)
				return other.Wait() == nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, device.Model{Latency: 10 * pause, Parallel: 1, Sessions: 1, Idle: idle})
			// On a busy machine a session may be idle for that long between
			// two calls of the test. Then there is nothing to see: try again.
			for range 20 {
				p := newProgram(t, d)
				s, err := p.signer()
				if is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) || is(err, pkcs11.CKR_SESSION_COUNT) {
					p.unload()
					time.Sleep(pause)
					continue
				}
				check(t, err)
				open := open(t, d, s)
				signed := make(chan error, 1)
				before := d.Calls("C_Sign")
				go func() {
					_, err := s.sign()
					signed <- err
				}()
				for d.Calls("C_Sign") == before && len(signed) == 0 {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(pause)
				got := open()
				early := len(signed) == 0 // the signature was under way till now
				err = <-signed
				p.unload()
				if is(err, pkcs11.CKR_SESSION_HANDLE_INVALID) {
					continue
				}
				check(t, err)
				if got && early {
					t.Error("the session was given away during a signature")
				}
				if early {
					return
				}
			}
			t.Error("twenty times the machine was too slow to tell")
		})
	}
}

// The sessions of a killed process come back when they were idle for long
// enough; at once, if the device has no such time.
func TestSessionsOfKilledProcess(t *testing.T) {
	for name, limit := range map[string]time.Duration{"idle": 500 * time.Millisecond, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, device.Model{Sessions: 2, Idle: limit})
			p := newProgram(t, d)
			begin := time.Now()
			start(t, d, "hold 2").kill(t)
			for {
				_, err := p.session()
				if err == nil {
					break
				}
				if limit == 0 || !is(err, pkcs11.CKR_SESSION_COUNT) {
					t.Fatalf("a session after the process that held them was killed: %v", err)
				}
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(begin); took < limit {
				t.Errorf("the sessions were back after %v, before the idle time of %v", took, limit)
			}
		})
	}
}

// A call keeps its session, but not that of a process that was killed in it.
func TestSessionOfCallOfKilledProcess(t *testing.T) {
	d := newDevice(t, device.Model{Latency: time.Hour, Parallel: 1, Sessions: 1, Idle: 500 * time.Millisecond})
	p := newProgram(t, d)
	other := start(t, d, "sign 1")
	other.work(t)
	for d.Calls("C_Sign") == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(pause) // for the call to be in the device
	other.kill(t)
	for {
		if _, err := p.session(); err == nil {
			break
		} else if !is(err, pkcs11.CKR_SESSION_COUNT) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// A process that is killed in a call leaves nothing behind that stops others.
func TestKilledInCall(t *testing.T) {
	d := newDevice(t, device.Model{Latency: 20 * time.Millisecond, Parallel: 1, Sessions: 2})
	s := newSigner(t, d)
	for n := range uint64(5) {
		other := start(t, d, "sign 1000")
		before := d.Calls("C_Sign")
		other.work(t)
		for d.Calls("C_Sign") == before {
			time.Sleep(time.Duration(n) * time.Millisecond)
		}
		other.kill(t)
		if _, err := s.sign(); err != nil {
			t.Error(err)
		}
	}
}

// results signs n times and returns what became of each.
func (s *signer) results(t *testing.T, n int) string {
	t.Helper()
	var all []string
	for range n {
		sig, err := s.sign()
		switch e := pkcs11.Error(0); {
		case errors.As(err, &e):
			all = append(all, fmt.Sprintf("%x", uint(e)))
		case err != nil:
			t.Fatal(err)
		case s.verifies(t, sig):
			all = append(all, "ok")
		default:
			all = append(all, "wrong")
		}
	}
	return strings.Join(all, " ")
}

// Faults count the calls from their injection on. A session survives that a
// signature fails.
func TestFaults(t *testing.T) {
	sign := func(kind device.Kind, code uint, skip, times int) device.Fault {
		return device.Fault{Function: "C_Sign", Kind: kind, Code: code, Skip: skip, Times: times}
	}
	for name, test := range map[string]struct {
		faults []device.Fault
		want   string
	}{
		"none":           {nil, "ok ok ok ok ok ok"},
		"code":           {[]device.Fault{sign(device.Return, pkcs11.CKR_DEVICE_ERROR, 0, 0)}, "30 30 30 30 30 30"},
		"some":           {[]device.Fault{sign(device.Return, pkcs11.CKR_DEVICE_ERROR, 2, 3)}, "ok ok 30 30 30 ok"},
		"from then on":   {[]device.Fault{sign(device.Return, pkcs11.CKR_DEVICE_REMOVED, 4, 0)}, "ok ok ok ok 32 32"},
		"vendor's code":  {[]device.Fault{sign(device.Return, 0x80000003, 0, 1)}, "80000003 ok ok ok ok ok"},
		"wrong":          {[]device.Fault{sign(device.WrongSignature, 0, 1, 2)}, "ok wrong wrong ok ok ok"},
		"another's":      {[]device.Fault{{Function: "C_Login", Kind: device.Return, Code: pkcs11.CKR_PIN_LOCKED}}, "ok ok ok ok ok ok"},
		"before":         {[]device.Fault{{Function: "C_SignInit", Kind: device.Return, Code: pkcs11.CKR_HOST_MEMORY, Skip: 5}}, "ok ok ok ok ok 2"},
		"first's code":   {[]device.Fault{sign(device.Return, 0x30, 0, 2), sign(device.Return, 0x31, 1, 2)}, "30 30 31 ok ok ok"},
		"code and wrong": {[]device.Fault{sign(device.WrongSignature, 0, 0, 2), sign(device.Return, 0x30, 1, 2)}, "wrong 30 30 ok ok ok"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, device.Model{})
			s := newSigner(t, d)
			for _, f := range test.faults {
				check(t, d.Inject(f))
			}
			if got := s.results(t, 6); got != test.want {
				t.Errorf("signatures %s, want %s", got, test.want)
			}
			d.Clear()
			if got := s.results(t, 2); got != "ok ok" {
				t.Errorf("after the faults were cleared: %s", got)
			}
		})
	}
}

// Of two codes it is that of the older fault, wherever in the state it is.
func TestFaultOrder(t *testing.T) {
	d := newDevice(t, device.Model{})
	s := newSigner(t, d)
	for _, f := range []device.Fault{{Code: 0x30, Times: 1}, {Code: 0x31, Skip: 1}} {
		f.Function = "C_Sign"
		check(t, d.Inject(f))
	}
	if got := s.results(t, 2); got != "30 31" {
		t.Errorf("signatures %s", got)
	}
	check(t, d.Inject(device.Fault{Function: "C_Sign", Code: 0x32})) // in the place of the first
	if got := s.results(t, 1); got != "31" {
		t.Errorf("a signature with two faults: %s, want the older", got)
	}
}

// Each function can be given a fault, and gives its code.
func TestFaultOfEachFunction(t *testing.T) {
	d := newDevice(t, device.Model{Sessions: 4})
	s := newSigner(t, d)
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	for function, call := range map[string]func() error{
		"C_GetInfo":          func() error { _, err := s.GetInfo(); return err },
		"C_GetSlotList":      func() error { _, err := s.GetSlotList(true); return err },
		"C_GetSlotInfo":      func() error { _, err := s.GetSlotInfo(s.slot); return err },
		"C_GetTokenInfo":     func() error { _, err := s.GetTokenInfo(s.slot); return err },
		"C_GetMechanismList": func() error { _, err := s.GetMechanismList(s.slot); return err },
		"C_OpenSession":      func() error { _, err := s.program.session(); return err },
		"C_CloseSession":     func() error { return s.CloseSession(s.session) },
		"C_CloseAllSessions": func() error { return s.CloseAllSessions(s.slot) },
		"C_GetSessionInfo":   func() error { _, err := s.GetSessionInfo(s.session); return err },
		"C_Login":            func() error { return s.Login(s.session, pkcs11.CKU_USER, "") },
		"C_Logout":           func() error { return s.Logout(s.session) },
		"C_FindObjectsInit":  func() error { return s.FindObjectsInit(s.session, nil) },
		"C_FindObjects":      func() error { _, _, err := s.FindObjects(s.session, 1); return err },
		"C_GetAttributeValue": func() error {
			_, err := s.GetAttributeValue(s.session, s.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			return err
		},
		"C_SignInit":        func() error { return s.SignInit(s.session, mechanism, s.key) },
		"C_Sign":            func() error { _, err := s.sign(); return err },
		"C_GenerateKeyPair": func() error { _, _, err := s.GenerateKeyPair(s.session, mechanism, nil, nil); return err },
		"C_DestroyObject":   func() error { return s.DestroyObject(s.session, s.key) },
		"C_Finalize":        func() error { return s.Finalize() },
		"C_Initialize":      func() error { return s.Initialize() },
	} {
		before := d.Calls(function)
		check(t, d.Inject(device.Fault{Function: function, Kind: device.Return, Code: pkcs11.CKR_FUNCTION_CANCELED, Times: 1}))
		if err := call(); !is(err, pkcs11.CKR_FUNCTION_CANCELED) {
			t.Errorf("%s: %v, want its fault", function, err)
		}
		if n := d.Calls(function) - before; n != 1 {
			t.Errorf("%s: %d calls, want 1", function, n)
		}
	}
	// None of them reached the module.
	if got := s.results(t, 1); got != "ok" {
		t.Errorf("a signature afterwards: %s", got)
	}
}

// A slow call comes late, and a Slow and a Return are a device that fails late.
func TestSlow(t *testing.T) {
	const delay = 60 * time.Millisecond
	d := newDevice(t, device.Model{})
	s := newSigner(t, d)
	check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Slow, Delay: delay, Times: 2}))
	check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR, Skip: 1, Times: 1}))
	for _, want := range []string{"ok", "30"} {
		begin := time.Now()
		if got := s.results(t, 1); got != want {
			t.Errorf("a slow call: %s, want %s", got, want)
		}
		if took := time.Since(begin); took < delay {
			t.Errorf("a slow call took %v, less than %v", took, delay)
		}
	}
}

// A call that hangs does so until the fault is cleared, and then goes on.
func TestHang(t *testing.T) {
	d := newDevice(t, device.Model{})
	s := newSigner(t, d)
	other := s.beside(t)
	check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Hang, Times: 1}))
	done := make(chan error, 1)
	go func() {
		_, err := s.sign()
		done <- err
	}()
	for d.Calls("C_Sign") == 0 {
		time.Sleep(time.Millisecond)
	}
	// Only that call: the fault was for one. That it hits no more does not
	// end it, nor do many other faults that need a place.
	for range 100 {
		check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Return, Code: pkcs11.CKR_DEVICE_ERROR, Times: 1}))
		if got := other.results(t, 2); got != "30 ok" {
			t.Fatalf("signatures beside one that hangs: %s", got)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the call did not hang: %v", err)
	case <-time.After(pause):
	}
	// The next fault in its place is another one.
	d.Clear()
	check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: device.Hang, Skip: 1000}))
	check(t, <-done)
}

// A process that hangs or crashes in the module is gone; others are not.
func TestCrash(t *testing.T) {
	for _, test := range []struct {
		kind device.Kind
		says string
	}{{device.Segfault, "SIGSEGV"}, {device.Abort, "SIGABRT"}, {device.Hang, ""}} {
		t.Run(test.kind.String(), func(t *testing.T) {
			d := newDevice(t, device.Model{Sessions: 2})
			s := newSigner(t, d)
			other := start(t, d, "sign 3")
			check(t, d.Inject(device.Fault{Function: "C_Sign", Kind: test.kind, Skip: 1, Times: 1}))
			other.work(t)
			if test.kind == device.Hang {
				for d.Calls("C_Sign") < 2 {
					time.Sleep(time.Millisecond)
				}
				other.kill(t)
			} else if err := other.Wait(); err == nil || !strings.Contains(other.stderr.String(), test.says) {
				t.Errorf("the child ended with %v, want one that says %s: %s", err, test.says, other.stderr.String())
			}
			if n := d.Calls("C_Sign"); n != 2 {
				t.Errorf("the child called C_Sign %d times, want 2", n)
			}
			if got := s.results(t, 3); got != "ok ok ok" {
				t.Errorf("signatures of another process afterwards: %s", got)
			}
			s.beside(t) // the session is there again
		})
	}
}

// Counts are of all processes together, and stay when these end.
func TestCalls(t *testing.T) {
	d := newDevice(t, device.Model{})
	s := newSigner(t, d)
	if got := s.results(t, 3); got != "ok ok ok" {
		t.Fatal(got)
	}
	other := start(t, d, "sign 2")
	other.work(t)
	other.says(t, "done")
	check(t, other.Wait())
	for function, want := range map[string]uint64{
		"C_Initialize": 2, "C_Finalize": 0, "C_OpenSession": 2, "C_Login": 2,
		"C_SignInit": 5, "C_Sign": 5, "C_SignFinal": 0,
	} {
		if got := d.Calls(function); got != want {
			t.Errorf("%d calls of %s, want %d", got, function, want)
		}
	}
	second, err := device.New(buildDir, d.Env()["CHANCERY_DEVICE_MODULE"], device.Model{})
	check(t, err)
	defer second.Close()
	if n := second.Calls("C_Sign"); n != 0 {
		t.Errorf("another device in the same directory counts %d calls", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("the calls of a function that there is not")
		}
	}()
	d.Calls("C_Sing")
}

// Slots get other numbers, as when a device comes back. Who keeps the old ones
// is refused; sessions and the token itself are the same.
func TestRenumberSlots(t *testing.T) {
	d := newDevice(t, device.Model{Sessions: 4})
	s := newSigner(t, d)
	before, err := s.GetSlotList(true)
	check(t, err)
	for _, offset := range []int{7, -1, 0} {
		d.RenumberSlots(offset)
		after, err := s.GetSlotList(true)
		check(t, err)
		for i := range before {
			if after[i] != before[i]+uint(offset) {
				t.Errorf("slots %v became %v, want %d more", before, after, offset)
			}
		}
		slot, err := s.findSlot()
		check(t, err)
		if want := s.slot + uint(offset); slot != want {
			t.Errorf("the token is in slot %d, want %d", slot, want)
		}
		for name, call := range map[string]func(slot uint) error{
			"C_GetSlotInfo":      func(slot uint) error { _, err := s.GetSlotInfo(slot); return err },
			"C_GetTokenInfo":     func(slot uint) error { _, err := s.GetTokenInfo(slot); return err },
			"C_GetMechanismList": func(slot uint) error { _, err := s.GetMechanismList(slot); return err },
			"C_GetMechanismInfo": func(slot uint) error {
				_, err := s.GetMechanismInfo(slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)})
				return err
			},
			"C_OpenSession": func(slot uint) error { _, err := s.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); return err },
		} {
			if err := call(slot); err != nil {
				t.Errorf("%s of slot %d: %v", name, slot, err)
			}
			if err := call(s.slot); offset != 0 && !is(err, pkcs11.CKR_SLOT_ID_INVALID) {
				t.Errorf("%s of slot %d, which is now %d: %v, want CKR_SLOT_ID_INVALID", name, s.slot, slot, err)
			}
		}
		info, err := s.GetSessionInfo(s.session)
		check(t, err)
		if info.SlotID != slot {
			t.Errorf("the session is with slot %d, want %d", info.SlotID, slot)
		}
		if got := s.results(t, 1); got != "ok" {
			t.Errorf("a signature: %s", got)
		}
	}
	d.RenumberSlots(7)
	if err := s.CloseAllSessions(s.slot); !is(err, pkcs11.CKR_SLOT_ID_INVALID) {
		t.Errorf("C_CloseAllSessions of the old number: %v", err)
	}
	check(t, s.CloseAllSessions(s.slot+7))
	s.slot += 7
	for range 4 { // all places of the device are free
		s.beside(t)
	}
}

// The token's flags are what a test wants to see handled: tokens that count
// wrong PINs, for one.
func TestSetTokenFlags(t *testing.T) {
	d := newDevice(t, device.Model{})
	p := newProgram(t, d)
	flags := func() uint {
		t.Helper()
		info, err := p.GetTokenInfo(p.slot)
		check(t, err)
		return info.Flags
	}
	before := flags()
	if before&pkcs11.CKF_LOGIN_REQUIRED == 0 || before&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
		t.Fatalf("flags 0x%x", before)
	}
	d.SetTokenFlags(pkcs11.CKF_USER_PIN_COUNT_LOW|pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_LOGIN_REQUIRED)
	if got, want := flags(), before&^pkcs11.CKF_LOGIN_REQUIRED|pkcs11.CKF_USER_PIN_COUNT_LOW|pkcs11.CKF_USER_PIN_FINAL_TRY; got != want {
		t.Errorf("flags 0x%x, want 0x%x", got, want)
	}
	d.SetTokenFlags(0, 0)
	if got := flags(); got != before {
		t.Errorf("flags 0x%x, want those of the token, 0x%x", got, before)
	}
}

func TestNamed(t *testing.T) {
	rates := map[string]float64{"yubihsm2": 8.7, "slow15": 15, "cloudhsm": 500, "cloudhsm2": 3000, "luna": 10000}
	last := 0.0
	for _, name := range device.Names() {
		m, err := device.Named(name)
		check(t, err)
		if m.Name != name || math.Abs(m.Rate()-rates[name]) > rates[name]/100 {
			t.Errorf("model %s makes %.1f signatures/s, want %.1f", m.Name, m.Rate(), rates[name])
		}
		if m.Rate() <= last {
			t.Errorf("model %s is not faster than the one before", name)
		}
		last = m.Rate()
		newDevice(t, m)
	}
	if len(device.Names()) != len(rates) {
		t.Errorf("models %v", device.Names())
	}
	_, err := device.Named("luna7")
	var unknown *device.UnknownModelError
	if !errors.As(err, &unknown) || unknown.Name != "luna7" || !strings.Contains(unknown.Hint(), "yubihsm2, slow15") {
		t.Errorf("a model that there is not: %v", err)
	}
	if rate := (device.Model{}).Rate(); !math.IsInf(rate, 1) {
		t.Errorf("the zero model makes %v signatures/s", rate)
	}
}

func TestNewRefuses(t *testing.T) {
	module := newToken(t)
	for says, m := range map[string]device.Model{
		"latency -1s":    {Latency: -time.Second, Parallel: 1},
		"0 execution":    {Latency: time.Second},
		"65 execution":   {Latency: time.Second, Parallel: 65},
		"-1 sessions":    {Sessions: -1},
		"1025 sessions":  {Sessions: 1025},
		"time -1s":       {Sessions: 1, Idle: -time.Second},
		"limits session": {Idle: time.Second},
		"jitter 1.5":     {Jitter: 1.5},
		"jitter NaN":     {Jitter: math.NaN()},
	} {
		if _, err := device.New(buildDir, module, m); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v, want one that says %q", m, err, says)
		}
	}
	if _, err := device.New(buildDir, "/nonexistent.so", device.Model{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a module that is not there: %v", err)
	}
}

func TestInjectRefuses(t *testing.T) {
	d := newDevice(t, device.Model{})
	for says, f := range map[string]device.Fault{
		`no function "C_Sing"`: {Function: "C_Sing", Code: 1},
		"of kind 6":            {Function: "C_Sign", Kind: 6},
		"skip -1":              {Function: "C_Sign", Kind: device.Hang, Skip: -1},
		"times 2147483648":     {Function: "C_Sign", Kind: device.Hang, Times: math.MaxInt32 + 1},
		"code 0x0":             {Function: "C_Sign"},
		"code 0x30":            {Function: "C_Sign", Kind: device.Hang, Code: 0x30},
		"delay 0s":             {Function: "C_Sign", Kind: device.Slow},
		"delay 1s":             {Function: "C_Sign", Kind: device.Hang, Delay: time.Second},
		"no signature":         {Function: "C_Login", Kind: device.WrongSignature},
	} {
		if err := d.Inject(f); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v, want one that says %q", f, err, says)
		}
	}
	hang := device.Fault{Function: "C_Sign", Kind: device.Hang}
	for range 64 {
		check(t, d.Inject(hang))
	}
	if err := d.Inject(hang); err == nil || !strings.Contains(err.Error(), "64 faults") {
		t.Errorf("a 65th fault: %v", err)
	}
	d.Clear()
	check(t, d.Inject(hang))
	check(t, d.Close())
	check(t, d.Close())
	if err := d.Inject(hang); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a fault of a closed device: %v", err)
	}
}

// A file that is not the state of a device, or of another version, is refused
// by C_Initialize; and so is an environment without one.
func TestForeignState(t *testing.T) {
	d := newDevice(t, device.Model{})
	state, err := os.ReadFile(d.Env()["CHANCERY_DEVICE_STATE"])
	check(t, err)
	changed := func(i int) []byte {
		b := bytes.Clone(state)
		b[i]++
		return b
	}
	for name, content := range map[string][]byte{
		"magic":   changed(0),
		"version": changed(8),
		"size":    changed(16),
		"short":   state[:len(state)-1],
		"empty":   {},
	} {
		path := filepath.Join(t.TempDir(), "state")
		check(t, os.WriteFile(path, content, 0o600))
		t.Setenv("CHANCERY_DEVICE_STATE", path)
		if _, err := load(d.Module()); !is(err, pkcs11.CKR_GENERAL_ERROR) {
			t.Errorf("%s: %v, want CKR_GENERAL_ERROR", name, err)
		}
	}
	t.Setenv("CHANCERY_DEVICE_STATE", d.Env()["CHANCERY_DEVICE_STATE"])
	t.Setenv("CHANCERY_DEVICE_MODULE", d.Env()["CHANCERY_DEVICE_STATE"])
	if _, err := load(d.Module()); !is(err, pkcs11.CKR_GENERAL_ERROR) {
		t.Errorf("a module that is none: %v, want CKR_GENERAL_ERROR", err)
	}
	os.Unsetenv("CHANCERY_DEVICE_MODULE")
	if _, err := load(d.Module()); !is(err, pkcs11.CKR_GENERAL_ERROR) {
		t.Errorf("without the environment: %v, want CKR_GENERAL_ERROR", err)
	}
	t.Setenv("CHANCERY_DEVICE_MODULE", d.Env()["CHANCERY_DEVICE_MODULE"])
	p, err := load(d.Module())
	check(t, err)
	p.unload()
}

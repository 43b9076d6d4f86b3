package hsm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
)

var fleet = chancery.FleetID{1, 2, 3}

func approval(n byte) chancery.PolicyApproval {
	return chancery.PolicyApproval{Policy: [32]byte{n}, Ref: [32]byte{0xff, n}}
}

func signAndVerify(t *testing.T, key *hsm.Key) {
	t.Helper()
	sig, err := key.Sign(t.Context(), fleet, approval(1))
	check(t, err)
	check(t, key.PublicKey().Verify(fleet, approval(1), sig))
}

// Every signature verifies as it is, s in the lower half, which the token
// returns in half of the cases only.
func TestSign(t *testing.T) {
	key := hsmtest.Key(t, "ca")
	if key.Label() != "ca" || key.PublicKey().Suite() != chancery.P256 {
		t.Errorf("key %q of suite %v", key.Label(), key.PublicKey().Suite())
	}
	for n := range byte(32) {
		sig, err := key.Sign(t.Context(), fleet, approval(n))
		check(t, err)
		if err := key.PublicKey().Verify(fleet, approval(n), sig); err != nil {
			t.Errorf("signature %d: %v", n, err)
		}
		if err := key.PublicKey().Verify(fleet, approval(n+1), sig); !errors.Is(err, chancery.ErrSignature) {
			t.Errorf("signature %d over another statement: %v, want ErrSignature", n, err)
		}
	}
}

// A signature stays within its label and its fleet.
func TestSignDomains(t *testing.T) {
	key := hsmtest.Key(t, "ca")
	created := time.Unix(1_700_000_000, 0).UTC()
	statements := map[string]chancery.Statement{
		"ca-self":  chancery.CASelf{Key: key.PublicKey(), Created: created},
		"ca-n-s":   chancery.CANSTree{Size: 1},
		"pop":      chancery.PoP{NodeKey: key.PublicKey()},
		"approval": approval(1),
	}
	for signed, s := range statements {
		sig, err := key.Sign(t.Context(), fleet, s)
		check(t, err)
		for read, other := range statements {
			err := key.PublicKey().Verify(fleet, other, sig)
			if signed == read && err != nil || signed != read && !errors.Is(err, chancery.ErrSignature) {
				t.Errorf("signed as %s, verified as %s: %v", signed, read, err)
			}
		}
		// The TPM dictates the bytes of an approval; a fleet is not in them.
		if signed != "approval" {
			if err := key.PublicKey().Verify(chancery.FleetID{9}, s, sig); !errors.Is(err, chancery.ErrSignature) {
				t.Errorf("%s verified in another fleet: %v", signed, err)
			}
		}
	}
}

// Sixteen callers share four sessions; no session has two users at a time,
// and no more than four calls are in the module.
func TestSignConcurrently(t *testing.T) {
	token := hsmtest.Open(t, "ca", "approval")
	keys := make([]*hsm.Key, 2)
	for i, label := range []string{"ca", "approval"} {
		var err error
		keys[i], err = token.Key(label)
		check(t, err)
	}
	var mu sync.Mutex
	users, most := map[uint]int{}, 0
	token.InterposeSign(func(session uint, digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
		mu.Lock()
		users[session]++
		if users[session] > 1 {
			t.Errorf("session %d has %d users", session, users[session])
		}
		busy := 0
		for _, n := range users {
			busy += n
		}
		most = max(most, busy)
		mu.Unlock()
		defer func() {
			mu.Lock()
			users[session]--
			mu.Unlock()
		}()
		return call(digest)
	})
	var group sync.WaitGroup
	for g := range 16 {
		group.Go(func() {
			key := keys[g%2]
			for n := range 20 {
				s := approval(byte(g*20 + n))
				sig, err := key.Sign(t.Context(), fleet, s)
				if err != nil {
					t.Error(err)
					return
				}
				if err := key.PublicKey().Verify(fleet, s, sig); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if len(users) > 4 || most > 4 || most < 2 {
		t.Errorf("%d sessions seen, up to %d busy, want 4 and 2 to 4", len(users), most)
	}
}

// stall makes every signature wait until the test says go. in counts those
// that are inside.
func stall(token *hsm.Token) (in chan struct{}, release func()) {
	in = make(chan struct{}, 64)
	gate := make(chan struct{})
	token.InterposeSign(func(_ uint, digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
		in <- struct{}{}
		<-gate
		return call(digest)
	})
	return in, sync.OnceFunc(func() { close(gate) })
}

func TestSignCancelled(t *testing.T) {
	token := hsmtest.Open(t, "ca")
	key, err := token.Key("ca")
	check(t, err)
	in, release := stall(token)
	defer release()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if _, err := key.Sign(t.Context(), fleet, approval(1)); err != nil {
				t.Errorf("a signature that had its session: %v", err)
			}
		})
	}
	for range 4 {
		<-in
	}
	// All sessions are busy: the next caller waits, until its context ends.
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := key.Sign(ctx, fleet, approval(2))
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("a fifth signature did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	release()
	group.Wait()
	if _, err := key.Sign(ctx, fleet, approval(3)); !errors.Is(err, context.Canceled) {
		t.Errorf("context that had ended before: error %v", err)
	}
	signAndVerify(t, key) // the cancelled caller took no session with it
}

// Close waits for whom is inside the module and sends away who waits.
func TestCloseWaits(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	token, err := hsm.Open(uri, hsm.Options{Sessions: 1})
	check(t, err)
	key, err := token.Key("ca")
	check(t, err)
	in, release := stall(token)
	defer release()
	inside, waiting, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { _, err := key.Sign(t.Context(), fleet, approval(1)); inside <- err }()
	<-in
	go func() { _, err := key.Sign(t.Context(), fleet, approval(2)); waiting <- err }()
	go func() { closed <- token.Close() }()
	if err := <-waiting; !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("signature without a session: error %v, want ErrClosed", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("closed while a signature was in the module: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	check(t, <-inside)
	check(t, <-closed)
	if _, err := key.Sign(t.Context(), fleet, approval(3)); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

// SoftHSM crashes the process if C_Finalize overtakes a signature.
func TestCloseWhileSigning(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	for range 10 {
		token, err := hsm.Open(uri, hsm.Options{})
		check(t, err)
		key, err := token.Key("ca")
		check(t, err)
		var signed atomic.Int64
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for {
					_, err := key.Sign(t.Context(), fleet, approval(1))
					if errors.Is(err, hsm.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					signed.Add(1)
				}
			})
		}
		for signed.Load() < 20 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		check(t, token.Close())
		group.Wait()
	}
}

// Whatever a module returns for a signature, nothing that does not verify
// leaves the package, and the module is not trusted again.
func TestFaultyModule(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	for name, fault := range map[string]func(digest []byte, call func([]byte) ([]byte, error)) ([]byte, error){
		"other message": func(digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
			return call(make([]byte, 32))
		},
		"bit flip": func(digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
			raw, err := call(digest)
			if err == nil {
				raw[17] ^= 1
			}
			return raw, err
		},
		"zeros": func([]byte, func([]byte) ([]byte, error)) ([]byte, error) { return make([]byte, 64), nil },
		"ones":  func([]byte, func([]byte) ([]byte, error)) ([]byte, error) { return bytesOf(0xff, 64), nil },
		"truncated": func(d []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
			r, err := call(d)
			return r[1:], err
		},
		"empty": func([]byte, func([]byte) ([]byte, error)) ([]byte, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			token, err := hsm.Open(uri, hsm.Options{})
			check(t, err)
			defer token.Close()
			key, err := token.Key("ca")
			check(t, err)
			faults := 1
			token.InterposeSign(func(_ uint, digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
				if faults--; faults == 0 {
					return fault(digest, call)
				}
				return call(digest)
			})
			for range 2 { // the second time the module would be right
				sig, err := key.Sign(t.Context(), fleet, approval(1))
				var e *hsm.FaultError
				if !errors.As(err, &e) || e.Label != "ca" || !e.Dead() || sig != nil {
					t.Fatalf("signature %x, error %v, want *FaultError", sig, err)
				}
			}
			if _, err := token.Key("ca"); err == nil {
				t.Error("a token that is lost found a key")
			}
		})
	}
	signAndVerify(t, mustKey(t, hsmtest.OpenURI(t, uri), "ca")) // and is found again by opening it anew
}

// The device goes away and comes back. The open token never heals, for it
// must not sign with handles of another life; opening it anew does.
func TestTokenLost(t *testing.T) {
	i := hsmtest.Instance(t)
	hsmtest.Generate(t, i.URI, "ca")
	token, err := hsm.Open(i.URI, hsm.Options{})
	check(t, err)
	key := mustKey(t, token, "ca")
	signAndVerify(t, key)

	tokens := filepath.Join(filepath.Dir(i.Conf), "tokens")
	check(t, os.Rename(tokens, tokens+".away"))
	_, err = key.Sign(t.Context(), fleet, approval(1))
	var e *hsm.Error
	if !errors.As(err, &e) || !e.Dead() || e.Op != "C_SignInit" || e.Code == 0 || e.Name[:4] != "CKR_" || e.Hint() == "" {
		t.Fatalf("error %v, want a dead *Error of C_SignInit", err)
	}
	check(t, os.Rename(tokens+".away", tokens))
	token.InterposeSign(func(uint, []byte, func([]byte) ([]byte, error)) ([]byte, error) {
		t.Error("a lost token was asked again")
		return nil, nil
	})
	var again *hsm.Error
	if _, err = key.Sign(t.Context(), fleet, approval(1)); !errors.As(err, &again) || *again != *e {
		t.Errorf("error %v, want the first one, %v", err, e)
	}
	check(t, token.Close())
	signAndVerify(t, mustKey(t, hsmtest.OpenURI(t, i.URI), "ca"))
}

// A request that the module declines is no reason to give the token up.
func TestErrorThatIsNotDead(t *testing.T) {
	token := hsmtest.Open(t, "ca")
	key := mustKey(t, token, "ca")
	declined := &hsm.Error{Op: "C_SignInit", Code: pkcs11.CKR_MECHANISM_INVALID, Name: "CKR_MECHANISM_INVALID"}
	calls := 0
	token.InterposeSign(func(_ uint, digest []byte, call func([]byte) ([]byte, error)) ([]byte, error) {
		if calls++; calls == 1 {
			return nil, declined
		}
		return call(digest)
	})
	if _, err := key.Sign(t.Context(), fleet, approval(1)); !errors.Is(err, declined) {
		t.Errorf("error %v, want %v", err, declined)
	}
	signAndVerify(t, key)
	for _, code := range []uint{
		pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_OBJECT_HANDLE_INVALID,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_VENDOR_DEFINED + 7,
	} {
		if e := (&hsm.Error{Op: "C_Sign", Code: code}); !e.Dead() {
			t.Errorf("%v is not dead", e)
		}
	}
}

func mustKey(t *testing.T, token *hsm.Token, label string) *hsm.Key {
	t.Helper()
	key, err := token.Key(label)
	check(t, err)
	return key
}

func bytesOf(b byte, n int) []byte {
	s := make([]byte, n)
	for i := range s {
		s[i] = b
	}
	return s
}

package hsm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/p11kit"
	"github.com/chancery-pki/chancery/simulator/softhsm"
	"github.com/chancery-pki/chancery/simulator/softokn"
	"github.com/chancery-pki/chancery/simulator/tpm2pkcs11"
)

// A specimen is a fresh token of a module that the contract is tried on.
type specimen struct {
	uri hsm.URI           // token, module and PIN file
	env map[string]string // in which a process finds the token

	// generate makes a P-256 key, with env in the environment: in a ceremony,
	// if the module can be used in one.
	generate func(t *testing.T, label string)
	ceremony bool

	// local, alwaysSensitive and neverExtractable are what the module says of a
	// key that it has generated. That the key is sensitive and not extractable
	// all modules say.
	local, alwaysSensitive, neverExtractable hsm.Answer

	// kill ends the daemon behind the module without warning, and restart has
	// it there again; nil if there is none.
	kill    func()
	restart func() error

	// tidy undoes what earlier subtests have done to a device that remembers.
	tidy func(t *testing.T)
}

// The modules are as different as can be had without hardware: SoftHSM and NSS
// were written apart from each other, tpm2-pkcs11 has another device behind
// it, with little room and a lock, and p11-kit is a module that does nothing
// but call another one through a socket.
var specimens = []struct {
	name string
	make func(*testing.T) *specimen
}{
	{"SoftHSM", newSoftHSM},
	{"NSS", newNSS},
	{"tpm2-pkcs11", newTPM},
	{"p11-kit", newP11Kit},
}

func newSoftHSM(t *testing.T) *specimen {
	i, err := softhsm.New(t.TempDir(), "contract")
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps-test)", err)
	}
	s := &specimen{uri: i.URI, env: map[string]string{"SOFTHSM2_CONF": i.Conf}, ceremony: true,
		local: hsm.Yes, alwaysSensitive: hsm.Yes, neverExtractable: hsm.Yes}
	s.generate = s.generateInCeremony
	return s
}

func newNSS(t *testing.T) *specimen {
	i, err := softokn.New(t.TempDir())
	if err != nil {
		t.Fatalf("%v: install libnss3 (make deps-test)", err)
	}
	return &specimen{uri: i.URI, env: i.Env(),
		// NSS wants parameters in pReserved of C_Initialize, which crypto11
		// cannot hand over.
		generate: func(t *testing.T, label string) { t.Helper(); check(t, i.GenerateKey(label)) },
		// Its database has no place for CKA_LOCAL: it says no of all keys.
		local: hsm.No, alwaysSensitive: hsm.Yes, neverExtractable: hsm.Yes}
}

func newTPM(t *testing.T) *specimen {
	token, err := tpm2pkcs11.New(t.TempDir(), "contract")
	if err != nil {
		t.Fatalf("%v: install swtpm libtpm2-pkcs11-1 (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, token.Stop()) })
	s := &specimen{uri: token.URI, env: token.Env(), ceremony: true,
		local: hsm.Yes, alwaysSensitive: hsm.Yes, neverExtractable: hsm.Yes,
		kill: token.Kill, restart: token.Restart}
	s.generate = s.generateInCeremony
	// What a process leaves in the chip when it is killed, and how often the
	// power failed while a PIN was in use, the chip keeps; three is too much of
	// either.
	s.tidy = func(t *testing.T) { check(t, errors.Join(token.Flush(), token.ClearLockout())) }
	return s
}

func newP11Kit(t *testing.T) *specimen {
	behind := newSoftHSM(t)
	server, err := p11kit.New(t.TempDir(), behind.uri, behind.env)
	if err != nil {
		t.Fatalf("%v: install p11-kit p11-kit-modules (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, server.Stop()) })
	s := &specimen{uri: server.URI, env: server.Env(), ceremony: true,
		local: behind.local, alwaysSensitive: behind.alwaysSensitive, neverExtractable: behind.neverExtractable,
		kill: server.Kill, restart: server.Restart}
	s.generate = s.generateInCeremony
	return s
}

func (s *specimen) generateInCeremony(t *testing.T, label string) {
	t.Helper()
	c, err := hsm.OpenCeremony(s.uri, hsm.Options{})
	check(t, err)
	_, err = c.Generate(hsm.URI{Object: label}, false)
	check(t, errors.Join(err, c.Close()))
}

// here lets this process see the token until the test ends.
func (s *specimen) here(t *testing.T) {
	for name, value := range s.env {
		t.Setenv(name, value)
	}
}

// elsewhere sees to it that this process does not see the token: the signer
// process of a pool has an environment of its own.
func (s *specimen) elsewhere(t *testing.T) {
	for name := range s.env {
		t.Setenv(name, "/nonexistent")
	}
}

func (s *specimen) open(t *testing.T) *hsm.Token {
	t.Helper()
	s.here(t)
	token, err := hsm.Open(s.uri, hsm.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, token.Close()) })
	return token
}

func (s *specimen) openPool(t *testing.T, public chancery.PublicKey) (*hsm.Pool, error) {
	t.Helper()
	s.elsewhere(t)
	pool, err := hsm.OpenPool(t.Context(), hsm.PoolConfig{
		Tokens: []hsm.TokenConfig{{URI: s.uri, Environment: s.env}},
		Keys:   []hsm.PinnedKey{{Name: "the authority", Key: hsm.URI{Object: "ca"}, Public: public}},
		Fleet:  fleet,
		Latch:  hsm.Latch(t.TempDir()),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err == nil {
		t.Cleanup(func() { check(t, pool.Close()) })
	}
	return pool, err
}

// patient returns a context that ends only if nothing comes of waiting: it
// outlasts what until waits for meanwhile.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	t.Cleanup(cancel)
	return ctx
}

// signMany has eight callers sign eight statements each.
func signMany(t *testing.T, key chancery.Signer) {
	t.Helper()
	ctx := patient(t)
	var group sync.WaitGroup
	for caller := range byte(8) {
		group.Go(func() {
			for n := range byte(8) {
				s := approval(8*caller + n)
				sig, err := key.Sign(ctx, fleet, s)
				if err == nil {
					err = key.PublicKey().Verify(fleet, s, sig)
				}
				if err != nil {
					t.Errorf("signature %d of caller %d: %v", n, caller, err)
				}
			}
		})
	}
	group.Wait()
}

// TestContract is what the package promises of every token, whoever wrote its
// module. The subtests of a module have one token, and go by their order.
func TestContract(t *testing.T) {
	for _, module := range specimens {
		t.Run(module.name, func(t *testing.T) {
			s := module.make(t)
			run := func(name string, f func(*testing.T, *specimen)) {
				t.Run(name, func(t *testing.T) {
					if s.tidy != nil {
						s.tidy(t)
					}
					f(t, s)
				})
			}
			run("look without login", contractLook)
			run("generate", contractGenerate)
			run("find by label and by id", contractFind)
			run("missing key", contractMissing)
			run("key attributes", contractAttributes)
			run("sign", func(t *testing.T, s *specimen) { signMany(t, mustKey(t, s.open(t), "ca")) })
			run("open again", contractReopen)
			run("wrong PIN", contractWrongPIN)
			run("pool", contractPool)
			run("pool with another key", contractPoolWrongKey)
			if s.restart != nil {
				run("pool over a restart", contractPoolRestart)
			}
		})
	}
}

// A look needs no PIN.
func contractLook(t *testing.T, s *specimen) {
	s.here(t)
	uri := s.uri
	uri.PINSource = "/nonexistent"
	logins := spy(t, &uri.ModulePath)
	info, err := hsm.Look(uri)
	check(t, err)
	if info.Label != s.uri.Token || info.Serial == "" || info.Manufacturer == "" || info.Model == "" || info.Library == "" || !info.Simulator || info.Sessions != 0 {
		t.Errorf("info %+v", info)
	}
	if n := logins(); n != 0 {
		t.Errorf("%d logins, want none", n)
	}
}

// A key is made once. Two keys are what every device has room for.
func contractGenerate(t *testing.T, s *specimen) {
	s.here(t)
	s.generate(t, "ca")
	s.generate(t, "approval")
	ceremony, err := hsm.OpenCeremony(s.uri, hsm.Options{})
	if !s.ceremony {
		var e *hsm.URIError
		if !errors.As(err, &e) || e.Attribute != "x-init-reserved" || !strings.Contains(e.Error(), "ceremony") || e.Hint() == "" {
			t.Errorf("ceremony: error %v, want *URIError that says why there can be none", err)
		}
		return
	}
	check(t, err)
	for _, label := range []string{"ca", "approval"} {
		_, err := ceremony.Generate(hsm.URI{Object: label}, false)
		var e *hsm.KeyExistsError
		if !errors.As(err, &e) || e.Label != label || e.Token != s.uri.Token || e.Hint() == "" {
			t.Errorf("label %q twice: error %v, want *KeyExistsError", label, err)
		}
	}
	list, err := ceremony.Inventory()
	check(t, err)
	check(t, ceremony.Close())
	if len(list) != 2 {
		t.Errorf("inventory %+v, want two keys", list)
	}
	for _, k := range list {
		if k.Type != "EC P-256" || k.Sensitive != hsm.Yes || k.Extractable != hsm.No || k.Problem != "" {
			t.Errorf("%+v is not what was generated", k)
		}
	}
}

// A key has a label and an id, and either will do, also from the text of a
// URI.
func contractFind(t *testing.T, s *specimen) {
	token := s.open(t)
	seen := map[string]bool{}
	for _, label := range []string{"ca", "approval"} {
		key := mustKey(t, token, label)
		if key.Label() != label || key.PublicKey().Suite() != chancery.P256 || seen[key.PublicKey().String()] {
			t.Errorf("key %q is %q of suite %v: %v", label, key.Label(), key.PublicKey().Suite(), key.PublicKey())
		}
		seen[key.PublicKey().String()] = true

		name, err := hsm.ParseURI(hsm.URI{ID: string(key.Attributes().ID)}.String())
		check(t, err)
		byID, err := token.FindKey(name)
		check(t, err)
		if !byID.PublicKey().Equal(key.PublicKey()) {
			t.Errorf("by its id %x key %q is another one", name.ID, label)
		}
		name.Object = "neither"
		var e *hsm.KeyNotFoundError
		if _, err := token.FindKey(name); !errors.As(err, &e) {
			t.Errorf("the id of %q with another label: error %v, want *KeyNotFoundError", label, err)
		}
	}
}

// Who asks for a key that is not there is told which are.
func contractMissing(t *testing.T, s *specimen) {
	token := s.open(t)
	for _, name := range []hsm.URI{{Object: "CA"}, {ID: "\x00\x01"}} {
		_, err := token.FindKey(name)
		var e *hsm.KeyNotFoundError
		if !errors.As(err, &e) {
			t.Fatalf("%v: error %v, want *KeyNotFoundError", name, err)
		}
		slices.Sort(e.Seen)
		if e.Token != s.uri.Token || !slices.Equal(e.Seen, []string{"approval", "ca"}) {
			t.Errorf("%v: error of token %q has seen %q", name, e.Token, e.Seen)
		}
		for _, label := range e.Seen {
			if !strings.Contains(e.Hint(), fmt.Sprintf("%q", label)) {
				t.Errorf("%v: hint %q does not name the key %q", name, e.Hint(), label)
			}
		}
	}
}

// attributesOf is what the module can tell of a key that it generated.
func (s *specimen) attributesOf(a hsm.KeyAttributes) (problem string) {
	if len(a.ID) == 0 {
		return "no CKA_ID"
	}
	for _, q := range []struct {
		name      string
		got, want hsm.Answer
	}{
		{"sensitive", a.Sensitive, hsm.Yes},
		{"extractable", a.Extractable, hsm.No},
		{"always sensitive", a.AlwaysSensitive, s.alwaysSensitive},
		{"never extractable", a.NeverExtractable, s.neverExtractable},
		{"local", a.Local, s.local},
	} {
		if q.got != q.want {
			return fmt.Sprintf("%s: %s, want %s", q.name, q.got, q.want)
		}
	}
	return ""
}

func contractAttributes(t *testing.T, s *specimen) {
	token := s.open(t)
	for _, label := range []string{"ca", "approval"} {
		if problem := s.attributesOf(mustKey(t, token, label).Attributes()); problem != "" {
			t.Errorf("key %q: %s", label, problem)
		}
	}
}

// A token that is closed leaves the module free for the next, which finds the
// same key.
func contractReopen(t *testing.T, s *specimen) {
	s.here(t)
	var first chancery.PublicKey
	for n := range 3 {
		token, err := hsm.Open(s.uri, hsm.Options{Sessions: 2})
		check(t, err)
		key := mustKey(t, token, "ca")
		if n == 0 {
			first = key.PublicKey()
		}
		if !key.PublicKey().Equal(first) {
			t.Errorf("opened for the %d. time the token has the key %v, not %v", n+1, key.PublicKey(), first)
		}
		signAndVerify(t, key)
		check(t, token.Close())
		if _, err := key.Sign(t.Context(), fleet, approval(1)); !errors.Is(err, hsm.ErrClosed) {
			t.Errorf("a key of a closed token: error %v, want ErrClosed", err)
		}
	}
}

// A wrong PIN is tried once, and the right one not before somebody says so.
func contractWrongPIN(t *testing.T, s *specimen) {
	s.here(t)
	right := s.uri
	logins := spy(t, &right.ModulePath)
	wrong := right
	wrong.PINSource = filepath.Join(t.TempDir(), "pin")
	write(t, wrong.PINSource, "not the PIN", 0o600)
	ways := map[string]func(hsm.URI, hsm.Options) error{
		"open": func(uri hsm.URI, o hsm.Options) error {
			token, err := hsm.Open(uri, o)
			if err == nil {
				err = token.Close()
			}
			return err
		},
		"ceremony": func(uri hsm.URI, o hsm.Options) error {
			c, err := hsm.OpenCeremony(uri, o)
			if err == nil {
				err = c.Close()
			}
			return err
		},
	}
	if !s.ceremony {
		delete(ways, "ceremony")
	}
	check(t, ways["open"](right, hsm.Options{})) // for the count to have a beginning
	for way, try := range ways {
		before := logins()
		latch := hsm.Latch(t.TempDir())
		var pin *hsm.PINError
		if err := try(wrong, hsm.Options{Latch: latch}); !errors.As(err, &pin) || pin.Name != "CKR_PIN_INCORRECT" || pin.Token != s.uri.Token || pin.Hint() == "" {
			t.Errorf("%s: error %v, want *PINError with CKR_PIN_INCORRECT", way, err)
		}
		for name, uri := range map[string]hsm.URI{"wrong": wrong, "right": right} {
			for again, try := range ways {
				var latched *hsm.LatchedError
				if err := try(uri, hsm.Options{Latch: latch}); !errors.As(err, &latched) || latched.Reason != "CKR_PIN_INCORRECT" {
					t.Errorf("%s with the %s PIN after a wrong one: error %v, want *LatchedError", again, name, err)
				}
			}
		}
		if n := logins() - before; n != 1 {
			t.Errorf("%s: %d logins, want 1", way, n)
		}
		list, err := latch.Entries()
		check(t, err)
		if len(list) != 1 || !list[0].Latched() || list[0].Token != s.uri.Token {
			t.Fatalf("the latch has %+v, want the token", list)
		}
		check(t, latch.Release(list[0].Token, list[0].Serial, false))
		check(t, try(right, hsm.Options{Latch: latch}))
		if n := logins() - before; n != 2 {
			t.Errorf("%s: %d logins after the release, want 2", way, n)
		}
	}
}

// A pool has the token open in a process of its own, and signs.
func contractPool(t *testing.T, s *specimen) {
	pool, err := s.openPool(t, chancery.PublicKey{})
	check(t, err)
	key, err := pool.Key("the authority")
	check(t, err)
	signMany(t, key)
	status := pool.Status()
	if len(status) != 1 || status[0].State != hsm.Up || status[0].Info.Label != s.uri.Token || status[0].Signatures < 64 || status[0].Starts != 1 || status[0].Faults != 0 {
		t.Fatalf("status %+v", status)
	}
	if k := status[0].Keys; len(k) != 1 || k[0].Label != "ca" || !k[0].Public.Equal(key.PublicKey()) || s.attributesOf(k[0].Attributes) != "" {
		t.Errorf("status of the keys: %+v", k)
	}
	check(t, pool.Close())
	if _, err := key.Sign(t.Context(), fleet, approval(1)); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("a key of a closed pool: error %v, want ErrClosed", err)
	}

	// The next one may be told which key it is.
	pool, err = s.openPool(t, key.PublicKey())
	check(t, err)
	key, err = pool.Key("the authority")
	check(t, err)
	sig, err := key.Sign(patient(t), fleet, approval(1))
	check(t, err)
	check(t, key.PublicKey().Verify(fleet, approval(1), sig))
}

// A token that has another key under the name than the one that is known does
// not sign.
func contractPoolWrongKey(t *testing.T, s *specimen) {
	token := s.open(t)
	got := mustKey(t, token, "ca").PublicKey()
	check(t, token.Close())
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	want, err := chancery.NewPublicKey(&private.PublicKey)
	check(t, err)

	_, err = s.openPool(t, want)
	var e *hsm.WrongKeyError
	if !errors.As(err, &e) || e.Token != s.uri.Token || e.Name != "the authority" || e.Hint() == "" {
		t.Fatalf("error %v, want *WrongKeyError", err)
	}
	for what, key := range map[string]chancery.PublicKey{"the key that is wanted": want, "the key that is there": got} {
		if !strings.Contains(err.Error(), key.String()) {
			t.Errorf("error %q does not name %s, %s", err, what, key)
		}
	}
}

// What is behind a module may go away and come back. Requests wait for it, and
// all are signed; nobody has to open anything anew.
func contractPoolRestart(t *testing.T, s *specimen) {
	pool, err := s.openPool(t, chancery.PublicKey{})
	check(t, err)
	key, err := pool.Key("the authority")
	check(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	const callers = 16
	var begun, signed atomic.Int64
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel() // if the test fails, nobody waits for ever
	stop := make(chan struct{})
	for caller := range callers {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				s := approval(byte(callers*n + caller))
				begun.Add(1)
				sig, err := key.Sign(ctx, fleet, s)
				if err == nil {
					err = key.PublicKey().Verify(fleet, s, sig)
				}
				if err != nil {
					t.Errorf("signature %d of caller %d: %v", n, caller, err)
					return
				}
				signed.Add(1)
			}
		})
	}
	more := func(what string) {
		t.Helper()
		want := signed.Load() + 2*callers
		until(t, what, func() bool { return signed.Load() >= want || t.Failed() })
	}
	state := func() hsm.Status { return pool.Status()[0] }

	more("signatures before anything has happened")
	s.kill()
	until(t, "that the pool has noticed", func() bool { return state().State == hsm.Down })
	if err := state().Err; err == nil {
		t.Error("the token is down, and no error says why")
	}
	until(t, "that all callers wait", func() bool { return begun.Load() == signed.Load()+callers })
	check(t, s.restart())
	more("signatures after the loss")
	if status := state(); status.Starts < 2 {
		t.Errorf("status %+v, want a second signer process", status)
	}

	// And once more, faster than the pool may notice.
	check(t, s.restart())
	more("signatures after a restart")

	close(stop)
	group.Wait()
	if begun.Load() != signed.Load() {
		t.Errorf("of %d requests %d were signed", begun.Load(), signed.Load())
	}
}

package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/device"
)

func TestMain(m *testing.M) {
	hsm.SignerProcess()
	if os.Getenv("CHANCERY_TEST_OWNER") != "" {
		ownSigner()
	}
	os.Exit(run(m))
}

// devices is a directory for the devices of all tests: what is compiled for
// one serves the others.
var devices string

func run(m *testing.M) int {
	var err error
	if devices, err = os.MkdirTemp("", "chancery-devices-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(devices)
	return m.Run()
}

// clone copies the bench's token to another directory behind a device of its
// own, as vendors clone tokens: label, serial, PIN and keys are the same.
func (b *bench) clone(m device.Model) (hsm.TokenConfig, *device.Device) {
	b.t.Helper()
	dir := b.t.TempDir()
	check(b.t, os.CopyFS(filepath.Join(dir, "tokens"), os.DirFS(filepath.Join(b.dir, "tokens"))))
	conf := filepath.Join(dir, "softhsm2.conf")
	check(b.t, os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\n"), 0o600))
	return b.behind(conf, m)
}

// behind puts a device in front of the token that a configuration has.
func (b *bench) behind(conf string, m device.Model) (hsm.TokenConfig, *device.Device) {
	b.t.Helper()
	d, err := device.New(devices, b.device.Env()["CHANCERY_DEVICE_MODULE"], m)
	check(b.t, err)
	b.t.Cleanup(func() { d.Close() })
	c := b.config
	c.Environment = d.Env()
	c.Environment["SOFTHSM2_CONF"] = conf
	return c, d
}

func (b *bench) openAll(tokens ...hsm.TokenConfig) {
	b.t.Helper()
	var err error
	b.pool, err = hsm.OpenPool(b.t.Context(), b.poolConfig(tokens...))
	check(b.t, err)
	b.t.Cleanup(func() { b.pool.Close() })
	b.key, err = b.pool.Key("ca")
	check(b.t, err)
}

// sign signs once.
func (b *bench) sign() {
	b.t.Helper()
	sig, err := b.key.Sign(b.t.Context(), fleet, approval(1))
	check(b.t, err)
	check(b.t, b.key.PublicKey().Verify(fleet, approval(1), sig))
}

// Two tokens with the same key: one dies under load and comes back. Nobody who
// waits is told; meanwhile the other one has all the work, and then both have.
func TestPoolOfTwo(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.config.KeepAlive = 100 * time.Millisecond // measures a token that gets no work for it was slow once
	second, other := b.clone(device.Model{})
	b.openAll(b.config, second)
	check(t, b.pool.Settle(t.Context()))
	l := b.callers(8)
	both := func() {
		t.Helper()
		for i := range 2 {
			had := b.pool.Status()[i].Signatures
			until(t, fmt.Sprintf("token %d has work", i), func() bool { return b.pool.Status()[i].Signatures > had })
		}
	}
	both()
	for _, dying := range []struct {
		i      int
		device *device.Device
	}{{0, b.device}, {1, other}, {0, b.device}} {
		check(t, dying.device.Inject(device.Fault{Function: "C_SignInit", Kind: device.Return, Code: pkcs11.CKR_GENERAL_ERROR}))
		until(t, "the token is out of service", func() bool { return b.pool.Status()[dying.i].State == hsm.Down })
		l.more(t, 100)
		if s := b.pool.Status()[dying.i]; s.Err == nil || s.Info.Sessions != 0 || s.InFlight != 0 || s.Signer != 0 {
			t.Errorf("a token that is down: %+v", s)
		}
		dying.device.Clear()
		until(t, "the token is back", func() bool { return b.pool.Status()[dying.i].State == hsm.Up })
		both()
	}
	if errs := l.end(); errs != nil {
		t.Errorf("callers were told %v", errs)
	}
}

// A token that hangs, long before its deadline, keeps nobody waiting who could
// be served by another.
func TestPoolPassesALateTokenBy(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	second, _ := b.clone(device.Model{})
	b.config.Deadline = time.Hour
	b.openAll(b.config, second)
	check(t, b.pool.Settle(t.Context()))
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Hang})
	l := b.callers(8)
	until(t, "the token is late", func() bool { return b.pool.Status()[0].State == hsm.Late })
	l.more(t, 100)
	if errs := l.end(); errs != nil { // all have their answers: end waits for them
		t.Errorf("callers were told %v", errs)
	}
	b.device.Clear()
	until(t, "it answers again", func() bool { return b.pool.Status()[0].State == hsm.Up })
	if s := b.status(); s.Starts != 1 {
		t.Errorf("%d starts, want 1: it was late, not dead", s.Starts)
	}
}

// Load is spread by what the tokens can do: ten times the speed, several times
// the work.
func TestPoolSpreadsByLatency(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	conf := b.config.Environment["SOFTHSM2_CONF"]
	fast, _ := b.behind(conf, device.Model{Latency: 10 * time.Millisecond, Parallel: 4})
	slow, _ := b.clone(device.Model{Latency: 100 * time.Millisecond, Parallel: 4})
	b.openAll(slow, fast)
	check(t, b.pool.Settle(t.Context()))
	l := b.callers(64)
	l.more(t, 800)
	l.end()
	s := b.pool.Status()
	if ratio := float64(s[1].Signatures) / float64(max(1, s[0].Signatures)); s[0].Signatures == 0 || ratio < 3 {
		t.Errorf("the slow token made %d signatures, the fast one %d", s[0].Signatures, s[1].Signatures)
	}
	if s[0].Median < 5*s[1].Median || s[0].P99 < s[0].Median {
		t.Errorf("latencies %v/%v and %v/%v", s[0].Median, s[0].P99, s[1].Median, s[1].P99)
	}
	// One request at a time is for the fast one alone.
	before := b.pool.Status()[0].Signatures
	for range 10 {
		b.sign()
	}
	if after := b.pool.Status()[0].Signatures; after != before {
		t.Errorf("%d of 10 lone requests went to the slow token", after-before)
	}
}

// A device with few sessions, which it takes back when they are idle, and
// which it does not give back when a process is killed.
func TestPoolOnAMeanDevice(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	conf := b.config.Environment["SOFTHSM2_CONF"]
	mean := device.Model{Latency: time.Millisecond, Parallel: 1, Sessions: 3, Idle: 400 * time.Millisecond}
	config, d := b.behind(conf, mean)
	config.Sessions, config.KeepAlive = 8, 100*time.Millisecond
	b.openAll(config)
	if n := b.status().Info.Sessions; n != 3 {
		t.Errorf("%d sessions, want the 3 that the device has", n)
	}
	// Kept alive it drops nothing.
	calls := d.Calls("C_Sign")
	time.Sleep(3 * mean.Idle)
	if d.Calls("C_Sign") == calls {
		t.Error("idle sessions were not used")
	}
	b.sign()
	if s := b.status(); s.Starts != 1 {
		t.Errorf("%d starts", s.Starts)
	}
	// A killed process leaves its sessions on the device, until it takes them
	// back.
	for range 3 {
		starts := b.status().Starts
		check(t, syscall.Kill(b.status().Signer, syscall.SIGKILL))
		b.sign()
		until(t, "a new process", func() bool { return b.status().Starts > starts })
	}
	// Without being kept alive sessions are dropped, and opened again by the
	// same process, with the same login.
	b.pool.Close()
	config.KeepAlive = time.Hour
	time.Sleep(2 * mean.Idle)
	b.openAll(config)
	b.sign()
	logins := d.Calls("C_Login")
	time.Sleep(2 * mean.Idle)
	b.sign()
	if s := b.status(); s.Starts != 1 || d.Calls("C_Login") != logins {
		t.Errorf("%d starts, %d logins more", s.Starts, d.Calls("C_Login")-logins)
	}
	if s := b.status(); s.Retries == 0 {
		t.Error("no session was dropped: this tests nothing")
	}
}

// A device that has fewer sessions than wanted, because others have them, is
// asked again now and then, without another process and without another login.
func TestPoolGrows(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	config, d := b.behind(b.config.Environment["SOFTHSM2_CONF"], device.Model{})
	config.Sessions, config.KeepAlive = 4, 50*time.Millisecond
	check(t, d.Inject(device.Fault{Function: "C_OpenSession", Skip: 1, Times: 3, Kind: device.Return, Code: pkcs11.CKR_SESSION_COUNT}))
	logins := d.Calls("C_Login")
	b.openAll(config)
	if n := b.status().Info.Sessions; n != 1 {
		t.Fatalf("%d sessions, want the 1 that the device has", n)
	}
	l := b.callers(8)
	until(t, "all sessions", func() bool { return b.status().Info.Sessions == 4 })
	l.more(t, 50)
	if errs := l.end(); errs != nil {
		t.Errorf("callers were told %v", errs)
	}
	if s := b.status(); s.Starts != 1 || d.Calls("C_Login") != logins+1 {
		t.Errorf("%d starts and %d logins, want one of each", s.Starts, d.Calls("C_Login")-logins)
	}
	if !strings.Contains(b.log.String(), "token has more sessions") {
		t.Errorf("the log does not tell:\n%s", b.log)
	}
	b.pool.Close() // gives back those that came later, too
	opened := d.Calls("C_OpenSession")
	if d.Calls("C_Finalize") == 0 || opened < 7 {
		t.Errorf("%d sessions asked for, and not finalized", opened)
	}
}

// A token is used for the keys that it is configured for; every key must have
// one.
func TestPoolRoles(t *testing.T) {
	b := newBench(t)
	check(t, os.Setenv("SOFTHSM2_CONF", b.config.Environment["SOFTHSM2_CONF"]))
	direct := b.config.URI
	direct.ModulePath = b.device.Env()["CHANCERY_DEVICE_MODULE"]
	hsmtest.Generate(t, direct, "approval")
	os.Unsetenv("SOFTHSM2_CONF")
	t.Parallel()
	second, other := b.clone(device.Model{})
	b.config.Keys, second.Keys = []string{"ca"}, []string{"approval"}
	config := b.poolConfig(b.config, second)
	config.Keys = append(config.Keys, hsm.PinnedKey{Name: "approval", Key: hsm.URI{Object: "approval"}})
	pool, err := hsm.OpenPool(t.Context(), config)
	check(t, err)
	defer pool.Close()
	approver, err := pool.Key("approval")
	check(t, err)
	if _, err := pool.Key("x509"); err == nil {
		t.Error("there is a key that nobody configured")
	}
	before := other.Calls("C_Sign")
	if _, err := approver.Sign(t.Context(), fleet, approval(1)); err != nil || other.Calls("C_Sign") != before+1 {
		t.Errorf("the second token made %d signatures: %v", other.Calls("C_Sign")-before, err)
	}
	// The key of a token that is gone waits for it; the other one does not.
	check(t, other.Inject(device.Fault{Function: "C_SignInit", Kind: device.Return, Code: pkcs11.CKR_DEVICE_REMOVED}))
	waiting := make(chan error, 1)
	go func() {
		_, err := approver.Sign(context.Background(), fleet, approval(2))
		waiting <- err
	}()
	until(t, "the second token is down", func() bool { return pool.Status()[1].State == hsm.Down })
	ca, err := pool.Key("ca")
	check(t, err)
	_, err = ca.Sign(t.Context(), fleet, approval(3))
	check(t, err)
	select {
	case err := <-waiting:
		t.Errorf("a key without a token: %v", err)
	default:
	}
	other.Clear()
	check(t, <-waiting)

	b.config.Keys = []string{"crown"}
	if _, err := hsm.OpenPool(t.Context(), b.poolConfig(b.config)); err == nil || !strings.Contains(err.Error(), `"crown"`) {
		t.Errorf("a token for a key that there is not: %v", err)
	}
	config.Tokens = config.Tokens[:1]
	if _, err := hsm.OpenPool(t.Context(), config); err == nil || !strings.Contains(err.Error(), `"approval"`) {
		t.Errorf("a key without a token: %v", err)
	}
}

// Opening fails with the reason of each token, and is no process left behind.
// One token that works is enough; the others come when they can.
func TestOpenPool(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	absent, nowhere, wrongPIN := b.config, b.config, b.config
	absent.URI.Token = "absent"
	nowhere.URI.ModulePath = "/nonexistent/module.so"
	wrongPIN.URI.PINSource = filepath.Join(t.TempDir(), "none")
	_, err := hsm.OpenPool(t.Context(), b.poolConfig(absent, nowhere, wrongPIN))
	if e, ok := errors.AsType[*hsm.TokenError](err); !ok || e.Hint() == "" {
		t.Errorf("error %v is no *TokenError", err)
	}
	for _, want := range []string{"0 tokens match", "/nonexistent/module.so", "no such file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	b.openAll(absent, b.config)
	b.sign()
	check(t, b.pool.Settle(t.Context()))
	if s := b.pool.Status(); s[0].State != hsm.Down || s[1].State != hsm.Up || s[1].Keys[0].Attributes.Local != hsm.Yes {
		t.Errorf("%+v", s)
	}
	check(t, b.pool.Close())
	check(t, b.pool.Close())
	if _, err := b.key.Sign(t.Context(), fleet, approval(1)); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("key of a closed pool: %v", err)
	}
	for name, spoil := range map[string]func(*hsm.PoolConfig){
		"no tokens": func(c *hsm.PoolConfig) { c.Tokens = nil },
		"no keys":   func(c *hsm.PoolConfig) { c.Keys = nil },
		"no latch":  func(c *hsm.PoolConfig) { c.Latch = "" },
		"negative":  func(c *hsm.PoolConfig) { c.Tokens[0].Sessions = -1 },
	} {
		c := b.poolConfig(b.config)
		spoil(&c)
		if _, err := hsm.OpenPool(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Who gives up is let go, and takes nothing with him.
func TestPoolCancelled(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.config.Deadline = time.Hour
	b.open()
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Hang})
	ctx, cancel := context.WithCancel(t.Context())
	var results []chan error
	for range 100 {
		result := make(chan error, 1)
		results = append(results, result)
		go func() {
			_, err := b.key.Sign(ctx, fleet, approval(1))
			result <- err
		}()
	}
	until(t, "the token has what it takes", func() bool { return b.status().InFlight >= 32 })
	cancel()
	for _, r := range results {
		if err := <-r; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	}
	b.device.Clear()
	b.sign()
	// A pool that is closed while its token hangs is closed all the same.
	b.inject(device.Fault{Function: "C_Sign", Kind: device.Hang})
	hung := make(chan error, 1)
	go func() { _, err := b.key.Sign(context.Background(), fleet, approval(1)); hung <- err }()
	until(t, "it hangs", func() bool { return b.status().InFlight > 0 })
	signer := b.status().Signer
	check(t, b.pool.Close())
	if err := <-hung; !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	until(t, "the signer process is gone", func() bool { return !alive(signer) })
}

// alive reports whether there is a process, other than a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// Signals for the whole program, of a terminal or a service manager, are for
// the parent: the signer process goes on until it is told.
func TestSignerIgnoresSignals(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	b.open()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		check(t, syscall.Kill(b.status().Signer, s))
		b.sign()
	}
	if s := b.status(); s.Starts != 1 {
		t.Errorf("%d starts", s.Starts)
	}
}

// ownSigner is the test binary as a program that opens a pool, says which
// process signs, and waits to be killed.
func ownSigner() {
	uri, err := hsm.ParseURI(os.Getenv("CHANCERY_TEST_OWNER"))
	if err == nil {
		var pool *hsm.Pool
		pool, err = hsm.OpenPool(context.Background(), hsm.PoolConfig{Tokens: []hsm.TokenConfig{{URI: uri}}, Keys: []hsm.PinnedKey{{Name: "ca", Key: hsm.URI{Object: "ca"}}},
			Latch: hsm.Latch(os.Getenv("CHANCERY_TEST_LATCH")), Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			fmt.Println(pool.Status()[0].Signer)
			select {}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A signer process does not outlive who started it, not even stopped.
func TestSignerDiesWithItsParent(t *testing.T) {
	b := newBench(t)
	t.Parallel()
	for _, stopped := range []bool{false, true} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CHANCERY_TEST_OWNER="+b.config.URI.String(), "CHANCERY_TEST_LATCH="+string(b.latch))
		for name, value := range maps.All(b.config.Environment) {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		var signer int
		_, err = fmt.Fscan(out, &signer)
		check(t, err)
		if !alive(signer) {
			t.Fatalf("process %d is not there", signer)
		}
		if stopped {
			check(t, syscall.Kill(signer, syscall.SIGSTOP))
		}
		check(t, cmd.Process.Kill())
		cmd.Wait()
		until(t, "the signer process is gone", func() bool { return !alive(signer) })
	}
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/p11kit"
	"github.com/chancery-pki/chancery/simulator/softhsm"
	"github.com/chancery-pki/chancery/simulator/tpm2pkcs11"
)

const (
	callers = 16
	before  = time.Second     // of load, until something fails
	after   = 2 * time.Second // of load, when it is mended
)

// outages are how long something is away, one for each trial: a pool asks now
// and then whether it is back, and the luck of the moment should not decide.
var outages = []time.Duration{1000 * time.Millisecond, 1250 * time.Millisecond, 1500 * time.Millisecond, 1750 * time.Millisecond}

// A trial is what came of a failure under load.
type trial struct {
	took         time.Duration // what is limited
	served, lost int
}

// failover makes tokens fail under load, and takes the time of a clock: what
// is limited is how long somebody waits.
func failover() (results []Result, err error) {
	for _, f := range []struct {
		id, what string
		limit    time.Duration
		run      func(dir string, outage time.Duration) (trial, error)
	}{
		{"hsm-restart-server", "from the restart of a p11-kit server, killed for 1 to 1.75 s, to the first signature", 2 * time.Second, restartServer},
		{"hsm-restart-tpm", "from the restart of an swtpm under tpm2-pkcs11, killed for 1 to 1.75 s, to the first signature", 2 * time.Second, restartTPM},
		{"hsm-failover-killed", "that any request waited when one of two tokens with the same key was killed", time.Second, killOne},
		{"hsm-failover-hung", "that any request waited when one of two tokens with the same key hung", time.Second, hangOne},
		{"hsm-hang", "over the deadline of 1 s until a token that hangs was out of service", 100 * time.Millisecond, hang},
	} {
		var worst trial
		for _, outage := range outages {
			t, err := inDir(func(dir string) (trial, error) { return f.run(dir, outage) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.id, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %v, %d served, %d lost\n", f.id, t.took, t.served, t.lost)
			worst.took = max(worst.took, t.took)
			worst.served += t.served
			worst.lost += t.lost
		}
		results = append(results,
			within(f.id, fmt.Sprintf("milliseconds %s; %d callers, worst of %d", f.what, callers, len(outages)), float64(worst.took.Microseconds())/1000, float64(f.limit.Milliseconds())),
			within(f.id+"-lost", fmt.Sprintf("requests lost in it, of %d", worst.served+worst.lost), float64(worst.lost), 0))
	}
	return results, nil
}

// within is the line of something that has a limit. To lose none where none
// may be lost is as good as the limit, not better.
func within(id, what string, ours, limit float64) Result {
	r := Result{ID: id, What: what, Ours: ours, Beside: limit, Peer: "limit", Target: ">= 1", Met: ours <= limit, Command: command + " hsm"}
	switch {
	case ours > 0:
		r.Ratio = limit / ours
	case limit == 0:
		r.Ratio = 1
	default:
		r.Ratio = limit / 0.001 // not measurable: less than a microsecond
	}
	return r
}

func inDir(f func(dir string) (trial, error)) (t trial, err error) {
	dir, err := os.MkdirTemp("", "benchmarks-")
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return f(dir)
}

// openLoaded opens a pool and has it sign.
func openLoaded(dir string, tokens ...hsm.TokenConfig) (*hsm.Pool, *load, error) {
	ctx, cancel := context.WithTimeout(context.Background(), giveUp)
	defer cancel()
	pool, err := hsm.OpenPool(ctx, hsm.PoolConfig{Tokens: tokens, Keys: []hsm.PinnedKey{{Name: keyLabel, Key: hsm.URI{Object: keyLabel}}},
		Latch: hsm.Latch(filepath.Join(dir, "latch")), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	key, err := pool.Key(keyLabel)
	if err == nil {
		err = pool.Settle(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, pool.Close())
	}
	l := startLoad(key, callers)
	time.Sleep(before)
	return pool, l, nil
}

func (l *load) trial(took time.Duration) trial {
	return trial{took, len(l.served), len(l.lost)}
}

// restart kills something under a token, restarts it, and looks when the
// token signs again.
func restart(dir string, outage time.Duration, c hsm.TokenConfig, kill func(), start func() error) (t trial, err error) {
	pool, l, err := openLoaded(dir, c)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	kill()
	time.Sleep(outage)
	again := time.Now()
	err = start()
	returned := time.Now()
	time.Sleep(after)
	l.end()
	if err != nil {
		return t, err
	}
	if s := pool.Status()[0]; s.Starts < 2 {
		return t, errors.New("the pool did not notice")
	}
	first, err := l.firstAfter(again)
	// It may sign before the call that restarts it has returned.
	return l.trial(max(0, first.Sub(returned))), err
}

func restartServer(dir string, outage time.Duration) (t trial, err error) {
	token, err := newToken(filepath.Join(dir, "token"), false)
	if err != nil {
		return t, err
	}
	s, err := serve(dir, "server", token)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	return restart(dir, outage, config(s), s.Kill, s.Restart)
}

func restartTPM(dir string, outage time.Duration) (t trial, err error) {
	token, err := tpm2pkcs11.New(filepath.Join(dir, "token"), "bench")
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, token.Stop()) }()
	for name, value := range token.Env() { // for the ceremony
		if err := os.Setenv(name, value); err != nil {
			return t, err
		}
	}
	c, err := hsm.OpenCeremony(token.URI, hsm.Options{})
	if err != nil {
		return t, err
	}
	_, err = c.Generate(hsm.URI{Object: keyLabel}, false)
	if err := errors.Join(err, c.Close()); err != nil {
		return t, err
	}
	return restart(dir, outage, hsm.TokenConfig{URI: token.URI, Environment: token.Env()}, token.Kill, token.Restart)
}

func serve(dir, name string, token softhsm.Instance) (*p11kit.Server, error) {
	return p11kit.New(filepath.Join(dir, name), token.URI, map[string]string{"SOFTHSM2_CONF": token.Conf})
}

func config(s *p11kit.Server) hsm.TokenConfig {
	return hsm.TokenConfig{URI: s.URI, Environment: s.Env(), Wrappable: true}
}

// killOne kills one of two tokens.
func killOne(dir string, _ time.Duration) (trial, error) {
	return two(dir, func(s *p11kit.Server) error { s.Kill(); return nil })
}

// hangOne lets one of two tokens stand still.
func hangOne(dir string, _ time.Duration) (trial, error) { return two(dir, (*p11kit.Server).Suspend) }

// two lets the busier of two tokens with the same key fail and looks how long
// requests wait. Each is a SoftHSM of its own behind a server of its own; the
// key came from one into the other by backup and restore.
func two(dir string, fail func(*p11kit.Server) error) (t trial, err error) {
	a, b, err := twins(dir)
	if err != nil {
		return t, err
	}
	var servers []*p11kit.Server
	for i, token := range []softhsm.Instance{a, b} {
		s, err := serve(dir, fmt.Sprintf("server-%d", i), token)
		if err != nil {
			return t, err
		}
		defer s.Stop()
		servers = append(servers, s)
	}
	pool, l, err := openLoaded(dir, config(servers[0]), config(servers[1]))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	busier, s := 0, pool.Status()
	if s[1].Signatures > s[0].Signatures {
		busier = 1
	}
	err = fail(servers[busier])
	time.Sleep(after)
	state := pool.Status()[busier].State
	l.end()
	if err != nil {
		return t, err
	}
	if state == hsm.Up {
		return t, errors.New("the pool did not notice")
	}
	return l.trial(l.longest()), nil
}

// twins makes two tokens with the same key.
func twins(dir string) (a, b softhsm.Instance, err error) {
	if a, err = newToken(filepath.Join(dir, "a"), true); err != nil {
		return a, b, err
	}
	officer, err := os.ReadFile(filepath.Join(dir, "a", "so-pin"))
	if err != nil {
		return a, b, err
	}
	wrapping := make([]byte, hsm.WrappingKeySize)
	rand.Read(wrapping)
	w, err := hsm.Backup(a.URI, hsm.Options{}, hsm.URI{Object: keyLabel}, officer, wrapping)
	if err != nil {
		return a, b, err
	}
	if b, err = softhsm.New(filepath.Join(dir, "b"), "bench too"); err != nil {
		return a, b, err
	}
	if err = b.Setenv(); err != nil {
		return a, b, err
	}
	return a, b, hsm.Restore(b.URI, hsm.Options{}, w, wrapping)
}

// hang has a device stand still in C_Sign, and looks when the token is out of
// service. That it is late, which it is earlier, does not count.
func hang(dir string, _ time.Duration) (t trial, err error) {
	const deadline = time.Second
	token, err := newToken(filepath.Join(dir, "token"), false)
	if err != nil {
		return t, err
	}
	d, err := device.New(filepath.Join(dir, "device"), token.URI.ModulePath, device.Model{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	env := map[string]string{"SOFTHSM2_CONF": token.Conf}
	maps.Copy(env, d.Env())
	uri := token.URI
	uri.ModulePath = d.Module()
	pool, l, err := openLoaded(dir, hsm.TokenConfig{URI: uri, Environment: env, Deadline: deadline})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	if err := d.Inject(device.Fault{Function: "C_Sign", Kind: device.Hang}); err != nil {
		return t, err
	}
	began := time.Now()
	for {
		if s := pool.Status()[0].State; s != hsm.Up && s != hsm.Late {
			break
		}
		if time.Since(began) > giveUp {
			return t, errors.New("the pool did not notice")
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began) - deadline
	d.Clear()
	time.Sleep(after)
	l.end()
	return l.trial(took), nil
}

package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/scripttest"
	"github.com/chancery-pki/chancery/simulator/p11kit"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// The way to the token dies under load, again and again, and comes back; it
// hangs, and goes on. The coordinator is the same process all the time, says
// how it is, and nothing that it was asked to sign is lost: who wants a list
// waits, and has one.
func TestTokenDies(t *testing.T) {
	needSimulators(t)
	dir := t.TempDir()
	token, err := softhsm.New(filepath.Join(dir, "softhsm"), "fleet")
	if err != nil {
		t.Fatal(err)
	}
	server, err := p11kit.New(filepath.Join(dir, "p11kit"), token.URI, map[string]string{"SOFTHSM2_CONF": token.Conf})
	if err != nil {
		t.Fatalf("%v: make deps-test", err)
	}
	t.Cleanup(func() { server.Stop() })
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c := &coordinator{dir: filepath.Join(dir, "data")}
	for name, value := range maps.All(server.Env()) {
		c.env = append(c.env, name+"="+value)
	}
	t.Cleanup(c.kill)
	if _, err := c.chancery("init", "--hsm", server.URI.String(), "--url", "https://"+address, "--listen", address); err != nil {
		t.Fatal(err)
	}
	// A hung token shall not hold the test up for long.
	if err := c.configure("uri", "'"+server.URI.String()+"'\ndeadline = '1s'"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.start(), c.ready()); err != nil {
		t.Fatal(err)
	}

	// Each caller has lists made, one after the other.
	var made atomic.Int64
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ask(c.dir, "POST", "/v1/crl", nil, nil); err != nil {
					t.Errorf("a list was asked for: %v", err)
					return
				}
				made.Add(1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		want := made.Load() + n
		eventually(t, fmt.Sprintf("%d more lists", n), func() bool { return made.Load() >= want })
	}
	state := func() (s api.TokenStatus) {
		var list []api.TokenStatus
		if err := ask(c.dir, "GET", "/v1/hsm", nil, &list); err != nil {
			t.Fatal(err)
		}
		return list[0]
	}
	more(20)
	for round := range 3 {
		server.Kill()
		eventually(t, "the token is down", func() bool { return state().State == string(hsm.Down) })
		if err := ask(c.dir, "GET", "/v1/status", nil, new(api.Status)); err != nil {
			t.Errorf("round %d: the coordinator does not answer: %v", round, err)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the token is back", func() bool { return state().State == string(hsm.Up) })
		more(20)
	}
	if err := server.Suspend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hung token is out of service", func() bool { return state().State == string(hsm.Down) })
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	more(20)
	close(stop)
	group.Wait()
	select {
	case <-c.process.Done():
		t.Errorf("the coordinator ended: %v\n%s", c.process.Wait(), c.lastWords())
	default:
	}
	if _, err := c.chancery("log", "verify"); err != nil {
		t.Error(err)
	}
}

// eventually waits for something that has to happen.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(scripttest.Patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", scripttest.Patience, what)
		}
	}
}

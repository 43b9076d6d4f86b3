package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// raw is a connection on which a test writes requests by hand.
type raw struct {
	t *testing.T
	*tls.Conn
	r *bufio.Reader
}

func (w *world) raw() *raw {
	w.t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(w.endpoint.URL, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &raw{w.t, conn, bufio.NewReader(conn)}
}

func (c *raw) send(request string) {
	c.t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) response() (*http.Response, []byte) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, b
}

const waitForTwo = "GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\n\r\n"

// A connection serves one request after the other, whether they wait or not, and
// what waited is answered like what did not.
func TestParkedConnectionGoesOn(t *testing.T) {
	w := newWorld(t)
	c := w.raw()
	for n := uint64(1); n <= 4; n++ {
		c.send(fmt.Sprintf("GET /v1/crl?after=%d&wait=1 HTTP/1.1\r\nHost: c\r\n\r\n", n))
		if resp, b := c.response(); resp.StatusCode != http.StatusNoContent || len(b) > 0 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Date") == "" {
			t.Errorf("nothing newer than %d: %v, %x", n, resp, b)
		}
		c.send(fmt.Sprintf("GET /v1/crl?after=%d&wait=60 HTTP/1.1\r\nHost: c\r\n\r\n", n))
		time.Sleep(10 * time.Millisecond)
		publish(t, w)
		waited, b := c.response()
		c.send(fmt.Sprintf("GET /v1/crl?after=%d HTTP/1.1\r\nHost: c\r\n\r\n", n))
		at, again := c.response()
		if waited.StatusCode != http.StatusOK || !bytes.Equal(b, again) || waited.Header.Get("ETag") != at.Header.Get("ETag") || waited.Header.Get("Content-Type") != at.Header.Get("Content-Type") {
			t.Errorf("list %d: waited for %v, %x; asked for %v, %x", n+1, waited, b, at, again)
		}
		if base, head, err := chancery.ParseDeltaHead(b); err != nil || base != n || head.Number != n+1 {
			t.Errorf("from list %d: a delta from %d, %v", n, base, err)
		}
		c.send("GET /v1/address/edge-1 HTTP/1.1\r\nHost: c\r\n\r\n")
		if resp, _ := c.response(); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%v", resp)
		}
	}
}

// A list of many TLS records comes whole.
func TestParkedGetsAllOfALongList(t *testing.T) {
	w := newWorld(t)
	c := w.raw()
	c.send("GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\n\r\n")
	// As if it had held a list that is too old for a delta.
	old := w.raw()
	for range 40 {
		publish(t, w)
	}
	old.send("GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\n\r\n")
	_, b := old.response()
	if !bytes.Equal(b, w.Ledger.CRL().Marshal()) {
		t.Errorf("%d bytes, want the full list", len(b))
	}
	_, b = c.response()
	if number, err := chancery.CRLNumber(b); err != nil || number != 2 {
		t.Errorf("list %d, %v", number, err)
	}
}

// What the server cannot get back as it is waits on the server, and is answered
// all the same.
func TestUnparked(t *testing.T) {
	for name, request := range map[string]string{
		"closes":      "GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n",
		"HTTP/1.0":    "GET /v1/crl?after=1&wait=60 HTTP/1.0\r\nHost: c\r\n\r\n",
		"conditional": "GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\nIf-None-Match: \"x\"\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.raw()
			c.send(request)
			time.Sleep(10 * time.Millisecond)
			publish(t, w)
			resp, b := c.response()
			if number, err := chancery.CRLNumber(b); resp.StatusCode != http.StatusOK || number != 2 || err != nil {
				t.Errorf("%v, list %d, %v", resp, number, err)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		w := newWorld(t)
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		var all sync.WaitGroup
		for range 4 { // over one connection
			all.Go(func() {
				resp, err := client.Get(w.endpoint.URL + "/v1/crl?after=1&wait=60")
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if number, _ := chancery.CRLNumber(b); err != nil || resp.ProtoMajor != 2 || number != 2 {
					t.Errorf("%s, list %d, %v", resp.Proto, number, err)
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		publish(t, w)
		all.Wait()
	})
}

// Who sends the next request before the answer to a poll loses the connection,
// and nothing is held for him.
func TestPipelinedPoll(t *testing.T) {
	w := newWorld(t)
	c := w.raw()
	c.send(waitForTwo + waitForTwo)
	if b, err := io.ReadAll(c); len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// Those who hang up while they wait, or do not read, are in nobody's way.
func TestParkedWhoAreGone(t *testing.T) {
	w := newWorld(t)
	stays := w.raw()
	for i := range 50 {
		c := w.raw()
		c.send(waitForTwo)
		if i%2 == 0 {
			c.Close()
		} else {
			c.NetConn().(*net.TCPConn).SetLinger(0)
			c.NetConn().Close()
		}
	}
	stays.send(waitForTwo)
	time.Sleep(10 * time.Millisecond)
	publish(t, w)
	if resp, b := stays.response(); resp.StatusCode != http.StatusOK || len(b) == 0 {
		t.Errorf("%v", resp)
	}
	w.dial(nil).call("GET", "/v1/crl", nil)
}

// A coordinator that stops ends the polls at once, parked or not.
func TestStopEndsPolls(t *testing.T) {
	w := newWorld(t)
	parked, held := w.raw(), w.raw()
	parked.send(waitForTwo)
	held.send("GET /v1/crl?after=1&wait=60 HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if w.nodes.Shutdown(ctx) != nil {
		w.nodes.Close() // as the coordinator's program does
	}
	for _, c := range []*raw{parked, held} {
		if b, _ := io.ReadAll(c); len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 204 ") {
			t.Errorf("%q", b)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("after %s", took)
	}
}

// Who waits has one goroutine, and it ends with the poll.
func TestParkedCostsOneGoroutine(t *testing.T) {
	const nodes = 200
	w := newWorld(t)
	before := runtime.NumGoroutine()
	conns := make([]*raw, nodes)
	for i := range conns {
		conns[i] = w.raw()
		conns[i].send(waitForTwo)
	}
	settles := func(least, most int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			n := runtime.NumGoroutine()
			if n >= least && n <= most {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d goroutines, %d before, want %d to %d", n, before, least, most)
			}
		}
	}
	settles(before+nodes, before+nodes+nodes/10)
	time.Sleep(200 * time.Millisecond) // it is not on its way to more
	settles(before+nodes, before+nodes+nodes/10)
	if err := w.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if resp, _ := c.response(); resp.StatusCode != http.StatusOK {
			t.Errorf("%v", resp)
		}
		c.Close()
	}
	settles(0, before+nodes/10)
}

package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// getIf asks for the list as a cache does that has a copy with that ETag.
func (c *conn) getIf(query, etag string) *reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, c.base+"/v1/crl"+query, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("If-None-Match", etag)
	r, err := c.do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// A cache may hand the list out for ten seconds, then asks whether it is still
// the current one, and never has one that has ended.
func TestListIsCached(t *testing.T) {
	w := newWorld(t)
	publish(t, w)
	c := w.dial(nil)
	const aged = "public, max-age=%d, must-revalidate"
	etags := map[string]string{}
	for _, query := range []string{"", "?after=1"} {
		r := c.call("GET", "/v1/crl"+query, nil)
		etags[query] = r.header.Get("ETag")
		if r.status != http.StatusOK || r.header.Get("Cache-Control") != fmt.Sprintf(aged, 10) || len(etags[query]) != 34 {
			t.Errorf("%q: %d, %v", query, r.status, r.header)
		}
		again := c.getIf(query, etags[query])
		if again.status != http.StatusNotModified || len(again.body) > 0 || again.header.Get("ETag") != etags[query] || again.header.Get("Cache-Control") != fmt.Sprintf(aged, 10) {
			t.Errorf("%q with a copy: %d, %d bytes, %v", query, again.status, len(again.body), again.header)
		}
	}
	if etags[""] == etags["?after=1"] {
		t.Error("the list and a delta to it have one ETag")
	}
	// The copy of another answer, or of the list before, is none of this one.
	if r := c.getIf("", etags["?after=1"]); r.status != http.StatusOK {
		t.Errorf("with a copy of the delta: %d", r.status)
	}
	publish(t, w)
	for query, etag := range etags {
		if r := c.getIf(query, etag); r.status != http.StatusOK || r.header.Get("ETag") == etag {
			t.Errorf("%q after a newer list, with a copy of the old one: %d, %v", query, r.status, r.header)
		}
	}

	next := w.Ledger.CRL().Head().NextUpdate
	for left, age := range map[time.Duration]int{time.Minute: 10, 10 * time.Second: 10, 9 * time.Second: 9, time.Second: 1, 0: 0, -time.Hour: 0} {
		w.node.Now = func() time.Time { return next.Add(-left) }
		if got := c.call("GET", "/v1/crl", nil).header.Get("Cache-Control"); got != fmt.Sprintf(aged, age) {
			t.Errorf("%s before its end: %q, want age %d", left, got, age)
		}
	}
}

// What was waited for, and that there is nothing, is of the moment.
func TestPollIsNotCached(t *testing.T) {
	w := newWorld(t)
	publish(t, w)
	c := w.dial(nil)
	for query, status := range map[string]int{"?wait=1": 200, "?after=1&wait=60": 200, "?after=2": 204, "?after=2&wait=1": 204} {
		r := c.call("GET", "/v1/crl"+query, nil)
		if r.status != status || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%q: %d, %v", query, r.status, r.header)
		}
	}
}

// That an operator wants a node to attest is told to that node and to nobody
// who only has its certificate; and no cache keeps it.
func TestWishIsForTheNode(t *testing.T) {
	w := newWorld(t)
	n, thief := w.chipNode("edge-1", false), w.chipNode("edge-1", false)
	nc := w.enrol(n)
	publish(t, w)
	if _, err := w.Authority.AskAttestation(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		who      string
		identity *chancery.Identity
		told     bool
	}{{"the node", n.Identity(nc), true}, {"a session key that N:SK did not sign", thief.Identity(nc), false}, {"nobody", nil, false}} {
		for query, status := range map[string]int{"": 200, "?after=2": 204, "?after=2&wait=1": 204} {
			r := w.dial(test.identity).call("GET", "/v1/crl"+query, nil)
			if told := r.header.Get(chancery.HeaderAttest) == chancery.AttestNow; told != test.told || r.status != status {
				t.Errorf("%s, %q: told %t, %d", test.who, query, told, r.status)
			}
			if stored := r.header.Get("Cache-Control") != "no-store"; stored != (!test.told && query == "") {
				t.Errorf("%s, %q: %v", test.who, query, r.header)
			}
		}
	}
	w.Check()
}

// A node learns of the wish while it waits, and waits on if it is another's.
func TestWishEndsAPoll(t *testing.T) {
	w := newWorld(t)
	one, two := w.chipNode("edge-1", false), w.chipNode("edge-2", false)
	conns := map[string]*conn{"edge-1": w.dial(one.Identity(w.enrol(one))), "edge-2": w.dial(two.Identity(w.enrol(two)))}
	publish(t, w)
	type ended struct {
		name  string
		reply *reply
	}
	ends := make(chan ended, len(conns))
	for name, c := range conns {
		go func() {
			r, err := c.send("GET", "/v1/crl?after=2&wait=60", "", nil)
			if err != nil {
				t.Error(err)
			}
			ends <- ended{name, r}
		}()
	}
	if _, err := w.Authority.AskAttestation(t.Context(), "op", "edge-1"); err != nil {
		t.Fatal(err)
	}
	if e := <-ends; e.name != "edge-1" || e.reply.header.Get(chancery.HeaderAttest) != chancery.AttestNow {
		t.Errorf("%s is told: %+v", e.name, e.reply)
	}
	publish(t, w)
	if e := <-ends; e.name != "edge-2" || e.reply.status != http.StatusOK || e.reply.header.Get(chancery.HeaderAttest) != "" {
		t.Errorf("%s is told: %+v", e.name, e.reply)
	}
}

// All who come from one list get the same bytes, and whoever comes from a list
// that is too old for a delta gets all of it.
func TestOneUpdateForAll(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		w.Clock.Advance(time.Second)
		publish(t, w)
	}
	newest := w.Ledger.CRL()
	for after := range newest.Head().Number {
		a, b := w.dial(nil).call("GET", fmt.Sprintf("/v1/crl?after=%d", after), nil), w.dial(nil).call("GET", fmt.Sprintf("/v1/crl?after=%d&wait=1", after), nil)
		if !bytes.Equal(a.body, b.body) || a.header.Get("ETag") != b.header.Get("ETag") {
			t.Errorf("after %d: %x and %x", after, a.body, b.body)
		}
		if base, _, err := chancery.ParseDeltaHead(a.body); err == nil && base != after {
			t.Errorf("after %d: a delta from %d", after, base)
		}
		if number, err := chancery.CRLNumber(a.body); err != nil || number != newest.Head().Number {
			t.Errorf("after %d: list %d, %v", after, number, err)
		}
	}
}

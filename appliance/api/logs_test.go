package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/merkle/tlog"
)

// Whoever asks gets the logs: nodes, operators, and people who are neither.
func TestLogs(t *testing.T) {
	w := newWorld(t)
	c := w.dial(nil)
	if r := c.call("GET", "/log/1/checkpoint", nil); r.status != http.StatusNotFound {
		t.Errorf("before there is a checkpoint: %d", r.status)
	}
	w.enrol(w.chipNode("edge-1", false))
	if r := c.call("GET", "/log/1/tile/0/000.p/1", nil); r.status != http.StatusNotFound {
		t.Errorf("a tile that no checkpoint covers: %d", r.status)
	}
	if err := w.Ledger.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"/log/1", "/audit"} {
		for who, c := range map[string]*conn{"anybody": c, "an operator": w.operator()} {
			note := c.call("GET", log+"/checkpoint", nil)
			if note.status != http.StatusOK || note.header.Get("Cache-Control") != "no-cache" || !strings.HasPrefix(note.header.Get("Content-Type"), "text/plain") {
				t.Errorf("%s, checkpoint of %s: %d, %v", who, log, note.status, note.header)
			}
			for _, path := range []string{"/tile/0/000.p/1", "/tile/entries/000.p/1"} {
				r := c.call("GET", log+path, nil)
				if r.status != http.StatusOK || len(r.body) < 32 || !strings.Contains(r.header.Get("Cache-Control"), "immutable") {
					t.Errorf("%s, %s%s: %d, %d bytes, %v", who, log, path, r.status, len(r.body), r.header)
				}
			}
		}
		for _, path := range []string{
			"/tile/0/000", "/tile/0/000.p/2", "/tile/0/000.p/0", "/tile/0/001.p/1", "/tile/1/000.p/1", "/tile/entries/000.p/255",
			"/tile/0/0", "/tile/-1/000.p/1", "/tile/64/000.p/1", "/tile/0/x000/000.p/1", "/tile/0/..%2f000", "/tile/", "/tile/0/000.p/1?x=" + zeros(10) + "/",
			"/tile/9999999999999999999/000", "/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
		} {
			want := http.StatusNotFound
			if strings.Contains(path, "?") {
				want = http.StatusOK
			}
			if r := c.call("GET", log+path, nil); r.status != want {
				t.Errorf("%s%s: %d", log, path, r.status)
			}
		}
	}
	if r := c.call("GET", "/log/2/checkpoint", nil); r.status != http.StatusNotFound {
		t.Errorf("a log that there is not: %d", r.status)
	}
	if r := c.call("POST", "/log/1/checkpoint", nil); r.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", r.status)
	}
}

// A cache asks whether what it has is still good.
func TestLogTags(t *testing.T) {
	w := newWorld(t)
	w.enrol(w.chipNode("edge-1", false))
	if err := w.Ledger.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := w.dial(nil)
	tag := c.call("GET", "/log/1/tile/0/000.p/1", nil).header.Get("ETag")
	old := c.call("GET", "/log/1/checkpoint", nil).header.Get("ETag")
	if tag == "" || old == "" || tag == old {
		t.Fatalf("tags %q and %q", tag, old)
	}
	if r := c.tagged("/log/1/tile/0/000.p/1", tag); r.status != http.StatusNotModified || len(r.body) > 0 {
		t.Errorf("a tile that one has: %d, %d bytes", r.status, len(r.body))
	}
	if r := c.tagged("/log/1/tile/0/000.p/1", old); r.status != http.StatusOK {
		t.Errorf("a tile that one has another of: %d", r.status)
	}
	w.enrol(w.chipNode("edge-2", false))
	if err := w.Ledger.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := c.tagged("/log/1/checkpoint", old); r.status != http.StatusOK {
		t.Errorf("a newer checkpoint: %d", r.status)
	}
	if r := c.tagged("/log/1/tile/0/000.p/1", tag); r.status != http.StatusNotModified {
		t.Errorf("the narrow tile, after the log grew: %d", r.status)
	}
	bundle := c.call("GET", "/log/1/tile/entries/000.p/2", nil)
	if entries, err := tlog.ParseBundle(bundle.body, 2); err != nil || len(entries) != 2 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

// tagged asks for what has another tag.
func (c *conn) tagged(path, tag string) *reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("If-None-Match", tag)
	resp, err := c.client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return &reply{resp.StatusCode, resp.Header, b}
}

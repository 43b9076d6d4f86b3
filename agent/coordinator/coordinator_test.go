package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, c *testcoordinator.Coordinator) *coordinator.Conn {
	t.Helper()
	conn, err := coordinator.Dial(t.Context(), c.Pointer(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// serve has the coordinator answer everything with h.
func serve(c *testcoordinator.Coordinator, h http.HandlerFunc) {
	c.Misbehave(testcoordinator.Faults{Serve: func(http.Handler) http.Handler { return h }})
}

func TestFetchPointer(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	p, err := coordinator.FetchPointer(t.Context(), c.URL)
	if err != nil || p.Hash() != c.Pointer().Hash() {
		t.Errorf("%v", err)
	}
	for _, address := range []string{"", "coordinator:8443", "http://coordinator", "https://", "https://user@coordinator", "https://coordinator?x", "https://coordinator#x", "https://co ordinator"} {
		_, err := coordinator.FetchPointer(t.Context(), address)
		if _, ok := errors.AsType[*coordinator.URLError](err); !ok || coordinator.ValidURL(address) {
			t.Errorf("%q: %v", address, err)
		}
	}
	c.Misbehave(testcoordinator.Faults{Pointer: func([]byte) []byte { return make([]byte, 1<<20) }})
	if _, err := coordinator.FetchPointer(t.Context(), c.URL); !errors.Is(err, chancery.ErrMalformed) {
		t.Errorf("endless: %v", err)
	}
}

// The first endpoint that answers with a pinned key is taken; if none does,
// the error tells of each.
func TestDial(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	good := chancery.Endpoint{URL: c.URL, Pins: [][32]byte{{9}, c.Pin()}}
	gone := chancery.Endpoint{URL: "https://127.0.0.1:1", Pins: [][32]byte{c.Pin()}}
	impostor := chancery.Endpoint{URL: c.URL, Pins: [][32]byte{{9}}}
	for _, test := range []struct {
		name      string
		endpoints []chancery.Endpoint
		want      error
	}{
		{"good", []chancery.Endpoint{good}, nil},
		{"good after others", []chancery.Endpoint{gone, impostor, good}, nil},
		{"impostor", []chancery.Endpoint{gone, impostor}, chancery.ErrNotOurCoordinator},
		{"none", nil, coordinator.ErrNoEndpoint},
		{"not a URL", []chancery.Endpoint{{URL: "ldap://x", Pins: [][32]byte{{}}}}, &coordinator.URLError{}},
	} {
		p := *c.Pointer()
		p.Endpoints = test.endpoints
		conn, err := coordinator.Dial(t.Context(), &p, nil)
		if err == nil {
			conn.Close()
		}
		if _, ok := test.want.(*coordinator.URLError); ok {
			if _, ok := errors.AsType[*coordinator.URLError](err); !ok {
				t.Errorf("%s: %v", test.name, err)
			}
		} else if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if test.name == "impostor" && !strings.Contains(err.Error(), "127.0.0.1:1:") {
			t.Errorf("the error does not tell of each endpoint: %v", err)
		}
	}
}

// Both ends of the one connection know the same bytes, call after call.
func TestOneConnection(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	conn := dial(t, c)
	mine, err := conn.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	serve(c, func(w http.ResponseWriter, r *http.Request) {
		theirs, err := r.TLS.ExportKeyingMaterial(chancery.ExporterLabel, nil, 32)
		if err != nil || !bytes.Equal(theirs, mine[:]) {
			t.Errorf("another connection: %v", err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	for range 3 {
		if list, _, err := conn.CRL(t.Context(), 1, 0); list != nil || err != nil {
			t.Errorf("%x, %v", list, err)
		}
	}
	if host := conn.LocalIP(); net.ParseIP(host) == nil {
		t.Errorf("local address %q", host)
	}
	// Once it is gone it is not replaced.
	serve(c, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, _, err := conn.CRL(t.Context(), 1, 0); err == nil {
		t.Error("no error from a lost connection")
	}
	c.Misbehave(testcoordinator.Faults{})
	if _, _, err := conn.CRL(t.Context(), 1, 0); !errors.Is(err, coordinator.ErrLost) {
		t.Errorf("after that: %v, want %v", err, coordinator.ErrLost)
	}
}

func TestProblem(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	for _, test := range []struct {
		name, kind, body string
		status           int
		detail, hint     string
	}{
		{"problem", "application/problem+json", `{"detail":"no","hint":"ask","code":"x","status":200}`, 403, "no", "ask"},
		{"with a charset", "application/problem+json; charset=utf-8", `{"detail":"no"}`, 403, "no", ""},
		{"title only", "application/problem+json", `{"title":"Forbidden thing"}`, 403, "Forbidden thing", ""},
		{"escape sequences", "application/problem+json", `{"detail":"a\u001b[31m\u0007\nb\u202e","hint":"\u009bx"}`, 403, "a[31m b", "x"},
		{"endless", "application/problem+json", `{"detail":"` + strings.Repeat("x", 10000) + `"}`, 403, strings.Repeat("x", 500) + "...", ""},
		{"a page", "text/html", `{"detail":"<b>"}`, 502, "Bad Gateway", ""},
		{"junk", "application/problem+json", `{"detail":`, 500, "Internal Server Error", ""},
		{"a redirect", "text/plain", ``, 302, "Found", ""},
	} {
		serve(c, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.kind)
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(test.status)
			w.Write([]byte(test.body))
		})
		_, err := dial(t, c).Verdict(t.Context(), "00")
		p, ok := errors.AsType[*chancery.Problem](err)
		if !ok || p.Status != test.status || p.Detail != test.detail || p.Hint != test.hint {
			t.Errorf("%s: %+v, %v", test.name, p, err)
		}
	}
}

func TestMalformedAnswers(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	for name, body := range map[string]string{
		"nothing": "", "junk": "<html>", "another type": `{"n_c":7}`, "endless": `{"reason":"` + strings.Repeat("x", 2<<20) + `"}`,
	} {
		serve(c, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) })
		if _, err := dial(t, c).Verdict(t.Context(), "00"); !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What a later version adds is passed over.
	serve(c, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"status":"pending","colour":"red"}`)) })
	if v, err := dial(t, c).Verdict(t.Context(), "00"); err != nil || v.Status != chancery.VerdictPending {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestCancelled(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	conn := dial(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := conn.CRL(ctx, 1, 25*time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
}

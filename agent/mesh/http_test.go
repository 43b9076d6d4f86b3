package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// serve runs a web server on the member that tells callers who they are.
func (m *member) serve() (addr string) {
	m.t.Helper()
	l := m.listen()
	server := &http.Server{
		ConnContext: mesh.ConnContext,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			peer, ok := mesh.PeerFromContext(r.Context())
			if !ok {
				http.Error(rw, "who are you?", http.StatusForbidden)
				return
			}
			fmt.Fprintf(rw, "you are %s", peer.Name)
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	m.t.Cleanup(func() { server.Close(); <-done })
	return l.Addr().String()
}

func TestHTTPKnowsThePeer(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b.example")
	addresses := map[string]string{"b.example": b.serve()}
	transport := a.Transport(func(_ context.Context, name string) (string, error) {
		if addr, ok := addresses[name]; ok {
			return addr, nil
		}
		return "", errors.New("no such node")
	})
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for range 3 {
		response, err := client.Get("https://b.example/status")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "you are a" {
			t.Errorf("%s %q, %v", response.Status, body, err)
		}
	}
	if n := b.Stats().Accepted; n != 1 {
		t.Errorf("three requests took %d sessions, want one", n)
	}
	for _, url := range []string{"http://b.example/", "https://c.example/"} {
		if response, err := client.Get(url); err == nil {
			t.Errorf("%s: %s", url, response.Status)
		}
	}

	// After a revocation neither the session that is there nor a new one serves.
	b.update(w.revoke(a))
	_, err := client.Get("https://b.example/status")
	if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); !ok {
		t.Errorf("%v, want a refusal by the peer", err)
	}
}

// The name in the URL is the node that must answer.
func TestTransportRefusesAnotherNode(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.enroll("a"), w.enroll("b")
	addr := b.serve()
	client := &http.Client{Transport: a.Transport(func(context.Context, string) (string, error) { return addr, nil })}
	_, err := client.Get("https://c/")
	checkRefused(t, err, chancery.CheckName, chancery.ErrWrongPeer)
}

func TestNoPeerWithoutASession(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if peer, ok := mesh.PeerFromContext(r.Context()); ok {
			t.Errorf("a request over plain TCP has the peer %v", peer)
		}
	}))
	server.Config.ConnContext = mesh.ConnContext
	server.Start()
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

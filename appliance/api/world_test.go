package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A world is a coordinator that serves nodes over TLS and operators over a Unix
// socket.
type world struct {
	*appliancetest.Coordinator
	t        *testing.T
	node     *api.Node
	nodes    *http.Server // which serves them
	endpoint chancery.Endpoint
	socket   string
	log      *logs
}

// manufacture makes the first chip, and with it the manufacturer whose
// certificates every coordinator of this package believes.
var manufacture sync.Once

func newWorld(t *testing.T, edit ...func(*api.Node)) *world {
	t.Helper()
	manufacture.Do(func() { tpmtest.New(t) })
	w := &world{t: t, Coordinator: appliancetest.New(t, tpmtest.Roots(t)), log: &logs{}}
	logger := slog.New(slog.NewTextHandler(w.log, nil))
	w.node = &api.Node{
		Authority: w.Authority, Ledger: w.Ledger, Pointer: w.Pointer, Now: w.Clock.Now, Logger: logger,
		Verifier: chancery.NewVerifier(chancery.Trust{Pointer: w.Pointer, CRL: w.Ledger.CRL()}),
	}
	for _, e := range edit {
		e(w.node)
	}
	pair, pin := tlsKey(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.endpoint = chancery.Endpoint{URL: "https://" + listener.Addr().String(), Pins: [][32]byte{pin}}
	w.nodes = &http.Server{Handler: api.NewNode(w.node)}
	w.serve(w.nodes, func(s *http.Server) error { return s.Serve(w.node.Listen(listener, pair)) })

	w.socket = filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := anchor.Open(anchor.At(filepath.Join(t.TempDir(), "anchor")), &anchor.Mark{}, false, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keeper.Close)
	admin := &api.Admin{
		Anchor:    keeper,
		Authority: w.Authority, Ledger: w.Ledger, Store: w.Store, Pointer: w.Pointer, X509: w.Config.X509, Started: w.Clock.Now(), Now: w.Clock.Now, Logger: logger,
		Tokens: func() []hsm.Status {
			return []hsm.Status{{State: hsm.Up, Info: hsm.Info{Label: "test", Simulator: true}}}
		},
	}
	w.serve(&http.Server{Handler: api.NewAdmin(admin)}, func(s *http.Server) error { return s.Serve(unix) })
	return w
}

// plain serves nodes without TLS as well, for what happens before TLS matters.
func (w *world) plain() (address string) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.serve(&http.Server{Handler: api.NewNode(w.node)}, func(s *http.Server) error { return s.Serve(listener) })
	return listener.Addr().String()
}

func (w *world) serve(s *http.Server, serve func(*http.Server) error) {
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	done := make(chan error)
	go func() { done <- serve(s) }()
	w.t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
}

// logs is what the coordinator wrote for its operator.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func tlsKey(t *testing.T) (tls.Certificate, [32]byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "coordinator"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(spki)
}

// chipNode makes a node with a chip of its own.
func (w *world) chipNode(name string, sealed bool) *appliancetest.Node {
	w.t.Helper()
	return appliancetest.NewNode(w.t, w.Coordinator, tpmtest.New(w.t).Open(w.t), name, sealed)
}

// A conn is one connection to the coordinator. As an agent does, it never
// connects a second time by itself.
type conn struct {
	t      *testing.T
	base   string
	tls    *tls.Conn // nil on the socket
	client http.Client
}

// dial connects as a node; identity is what it presents, or nil.
func (w *world) dial(identity *chancery.Identity) *conn {
	w.t.Helper()
	return w.dialFrom("127.0.0.1", identity)
}

func (w *world) dialFrom(address string, identity *chancery.Identity) *conn {
	w.t.Helper()
	c, err := w.tryDial(address, identity)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) tryDial(address string, identity *chancery.Identity) (*conn, error) {
	var present func() (*chancery.Identity, error)
	if identity != nil {
		present = func() (*chancery.Identity, error) { return identity, nil }
	}
	config := chancery.PinnedConfig(w.endpoint, present)
	dialer := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}, Config: config}
	raw, err := dialer.DialContext(w.t.Context(), "tcp", strings.TrimPrefix(w.endpoint.URL, "https://"))
	if err != nil {
		return nil, err
	}
	c := &conn{t: w.t, base: w.endpoint.URL, tls: raw.(*tls.Conn)}
	first := make(chan net.Conn, 1)
	first <- raw
	c.client.Transport = &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		select {
		case raw := <-first:
			return raw, nil
		default:
			return nil, errors.New("the connection was lost")
		}
	}}
	w.t.Cleanup(func() { raw.Close() })
	return c, nil
}

// operator connects to the socket.
func (w *world) operator() *conn {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.socket)
	}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &conn{t: w.t, base: "http://chancery", client: http.Client{Transport: transport}}
}

func (c *conn) exporter() [32]byte {
	c.t.Helper()
	state := c.tls.ConnectionState()
	b, err := state.ExportKeyingMaterial(chancery.ExporterLabel, nil, 32)
	if err != nil {
		c.t.Fatal(err)
	}
	return [32]byte(b)
}

// A reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a body as it is.
func (c *conn) send(method, path, contentType string, body io.Reader) (*reply, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return c.do(req)
}

func (c *conn) do(req *http.Request) (*reply, error) {
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &reply{resp.StatusCode, resp.Header, b}, err
}

// call sends a message, or none, and reads the reply.
func (c *conn) call(method, path string, message any) *reply {
	c.t.Helper()
	var body io.Reader
	contentType := ""
	if message != nil {
		b, err := json.Marshal(message)
		if err != nil {
			c.t.Fatal(err)
		}
		body, contentType = bytes.NewReader(b), "application/json"
	}
	r, err := c.send(method, path, contentType, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// ok calls and decodes what must be a good answer.
func ok[T any](c *conn, method, path string, message any) (v T) {
	c.t.Helper()
	r := c.call(method, path, message)
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/json" {
		c.t.Fatalf("%s %s: %d, %s, %s", method, path, r.status, r.header.Get("Content-Type"), r.body)
	}
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		c.t.Fatalf("%s %s: %v in %s", method, path, err, r.body)
	}
	return v
}

// done calls what has no answer but its success.
func (c *conn) done(method, path string, message any) {
	c.t.Helper()
	if r := c.call(method, path, message); r.status != http.StatusNoContent || len(r.body) > 0 {
		c.t.Fatalf("%s %s: %d, %s", method, path, r.status, r.body)
	}
}

// wantProblem checks that a reply is a problem document (RFC 9457) with the
// code, and tells nothing of the coordinator's inside.
func (r *reply) wantProblem(t *testing.T, what string, status int, code string) *chancery.Problem {
	t.Helper()
	var p chancery.Problem
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&p)
	if err != nil || r.status != status || p.Status != status || p.Code != code || p.Title != http.StatusText(status) || p.Detail == "" ||
		r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d, %s, %s (%v); want %d %q", what, r.status, r.header.Get("Content-Type"), r.body, err, status, code)
	}
	for _, inside := range []string{"sql", "store:", "CKR_", "goroutine", ".go:"} {
		if strings.Contains(strings.ToLower(string(r.body)), strings.ToLower(inside)) {
			t.Errorf("%s: the answer tells %q: %s", what, inside, r.body)
		}
	}
	return &p
}

// enrol enrols a node over a new connection.
func (w *world) enrol(n *appliancetest.Node) *chancery.Certificate {
	w.t.Helper()
	c := w.dial(nil)
	answer := ok[chancery.Answer](c, "POST", "/v1/enroll", n.Connection(c.exporter()))
	return w.issued(ok[chancery.Verdict](c, "POST", "/v1/enroll/"+answer.Intake, n.Submission(&answer)))
}

func (w *world) issued(v chancery.Verdict) *chancery.Certificate {
	w.t.Helper()
	nc, err := chancery.ParseCertificate(v.NC)
	if err != nil || v.Status != chancery.VerdictIssued {
		w.t.Fatalf("verdict %q, reason %q, %v", v.Status, v.Reason, err)
	}
	return nc
}

// follow hands the current list to the verifier, as the coordinator's program
// does.
func (w *world) follow() {
	w.t.Helper()
	if _, err := w.node.Verifier.UpdateCRL(w.Ledger.CRL().Marshal(), w.Clock.Now()); err != nil {
		w.t.Fatal(err)
	}
}

// approving makes a token whose uses an operator approves.
func approving(r *authority.TokenRequest) { r.Approve = true }

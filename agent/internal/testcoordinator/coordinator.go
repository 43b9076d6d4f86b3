// Package testcoordinator is a coordinator for the agent's tests: it speaks
// the exchange of package chancery over real TLS, verifies the evidence of real
// chips, and lies where a test tells it to.
//
// Start with [New]. What it signs is real, under keys in memory; its store is
// a few maps. [Coordinator.Misbehave] sets what it does wrong.
package testcoordinator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// Options of a coordinator. The zero value is good.
type Options struct {
	Life    time.Duration // of N:C; default 7 days
	CRLLife time.Duration // default 1 hour
}

// A Coordinator is a coordinator at work. Its methods may be called
// concurrently.
type Coordinator struct {
	URL string

	t       testing.TB
	options Options
	server  *http.Server
	addr    string
	cert    tls.Certificate

	// mu guards everything below.
	mu        sync.Mutex
	ca, next  *fleet.Key
	approval  *fleet.Key
	issuer    *fleet.Key // of X.509 certificates
	own       []byte     // its own
	x509s     map[merkle.Serial]x509s
	caID      merkle.TrustAnchorID
	pointer   *chancery.Pointer
	verifier  *chancery.Verifier
	tree      merkle.Tree
	revoked   map[uint64]bool
	crls      []*chancery.CRL // number n at n-1
	changed   chan struct{}   // closed with the next CRL
	tokens    map[string]chancery.TokenKey
	intakes   map[string]*intake
	nodes     map[chancery.NodeID]*node
	addresses map[string]string
	shown     []chancery.Shown
	faults    Faults
	calls     map[string]int
}

// Faults are what a coordinator does otherwise than it should. Functions may
// be nil.
type Faults struct {
	Hold    bool                            // hold submissions for approval
	Refuse  string                          // refuse submissions for this reason
	CANS    func(*chancery.CANS)            // changes CA:N:S before it is signed
	Signer  chancery.Signer                 // signs CA:N:S in place of CA:SK
	Answer  func(*chancery.Answer)          // changes the answer
	Subject func(*chancery.Subject)         // changes N:C before it is signed
	Verdict func(*chancery.Verdict)         // changes the verdict
	CRL     func(after uint64) []byte       // what is served in place of the CRL; nil: 204
	X509    func(*chancery.X509Answer)      // changes the X.509 certificate
	X509CRL func(*chancery.CRLHead)         // changes the X.509 CRL before it is signed
	Pointer func(real []byte) []byte        // what is served in place of the pointer record
	Serve   func(http.Handler) http.Handler // stands before everything
}

// New starts a coordinator of a new fleet that serves until the test ends.
func New(t testing.TB, o Options) *Coordinator {
	t.Helper()
	if o.Life == 0 {
		o.Life = 7 * 24 * time.Hour
	}
	if o.CRLLife == 0 {
		o.CRLLife = time.Hour
	}
	c := &Coordinator{
		t: t, options: o, revoked: map[uint64]bool{}, changed: make(chan struct{}), tokens: map[string]chancery.TokenKey{},
		intakes: map[string]*intake{}, nodes: map[chancery.NodeID]*node{}, addresses: map[string]string{}, calls: map[string]int{}, x509s: map[merkle.Serial]x509s{},
	}
	for _, k := range []**fleet.Key{&c.ca, &c.next, &c.approval, &c.issuer} {
		*k = must(fleet.NewKey())
	}
	c.caID = must(merkle.ParseTrustAnchorID("32473.1.1"))
	c.tree.Append(merkle.HashLeaf(merkle.NullEntry()))
	c.cert = must(newCertificate())
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	c.addr = l.Addr().String()
	c.URL = "https://" + c.addr
	c.firstPointer()
	c.verifier = chancery.NewVerifier(chancery.Trust{Pointer: c.pointer})
	c.Heartbeat()
	c.serve(l)
	t.Cleanup(c.Stop)
	return c
}

// must is for what fails only if the machine is broken.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "coordinator"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// pin is the pin of the coordinator's TLS key.
func (c *Coordinator) pin() [32]byte {
	cert := must(x509.ParseCertificate(c.cert.Certificate[0]))
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// Fleet returns the fleet's identifier.
func (c *Coordinator) Fleet() chancery.FleetID { return c.Pointer().FleetID() }

// Pointer returns the newest pointer record.
func (c *Coordinator) Pointer() *chancery.Pointer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pointer
}

// Token makes a join token.
func (c *Coordinator) Token() chancery.Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	token := chancery.NewToken(c.pointer.FleetID())
	c.tokens[token.ID.String()] = token.Key()
	return token
}

// Misbehave replaces what the coordinator does wrong; the zero Faults make it
// an honest one again.
func (c *Coordinator) Misbehave(f Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
}

func (c *Coordinator) misbehaviour() Faults {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}

// Calls returns how often a path was asked for, as the routes below have it.
func (c *Coordinator) Calls(route string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[route]
}

// Shown returns what nodes have shown.
func (c *Coordinator) Shown() []chancery.Shown {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.shown)
}

func (c *Coordinator) takeShown(r *http.Request) (any, error) {
	s, err := read[chancery.Shown](r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = append(c.shown, *s)
	return nil, nil
}

// Address returns where a node said that it listens.
func (c *Coordinator) Address(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addresses[name]
}

// Stop takes the coordinator away.
func (c *Coordinator) Stop() { c.server.Close() }

// Restart brings it back at the same address.
func (c *Coordinator) Restart() { c.serve(must(net.Listen("tcp", c.addr))) }

func (c *Coordinator) serve(l net.Listener) {
	mux := http.NewServeMux()
	for route, h := range map[string]func(*http.Request) (any, error){
		"POST /v1/enroll":                   c.enroll,
		"POST /v1/renew":                    c.renew,
		"POST /v1/enroll/{intake}":          c.submit,
		"GET /v1/enroll/{intake}":           c.verdict,
		"GET /v1/crl":                       c.serveCRL,
		"POST /v1/reseal":                   c.reseal,
		"POST /v1/attest":                   c.attest,
		"POST /v1/shown":                    c.takeShown,
		"POST /v1/x509":                     c.x509,
		"GET /crl/x509/{ca}":                c.serveX509CRL,
		"PUT /v1/address":                   c.putAddress,
		"GET /v1/address/{name}":            c.getAddress,
		"GET /.well-known/chancery/pointer": c.servePointer,
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.calls[route]++
			c.mu.Unlock()
			answer(w, h, r)
		})
	}
	c.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := http.Handler(mux)
			if f := c.misbehaviour().Serve; f != nil {
				h = f(h)
			}
			h.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.cert},
			ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"},
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := c.server
	go server.ServeTLS(l, "", "")
}

// answer writes a handler's result: bytes as they are, nil as 204, other
// values as JSON, errors as problem documents.
func answer(w http.ResponseWriter, h func(*http.Request) (any, error), r *http.Request) {
	v, err := h(r)
	if err != nil {
		p, ok := err.(*chancery.Problem)
		if !ok {
			p = &chancery.Problem{Status: 403, Title: "Forbidden", Detail: err.Error(), Code: "evidence"}
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		json.NewEncoder(w).Encode(p)
		return
	}
	switch v := v.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
	case []byte:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(v)
	default:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
}

// read parses a request's body as the real coordinator does: unknown fields
// are errors.
func read[T any](r *http.Request) (*T, error) {
	v, d := new(T), json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return nil, refuse(400, "malformed", "%v", err)
	}
	return v, nil
}

func refuse(status int, code, format string, args ...any) error {
	return &chancery.Problem{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...), Code: code}
}

// peer judges the node at the other end, where a handler needs one.
func (c *Coordinator) peer(r *http.Request) (*chancery.Peer, error) {
	var certs [][]byte
	for _, cert := range r.TLS.PeerCertificates {
		certs = append(certs, cert.Raw)
	}
	p, err := c.verifier.Verify(certs, "", chancery.NodeID{}, chancery.Policy{}, time.Now())
	if err != nil {
		return nil, refuse(401, "not-a-node", "%v", err)
	}
	return p, nil
}

func (c *Coordinator) putAddress(r *http.Request) (any, error) {
	p, err := c.peer(r)
	if err != nil {
		return nil, err
	}
	a, err := read[chancery.Address](r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses[p.Name] = a.Address
	return nil, nil
}

func (c *Coordinator) getAddress(r *http.Request) (any, error) {
	a := c.Address(r.PathValue("name"))
	if a == "" {
		return nil, refuse(404, "not-found", "no such node, or it has not said where it is")
	}
	return chancery.Address{Name: r.PathValue("name"), Address: a, Seen: time.Now()}, nil
}

// sign signs a statement with a key in memory.
func (c *Coordinator) sign(key chancery.Signer, s chancery.Statement) chancery.Signature {
	return must(key.Sign(context.Background(), c.pointer.FleetID(), s))
}

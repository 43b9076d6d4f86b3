package spiffe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/chancery-pki/chancery/agent/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A node is a source whose SVID the test decides on, with a server.
type node struct {
	t      *testing.T
	socket string
	stop   func()
	denied atomic.Bool

	// mu guards the fields.
	mu      sync.Mutex
	svid    *SVID
	err     error
	changed chan struct{} // closed with a change
}

func newNode(t *testing.T, svid *SVID) *node {
	t.Helper()
	n := &node{t: t, socket: filepath.Join(t.TempDir(), "s"), svid: svid, changed: make(chan struct{})}
	l, err := local.Listen(n.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, Config{Source: n, Logger: slog.New(slog.DiscardHandler), Allow: func(local.Caller) bool { return !n.denied.Load() }})
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) Follow(ctx context.Context, look func(*SVID, error) error) error {
	for {
		n.mu.Lock()
		svid, err, changed := n.svid, n.err, n.changed
		n.mu.Unlock()
		if err := look(svid, err); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// set has the source say something else, or the same once more.
func (n *node) set(svid *SVID, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.svid, n.err = svid, err
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) dial() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient("unix:"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

var errNone = errors.New("the coordinator is away")

// An issuer makes SVIDs.
type issuer struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	last int64
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, key: newKey(t), last: 1}
	i.cert = i.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: []byte{1},
	}, i.key)
	return i
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (i *issuer) sign(c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	i.t.Helper()
	i.last++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(i.last), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := i.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// svid makes another one for the node, and a list that revokes these.
func (i *issuer) svid(revoked ...int64) *SVID {
	i.t.Helper()
	key := newKey(i.t)
	id := &url.URL{Scheme: "spiffe", Host: "fleet.example", Path: "/node/edge-1"}
	cert := i.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "edge-1"}, URIs: []*url.URL{id}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}, key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		i.t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(i.last), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(r), RevocationTime: time.Now()})
	}
	crl, err := x509.CreateRevocationList(rand.Reader, list, i.cert, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return &SVID{ID: id.String(), TrustDomain: "spiffe://fleet.example", Certificate: cert.Raw, Key: pkcs8, Bundle: i.cert.Raw, CRL: crl}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

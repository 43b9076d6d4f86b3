package chancery

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// N:SK as the TLS key signs what TLS 1.3 has it sign, and nothing that anybody
// else would like to have signed: no digest, no artefact, no X.509.
func TestTLSKey(t *testing.T) {
	key := nodeKey("edge-1")
	k := TLSKey(key, time.Second)
	signed := func(content []byte) error {
		_, err := k.(crypto.MessageSigner).SignMessage(rand.Reader, content, crypto.SHA256)
		return err
	}
	label := func(of string) string { return strings.Repeat(" ", 64) + "TLS 1.3, " + of + " CertificateVerify\x00" }
	for _, of := range []string{"client", "server"} {
		for _, size := range []int{32, 48} {
			if err := signed(append([]byte(label(of)), make([]byte, size)...)); err != nil {
				t.Errorf("%s, hash of %d bytes: %v", of, size, err)
			}
		}
	}
	w := newWorld(t)
	ns := &NS{Fleet: w.fleet(), NodeKey: key.PublicKey(), Created: w.now, Name: "edge-1"}
	for name, content := range map[string][]byte{
		"nothing":          {},
		"no hash":          []byte(label("client")),
		"a hash too short": append([]byte(label("client")), make([]byte, 31)...),
		"a hash too long":  append([]byte(label("server")), make([]byte, 49)...),
		"another label":    append([]byte(label("exporter")), make([]byte, 32)...),
		"63 spaces":        append([]byte(label("client")[1:]), make([]byte, 32)...),
		"N:S":              Message(w.fleet(), P256, ns),
	} {
		if err := signed(content); !errors.Is(err, ErrNotTLS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	digest := sha256.Sum256(Message(w.fleet(), P256, ns))
	if _, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, ErrNotTLS) {
		t.Errorf("a digest: %v", err)
	}
	if _, err := k.(crypto.MessageSigner).SignMessage(rand.Reader, append([]byte(label("client")), make([]byte, 32)...), crypto.SHA384); !errors.Is(err, ErrNotTLS) {
		t.Errorf("another hash: %v", err)
	}
}

// Two nodes whose N:SK is the TLS key.
func TestTLSKeyHandshake(t *testing.T) {
	w := newWorld(t)
	a, b := w.enroll("edge-1"), w.enroll("edge-2")
	w.publish()
	options := func(n *node) TLSOptions {
		return TLSOptions{Verifier: NewVerifier(w.trust()), Now: func() time.Time { return w.now },
			Identity: func() (*Identity, error) { return &Identity{NC: n.nc, Key: TLSKey(n.key, time.Second)}, nil }}
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	client, server := tls.Client(here, ClientConfig(options(a), "edge-2")), tls.Server(there, ServerConfig(options(b)))
	failed := make(chan error, 1)
	go func() { failed <- server.HandshakeContext(context.Background()) }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	if got := server.ConnectionState().PeerCertificates; len(got) != 1 || !bytes.Equal(got[0].Raw, a.nc.Raw()) {
		t.Errorf("%d certificates", len(got))
	}
}

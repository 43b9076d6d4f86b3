package spiffe

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// An envoy subscribes as Envoy does.
type envoy struct {
	t      *testing.T
	stream secretv3.SecretDiscoveryService_StreamSecretsClient
	last   *discovery.DiscoveryResponse
}

func (n *node) envoy() *envoy {
	n.t.Helper()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(n.dial()).StreamSecrets(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return &envoy{t: n.t, stream: stream, last: &discovery.DiscoveryResponse{}}
}

func (e *envoy) send(r *discovery.DiscoveryRequest) {
	e.t.Helper()
	r.Node, r.TypeUrl = &core.Node{Id: "envoy", Cluster: "test"}, secretType
	if err := e.stream.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

// ask subscribes to names, with the acknowledgement of what came last.
func (e *envoy) ask(names ...string) {
	e.t.Helper()
	e.send(&discovery.DiscoveryRequest{ResourceNames: names, VersionInfo: e.last.VersionInfo, ResponseNonce: e.last.Nonce})
}

// secrets takes the next response.
func (e *envoy) secrets() map[string]*tlsv3.Secret {
	e.t.Helper()
	r, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	if r.Nonce == e.last.Nonce || r.TypeUrl != secretType {
		e.t.Errorf("nonce %q after %q, type %q", r.Nonce, e.last.Nonce, r.TypeUrl)
	}
	e.last = r
	out := map[string]*tlsv3.Secret{}
	for _, a := range r.Resources {
		s := &tlsv3.Secret{}
		if err := a.UnmarshalTo(s); err != nil {
			e.t.Fatal(err)
		}
		out[s.Name] = s
	}
	return out
}

// want checks that secrets are these, and say what the SVID does.
func (e *envoy) want(x *SVID, names ...string) {
	e.t.Helper()
	got := e.secrets()
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, slices.Sorted(slices.Values(names))) {
		e.t.Fatalf("the secrets are %q, want %q", have, names)
	}
	for name, s := range got {
		if c := s.GetTlsCertificate(); c != nil {
			pair, err := tls.X509KeyPair(c.CertificateChain.GetInlineBytes(), c.PrivateKey.GetInlineBytes())
			if err != nil || !bytes.Equal(pair.Certificate[0], x.Certificate) {
				e.t.Errorf("%s: another certificate: %v", name, err)
			}
			continue
		}
		v := s.GetValidationContext()
		list, _ := pem.Decode(v.GetCrl().GetInlineBytes())
		if list == nil || !bytes.Equal(list.Bytes, x.CRL) {
			e.t.Errorf("%s: another list", name)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(v.GetTrustedCa().GetInlineBytes()) {
			e.t.Errorf("%s: no CA", name)
		}
		cert, err := x509.ParseCertificate(x.Certificate)
		if err != nil {
			e.t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
			e.t.Errorf("%s: %v", name, err)
		}
	}
}

// Envoy gets what it names, what follows that, and nothing for its
// acknowledgements.
func TestSecrets(t *testing.T) {
	i := newIssuer(t)
	first := i.svid()
	n := newNode(t, first)
	e := n.envoy()
	e.ask("default")
	e.want(first, "default")
	e.ask("default") // acknowledges
	e.ask("default", "ROOTCA")
	e.want(first, "default", "ROOTCA")
	version := e.last.VersionInfo
	e.ask("ROOTCA", "default") // the same in another order: acknowledges

	n.set(first, nil)
	second := i.svid()
	n.set(second, nil)
	e.want(second, "default", "ROOTCA")
	if e.last.VersionInfo == version {
		t.Error("another certificate has the version of the one before")
	}

	// Envoy refuses: the same is not sent again.
	e.send(&discovery.DiscoveryRequest{
		ResourceNames: []string{"default", "ROOTCA"}, VersionInfo: version, ResponseNonce: e.last.Nonce, ErrorDetail: &rpc.Status{Message: "no good"},
	})
	// A request that crossed the last response asks for nothing.
	e.send(&discovery.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}, VersionInfo: version, ResponseNonce: "1"})
	list := *second
	list.CRL = i.svid(7).CRL
	n.set(&list, nil)
	e.want(&list, "default", "ROOTCA")

	// The names that SPIFFE has.
	e.ask(first.ID, first.TrustDomain)
	e.want(&list, first.ID, first.TrustDomain)

	e.ask("spiffe://fleet.example/node/edge-2")
	_, err := e.stream.Recv()
	wantCode(t, "another node's", err, codes.InvalidArgument)
}

// All that there is, to who names nothing; and a second stream beside the first.
func TestAllSecrets(t *testing.T) {
	x := newIssuer(t).svid()
	n := newNode(t, x)
	a, b := n.envoy(), n.envoy()
	a.ask()
	a.want(x, "default", "ROOTCA")
	b.ask("ROOTCA")
	b.want(x, "ROOTCA")
}

// Nothing is sent that would have Envoy accept more than it should, or that is
// not for it.
func TestSecretsRefused(t *testing.T) {
	i := newIssuer(t)
	x := i.svid()
	x.CRL = make([]byte, MaxCRL+1)
	n := newNode(t, x)
	e := n.envoy()
	e.ask("default") // has no list in it
	e.want(x, "default")
	e.ask("default", "ROOTCA")
	_, err := e.stream.Recv()
	wantCode(t, "a long list", err, codes.ResourceExhausted)

	n.set(i.svid(), nil)
	n.denied.Store(true)
	e = n.envoy()
	_, err = e.stream.Recv()
	wantCode(t, "no rule", err, codes.PermissionDenied)
	n.denied.Store(false)

	// Nor who has a stream already and asks for more.
	e = n.envoy()
	e.ask("ROOTCA")
	e.want(n.svid, "ROOTCA")
	n.denied.Store(true)
	e.ask("ROOTCA", "default")
	_, err = e.stream.Recv()
	wantCode(t, "no rule any more", err, codes.PermissionDenied)
	n.denied.Store(false)

	n.set(nil, errNone)
	e = n.envoy()
	_, err = e.stream.Recv()
	wantCode(t, "no certificate", err, codes.Unavailable)
}

// Envoy that goes away takes its stream with it.
func TestEnvoyLeaves(t *testing.T) {
	n := newNode(t, newIssuer(t).svid())
	e := n.envoy()
	e.ask("default")
	e.want(n.svid, "default")
	if err := e.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := e.stream.Recv()
		done <- err
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("the stream goes on")
	}
}

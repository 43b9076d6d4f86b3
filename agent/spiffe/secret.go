package spiffe

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Names of secrets that every node has, beside its own and its trust domain's.
const (
	secretCertificate = "default"
	secretBundle      = "ROOTCA"
)

// secretDiscovery is Envoy's Secret Discovery Service.
type secretDiscovery struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	Config
}

// StreamSecrets sends the secrets that the last request names, when it asks for
// others and when they change (xDS protocol, state of the world).
func (d *secretDiscovery) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	requests, changes, ended := make(chan *discovery.DiscoveryRequest), make(chan *SVID), make(chan error, 2)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		ended <- d.follow(ctx, "StreamSecrets", func(x *SVID) error {
			select {
			case changes <- x:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() {
		cancel()
		<-followed
	}()

	var s subscription
	for {
		select {
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case s.svid = <-changes:
			s.due = true
		case r := <-requests:
			if _, err := d.allowed(ctx, "StreamSecrets"); err != nil {
				return err
			}
			if r.ErrorDetail != nil {
				d.Logger.Warn("Envoy does not take its secrets", "error", fmt.Sprintf("%.200q", r.ErrorDetail.Message))
			}
			s.ask(r)
		}
		if !s.asked || !s.due || s.svid == nil {
			continue
		}
		response, err := s.response()
		if err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

// A subscription is what a stream has asked for and been sent.
type subscription struct {
	svid  *SVID
	names []string
	asked bool
	due   bool // there is something to send
	nonce uint64
}

// ask takes a request. One that only acknowledges the last response, or refuses
// it, asks for nothing new; one to an earlier response is late.
func (s *subscription) ask(r *discovery.DiscoveryRequest) {
	if r.ResponseNonce != "" && r.ResponseNonce != strconv.FormatUint(s.nonce, 10) {
		return
	}
	names := slices.Sorted(slices.Values(r.ResourceNames))
	if !s.asked || !slices.Equal(names, s.names) {
		s.due = true
	}
	s.asked, s.names = true, names
}

func (s *subscription) response() (*discovery.DiscoveryResponse, error) {
	names := s.names
	if len(names) == 0 {
		names = []string{secretCertificate, secretBundle}
	}
	r := &discovery.DiscoveryResponse{TypeUrl: secretType, VersionInfo: s.svid.version()}
	for _, name := range names {
		one, err := s.svid.secret(name)
		if err != nil {
			return nil, err
		}
		a, err := anypb.New(one)
		if err != nil {
			return nil, err
		}
		r.Resources = append(r.Resources, a)
	}
	s.nonce++
	s.due, r.Nonce = false, strconv.FormatUint(s.nonce, 10)
	return r, nil
}

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// version names what an SVID says: other bytes, another version.
func (x *SVID) version() string {
	h := sha256.New()
	for _, part := range [][]byte{x.Certificate, x.Bundle, x.CRL} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (x *SVID) secret(name string) (*tls.Secret, error) {
	switch name {
	case secretCertificate, x.ID:
		return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
			CertificateChain: inline(pemOf("CERTIFICATE", x.Certificate)),
			PrivateKey:       inline(pemOf("PRIVATE KEY", x.Key)),
		}}}, nil
	case secretBundle, x.TrustDomain:
		if len(x.CRL) > MaxCRL {
			return nil, status.Errorf(codes.ResourceExhausted, "the X.509 CRL has %d bytes, of which Envoy gets at most %d: have chancery-agent x509 keep it in a file", len(x.CRL), MaxCRL)
		}
		bundle, err := pemBundle(x.Bundle)
		if err != nil {
			return nil, err
		}
		return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			TrustedCa: inline(bundle),
			Crl:       inline(pemOf("X509 CRL", x.CRL)),
		}}}, nil
	}
	return nil, status.Errorf(codes.InvalidArgument, "there is no secret %q; there are %q and %q, %q and %q", name, secretCertificate, x.ID, secretBundle, x.TrustDomain)
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// pemBundle is one PEM block for each certificate.
func pemBundle(der []byte) ([]byte, error) {
	certificates, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	var out []byte
	for _, c := range certificates {
		out = append(out, pemOf("CERTIFICATE", c.Raw)...)
	}
	return out, nil
}

package spiffe

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/chancery-pki/chancery/agent/local"
)

// An SVID is an X509-SVID with what verifies those of others. All but the IDs
// is DER.
type SVID struct {
	ID          string // SPIFFE ID of the node
	TrustDomain string // SPIFFE ID of its trust domain
	Certificate []byte
	Key         []byte // PKCS #8
	Bundle      []byte // certificates of the trust domain's issuers
	CRL         []byte
}

func (x *SVID) equal(other *SVID) bool {
	return other != nil && x.ID == other.ID && bytes.Equal(x.Certificate, other.Certificate) && bytes.Equal(x.Bundle, other.Bundle) && bytes.Equal(x.CRL, other.CRL)
}

// A Source is the agent, as this package sees it. Its method may be called
// concurrently.
type Source interface {
	// Follow calls look now and whenever the SVID may have changed, or who may
	// have it, until ctx ends or look returns an error; it returns that. An error
	// says why there is no SVID, which then is nil, or no newer one.
	Follow(ctx context.Context, look func(x *SVID, err error) error) error
}

// A Config says whom a server answers. All of it is required.
type Config struct {
	Source Source
	Allow  func(local.Caller) bool
	Logger *slog.Logger
}

// MaxCRL is how many bytes of a CRL are sent: a gRPC client takes a message of 4
// MiB unless told otherwise, and PEM, which Envoy gets, is a third longer.
const MaxCRL = 2800 << 10

const (
	// maxRequest bounds a message. The Workload API's are empty; Envoy tells all
	// that it is made of.
	maxRequest = 1 << 20
	// maxStreams bounds the streams of a connection.
	maxStreams = 16
	// idleTime ends connections without a stream.
	idleTime = 5 * time.Minute
)

// Serve answers programs at a socket of [local.Listen] until ctx ends, which is
// no error.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	g := grpc.NewServer(
		grpc.Creds(attestation{}), grpc.ConnectionTimeout(10*time.Second), grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(g, &workloadAPI{Config: c})
	secret.RegisterSecretDiscoveryServiceServer(g, &secretDiscovery{Config: c})
	stop := context.AfterFunc(ctx, g.Stop)
	err := g.Serve(l) // returns after Stop has
	if !stop() {
		return nil
	}
	return err
}

// attestation has the kernel say who connects (Workload API section 4.1). There
// is no TLS: the socket is the machine's own.
type attestation struct{}

func (attestation) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	caller, err := local.CallerOf(conn)
	return conn, attested{caller}, err
}

func (attestation) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

func (attestation) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "so_peercred"}
}

func (a attestation) Clone() credentials.TransportCredentials { return a }

func (attestation) OverrideServerName(string) error { return errors.ErrUnsupported }

type attested struct{ local.Caller }

func (attested) AuthType() string { return "so_peercred" }

// allowed tells whether a rule names the caller, at this moment.
func (c *Config) allowed(ctx context.Context, method string) (caller string, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", status.Error(codes.Internal, "nobody calls")
	}
	a, ok := p.AuthInfo.(attested)
	if !ok {
		return "", status.Error(codes.Internal, "the caller is not attested")
	}
	if !c.Allow(a.Caller) {
		c.Logger.Warn("program refused", "caller", a.String(), "method", method)
		return "", status.Error(codes.PermissionDenied, "no rule allows "+a.String())
	}
	return a.String(), nil
}

// follow sends the caller each SVID that differs from the one before, for as
// long as a rule names him.
func (c *Config) follow(ctx context.Context, method string, send func(*SVID) error) error {
	if _, err := c.allowed(ctx, method); err != nil { // before anybody works for him
		return err
	}
	var sent *SVID
	err := c.Source.Follow(ctx, func(x *SVID, err error) error {
		caller, denied := c.allowed(ctx, method)
		switch {
		case denied != nil:
			return denied
		case x == nil:
			c.Logger.Warn("a program got no X.509 certificate", "caller", caller, "method", method, "error", err)
			return status.Error(codes.Unavailable, err.Error())
		case x.equal(sent):
			return nil
		}
		sent = x
		c.Logger.Debug("X.509 certificate for a program", "caller", caller, "method", method)
		return send(x)
	})
	if _, ok := status.FromError(err); !ok {
		err = status.FromContextError(err).Err()
	}
	return err
}

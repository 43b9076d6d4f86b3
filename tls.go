package chancery

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// ALPN is the protocol that nodes speak to each other.
const ALPN = "chancery/1"

// An Identity is what a node presents in a TLS handshake.
type Identity struct {
	// Session is the session certificate's DER, or nil where Key is N:SK
	// itself.
	Session []byte
	NC      *Certificate
	Key     crypto.Signer
}

// tlsCertificate returns the certificate message of section 7: the session
// certificate, then N:C.
func (id *Identity) tlsCertificate() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: id.Key}
	if id.Session != nil {
		c.Certificate = append(c.Certificate, id.Session)
	}
	c.Certificate = append(c.Certificate, id.NC.Raw())
	return c
}

// TLSOptions configure both sides of a connection between nodes. All three
// functions are called once a handshake and must be safe for concurrent use.
type TLSOptions struct {
	Verifier *Verifier
	Identity func() (*Identity, error) // the identity to present now
	Now      func() time.Time
	Policy   Policy
	Self     NodeID
	// NextProtos replaces [ALPN], for programs that speak another protocol
	// over the connection.
	NextProtos []string
}

// ServerConfig returns the configuration of the side that is dialled. Peers
// without a good N:C do not get through the handshake.
//
// A *tls.Config cannot end a connection that it let in. Whoever needs
// revocation to cut live sessions uses package mesh, which keeps them.
func ServerConfig(o TLSOptions) *tls.Config {
	c := o.base("")
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.certificate() }
	return c
}

// ClientConfig returns the configuration of the side that dials the node of
// the name want.
//
// The handshake returns on this side before the other side has judged; data
// must not be believed delivered before the peer has said something. Package
// mesh waits for it.
func ClientConfig(o TLSOptions, want string) *tls.Config {
	c := o.base(want)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.certificate() }
	// The peer is judged by VerifyConnection, not by a chain to a root.
	c.InsecureSkipVerify = true
	return c
}

func (o *TLSOptions) base(want string) *tls.Config {
	protos := o.NextProtos
	if protos == nil {
		protos = []string{ALPN}
	}
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		NextProtos:       protos,
		Time:             o.Now,
		// Resumption would skip the checks for a peer that is revoked since.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := o.VerifyConnection(cs, want)
			return err
		},
	}
}

func (o *TLSOptions) certificate() (*tls.Certificate, error) {
	id, err := o.Identity()
	if err != nil {
		return nil, err
	}
	return id.tlsCertificate(), nil
}

// VerifyConnection judges the peer of a connection. The configurations call
// it within the handshake, before the peer has proven possession of its TLS
// key: nothing may be registered there. Call it again on the finished
// connection to learn who the peer is.
func (o *TLSOptions) VerifyConnection(cs tls.ConnectionState, want string) (*Peer, error) {
	var reason error
	switch {
	case cs.DidResume:
		reason = ErrResumed
	case cs.Version != tls.VersionTLS13:
		reason = ErrNotTLS13
	case cs.NegotiatedProtocol == "":
		reason = ErrProtocol
	}
	if reason != nil {
		return nil, &RefusedError{Check: CheckChannel, Reason: reason}
	}
	return o.Verifier.Verify(rawCertificates(cs.PeerCertificates), want, o.Self, o.Policy, o.Now())
}

func rawCertificates(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	return raw
}

// PinnedConfig returns a client configuration for a connection to a
// coordinator endpoint: TLS 1.3 to a server whose key the pointer record
// names. The name in the server's certificate does not matter. identity, if
// not nil, is what the node presents: a renewal is made under its current N:C.
func PinnedConfig(ep Endpoint, identity func() (*Identity, error)) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		CurvePreferences:   []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		InsecureSkipVerify: true, // judged by VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return fmt.Errorf("%w: no certificate", ErrNotOurCoordinator)
			}
			return ep.check(cs.PeerCertificates[0])
		},
	}
	if identity != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			id, err := identity()
			if err != nil {
				return nil, err
			}
			return id.tlsCertificate(), nil
		}
	}
	return c
}

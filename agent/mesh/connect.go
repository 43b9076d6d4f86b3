package mesh

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
)

// Connect returns the node that this program runs on, by the socket at which
// the agent serves programs; empty is [local.DefaultSocket]. It needs neither
// the chip nor the agent's files, and keeps what the node trusts, and a session
// key of its own, up to date until the node is closed.
//
// Of the configuration, Verifier, Identity, Self and OnNewerCRL are the agent's
// and must not be set.
func Connect(ctx context.Context, socket string, c Config) (*Node, error) {
	if c.Verifier != nil || c.Identity != nil || c.Self != (chancery.NodeID{}) || c.OnNewerCRL != nil {
		return nil, errors.New("mesh: verifier, identity, self and the way to a newer CRL are the agent's to say")
	}
	if socket == "" {
		socket = local.DefaultSocket
	}
	c.setDefaults()
	agent, err := local.Connect(ctx, socket, c.Now, c.Logger)
	if err != nil {
		return nil, err
	}
	c.Verifier, c.Identity, c.Self, c.OnNewerCRL = agent.Verifier(), agent.Identity, agent.Self(), agent.Refresh
	n, err := New(c)
	if err != nil {
		agent.Close()
		return nil, err
	}
	agent.OnChange(func() { n.Recheck() })
	n.Recheck() // what came in between
	n.agent = agent
	return n, nil
}

// ServerConfig returns a TLS configuration for programs that do TLS themselves,
// as the side that is dialled; protos are the protocols of ALPN, by default
// [chancery.ALPN]. Peers without a good N:C do not get through the handshake.
//
// What it cannot do: a TLS configuration does not end a connection that it let
// in, so a peer that is revoked keeps what he has until the program closes it,
// and the dialler's handshake returns before he was judged. [Node.Listen] does
// both. Whoever uses the configuration limits the life of connections, and calls
// [Node.VerifyConnection] again where it matters.
func (n *Node) ServerConfig(protos ...string) *tls.Config {
	return chancery.ServerConfig(n.options(protos))
}

// ClientConfig is likewise for the side that dials the node called want.
func (n *Node) ClientConfig(want string, protos ...string) *tls.Config {
	return chancery.ClientConfig(n.options(protos), want)
}

// VerifyConnection judges the peer of a connection that one of the two
// configurations made, at this moment. want is the name that was dialled, or
// empty.
func (n *Node) VerifyConnection(cs tls.ConnectionState, want string) (*chancery.Peer, error) {
	o := n.options(nil)
	return o.VerifyConnection(cs, want)
}

func (n *Node) options(protos []string) chancery.TLSOptions {
	c := &n.config
	return chancery.TLSOptions{Verifier: c.Verifier, Identity: c.Identity, Now: c.Now, Policy: c.Policy, Self: c.Self, NextProtos: protos}
}

// Package mesh opens sessions between the nodes of a fleet and keeps watch
// over them: each end knows who is at the other, and a session ends as soon as
// its peer is revoked.
//
// Programs start with [Connect], which has the agent of the machine say who they
// are and whom to believe; [New] is for whoever holds all of that himself. A
// [Node] dials and listens:
//
//	session, err := node.Dial(ctx, "tcp", "10.0.0.7:7443", "edge-2")
//	listener, err := node.Listen("tcp", ":7443")
//
// A [Session] is a [net.Conn] with a [Session.Peer]; a [Listener] is a
// [net.Listener]. For HTTP there are [ConnContext], [PeerFromContext] and
// [Node.Transport]; for programs that do TLS themselves, HTTP/2 and gRPC among
// them, [Node.ServerConfig] and [Node.ClientConfig], with what they cannot do.
//
// # Opening
//
// TLS 1.3 is mutual, and both sides make the checks of docs/protocol.md
// section 7. The dialler's handshake returns before the responder has judged
// the dialler, so the responder says so in one byte when it has, and
// [Node.Dial] waits for it. On both sides a session is registered first and
// its peer's serial looked up once more after that, before the byte: a
// revocation that slips in between finds the session either way.
//
// A peer whose certificate is newer than the CRL held is neither good nor
// bad. [Config.OnNewerCRL] fetches the current list; Dial then tries once
// more, and a listener leaves it to the dialler to come back.
//
// # Ending
//
// Sessions end when the peer's N:C does, after [Config.MaxSession], when a
// CRL or pointer record comes that the peer does not survive (call
// [Node.Recheck] after every update of the verifier), and when the CRL goes
// stale and its grace is over. The connection is closed at once, under
// whatever Read or Write is blocked on it. [Session.Done] tells when,
// [Session.Err] why.
//
// # Failure
//
// [*chancery.RefusedError] means that this node refused the peer, and by which
// check. [*RefusedByPeerError] means that the peer refused this node; it does
// not say why, so that strangers cannot ask. A peer that hangs up first is
// [ErrNotReady]. A [Listener] counts and logs refusals and never returns them
// from Accept; see [Node.Stats].
//
// # Guests
//
// Other protocols can share a listener's port, see [Guest].
//
// # Strangers
//
// Anybody can connect. A connection has ten seconds for its handshake, and a
// listener has 256 of them under way at most; while others wait, those that
// take longer than a second give way. Strangers cause no more than one fetch of
// the CRL in ten seconds, and one line of log a second for each kind of refusal.
package mesh

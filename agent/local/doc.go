// Package local is how programs have a share in the identity of the node that
// they run on, without the chip and without the agent's files.
//
// Programs use package mesh, whose Connect is made of [Connect]. The agent
// serves a Unix socket with [Serve]:
//
//	GET  /v1/trust?pointer=N&crl=N&wait=N -> Trust
//	POST /v1/refresh   has the agent fetch a newer CRL now
//	POST /v1/session   SessionRequest     -> Session
//
// Trust is the fleet, and what is newer than the pointer record and CRL of those
// numbers; with wait, the answer takes up to so many seconds until something
// is. A session is certified by N:SK in the chip for a key that the program made
// and keeps: no private key crosses the socket.
//
// # Who may
//
// Whoever speaks to the socket as the node is the node, to all of its peers. So
// a caller is attested by the kernel, as [Caller], and answered only if a
// [Rule] names it. The agent's own user may always.
//
// # Failure
//
// A program goes on with what it has while the agent is away: until its session
// certificate ends for new connections, and until the CRL is stale and its grace
// over for all. [Connect] fails if there is no agent, or none that answers this
// program.
package local

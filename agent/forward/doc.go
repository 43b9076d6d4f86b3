// Package forward carries connections of programs that know nothing of the
// fleet over sessions of nodes that do.
//
// Start with [NewForward] at the side that dials and [NewExpose] at the side
// that is dialled:
//
//	psql -> 127.0.0.1:5432 -> forward -- session --> expose -> 127.0.0.1:5432 -> postgres
//
// Each connection has a session of its own, so what ends a session ends the
// connections of that peer, at once. A [Relay] that exposes something lets in
// whom its [Rules] allow, and nobody without any.
//
// # Ends
//
// The end of one direction is passed on and leaves the other one open. A
// failure, a revocation among them, is a reset at both programs: neither takes
// what it has for all there was. Bytes that one side does not take are not
// read from the other.
//
// # Limits
//
// [Limits] bound connections, the time to connect, and silence. Too many
// connections are reset, so that a program sees at once that it is refused.
package forward

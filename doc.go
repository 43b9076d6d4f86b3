// Package chancery is the protocol: what a coordinator and the nodes of a
// fleet say to each other, and how each of them judges what it is told.
// docs/protocol.md specifies it; comments cite its sections.
//
// The package is pure. It has no clock, disk, network, HSM, TPM or database:
// time is an argument, keys are behind [Signer], bytes come in and go out.
//
// Read it in the order of the protocol:
//
//   - key.go, statement.go: keys, signatures, and what may be signed
//   - genesis.go, pointer.go, rollover.go: the fleet, its CA keys, CA:S
//   - enroll.go, token.go, messages.go: CA:N:S and N:S, and how they travel
//   - certificate.go: N:C, a Merkle Tree Certificate (package merkle)
//   - audit.go: what the audit log says
//   - crl.go, crldelta.go, crlhead.go, crlread.go, indexset.go, indexmap.go,
//     reason.go: the CRL
//   - anchor.go: what a node must not go back behind
//   - session.go, tlskey.go: the TLS key of the hour, certified by N:SK, or
//     N:SK itself
//   - x509cert.go, x509crl.go: the same for software that knows X.509 only
//   - verify.go, witness.go, tls.go: the checks in their order, and crypto/tls
//
// A program that wants to know who is at the other end needs a [Verifier] and
// [ServerConfig] or [ClientConfig]; one that also wants live sessions to end on
// revocation uses package agent/mesh.
//
// # Bytes
//
// Every artefact has exactly one encoding. Whatever is parsed is serialised
// again and compared, sizes are checked before memory is taken, and parsing
// verifies nothing: the methods named Verify do.
//
// # Failure
//
// Every refusal wraps one of the package's Err values. A peer's refusal is a
// *[RefusedError], which also names the [Check].
package chancery

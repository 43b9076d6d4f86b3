// Package spiffe gives programs the node's identity as SPIFFE has it, so that
// those that know SPIFFE already, or Envoy, work unchanged.
//
// [Serve] answers two gRPC services at one Unix socket:
//
//   - the SPIFFE Workload API, X.509-SVID profile: FetchX509SVID and
//     FetchX509Bundles (SPIFFE_Workload_API.md sections 4 and 5). The other
//     profiles are Unimplemented (section 2).
//   - Envoy's Secret Discovery Service, version 3, state of the world:
//     StreamSecrets. A certificate is the secret "default", or that of the
//     node's SPIFFE ID; the trust bundle with the CRL is "ROOTCA", or that of
//     the trust domain's ID.
//
// Both stream: whenever the certificate or the CRL changes the next one is sent.
// The SVID is the X.509 certificate that accompanies N:C (docs/protocol.md
// section 6.8), and all programs of a node have the same one, with its key.
//
// # Who may
//
// Callers are attested and allowed as in package local. Who loses the rule that
// allowed him gets nothing more, but keeps the key that he had until the
// certificate ends.
//
// # Failure
//
// Workload API (section 4): PermissionDenied if no rule names the caller;
// InvalidArgument without the header that says that no proxy was fooled;
// Unavailable if there is no certificate at present, which clients try again.
// A CRL of more than [MaxCRL] bytes is left out of the Workload API's answers,
// where it is optional, and is ResourceExhausted for Envoy, which would accept
// revoked peers without it.
package spiffe

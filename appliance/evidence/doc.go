// Package evidence judges what a node shows of its chip: once, when the node
// enrols, and again whenever somebody wants to know on what a certificate
// rests.
//
// Start with [Parse], which turns an initial connection into a [Claim]. Its
// methods are the links of the chain in the order of docs/protocol.md sections
// 4.2 and 4.6: [Claim.Possession], [Claim.KeyArea], [Claim.Standing] before
// CA:N:S is signed, [Claim.Prove] when the chip has answered. They are pure:
// time and trust are arguments, nothing is fetched.
//
// A [Record] is all that was said, stored with the certificate.
// [Record.Verify] goes through the same methods in the same order, without the
// coordinator that issued it.
//
// # Failure
//
// Every refusal is a [*tpm.EvidenceError] that names the link at which the
// chain broke: one of package tpm's, or of this one's.
package evidence

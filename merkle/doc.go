// Package merkle implements Merkle Tree Certificates: X.509 certificates
// that prove their place in a CA's append-only log, so that one signature
// over a subtree of the log certifies everything in it.
//
// A relying party starts with [ParseCA] and [ParseCertificate], and then asks
// [CA.Verify]. A CA starts with a [Tree]: it appends the [HashLeaf] of a
// [MarshalEntry], signs a [CosignedMessage] over a [Smallest] subtree that
// holds the new entries, and hands out what [MarshalCertificate] makes of the
// entry, its [Serial] and its [Proof].
//
// The package knows any Merkle Tree CA, not only Chancery's. It has no clock,
// disk or network. Hashes are SHA-256; CA cosigners are ECDSA P-256 with
// SHA-256 and ECDSA P-384 with SHA-384. The revision of the draft that is
// implemented, and all of its numbers, are in draft.go.
//
// # Bytes
//
// Whatever is parsed has exactly one encoding: DER with minimal lengths, no
// trailing bytes, cosigners in order and once. Marshalling what was parsed
// gives the same bytes, except for CA certificates, which may say more than a
// [CA] holds. Parsed values keep slices of the input; the caller
// must not change it afterwards. Sizes are checked before memory is taken
// ([MaxCertificateSize], [MaxEntrySize]).
//
// A certificate's identity is its issuer and serial. Its proof is not part of
// the identity: the same entry may be proven in another subtree, and an ECDSA
// signature may be restated in other bytes.
//
// # Failure
//
// Every refusal wraps one of the Err values of this package. Whoever must
// tell "this file is something else" from "this certificate is damaged or
// forged" asks [IsNotCertificate].
package merkle

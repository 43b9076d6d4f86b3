// Package tpm keeps a node's key in a TPM 2.0, and judges what TPMs say.
//
// The package has two halves that share only the arithmetic of names and
// policies (policy.go, area.go).
//
// # The node's half
//
// Start with [Open], which returns the [TPM]: the one owner of a chip. It
// knows the chip's [TPM.EK], makes the attestation key [TPM.AK], and creates
// N:SK with [TPM.CreateKey] into a [KeyFile]. [TPM.LoadKey] turns a key file
// into a [Key], which is a chancery.Signer. [TPM.CertifyCreation],
// [TPM.Quote], [TPM.CertifyEpoch] and [TPM.Activate] make the evidence of an
// enrolment.
//
// # The coordinator's half
//
// Pure functions; no chip is needed. Start with [ParseAttestationKey]: every
// attestation is verified by a method of the [AttestationKey] that it parsed,
// so that a key that is not a restricted one can never be asked.
// [ParseEndorsementKey] makes credentials and [ParseEKCertificate] follows a
// chip to its manufacturer. [ParseNodeKey] checks N:PK's attributes, and a
// [Seal] computes every policy that the coordinator approves. Refusals are
// [*EvidenceError].
//
// # Sealing
//
// A sealed N:SK signs in two cases (docs/protocol.md section 4): while the
// PCRs and the epoch are those of its creation (branch A), or under an
// approval for newer values that the fleet's approval key signed (branch B).
// The epoch is a counter in the chip that only approvals move
// ([TPM.ApplyEpoch]); raising it retires all approvals for lower epochs. A
// policy session that was satisfied before the increment lives until the next
// TPM reset, so an epoch is closed only when an attestation shows the new
// value and a higher resetCount.
//
// # Hierarchies
//
// The package uses the owner and endorsement hierarchies with empty
// authorization and does not set any. Setting ownerAuth and lockoutAuth is the
// operator's: without the first anybody on the machine can undefine the epoch
// counter, without the second anybody can TPM2_Clear. Both destroy the node's
// key and neither gives it away. Set ownerAuth after enrolment: by then the
// storage root key, the attestation key and the counter are persistent and
// the agent does not need it, except to make an epoch counter anew.
//
// # Failure
//
// A chip that cannot do a command now, because it is busy, saves its flash
// memory or is short of working memory, is asked again for two minutes. One
// that does not answer, or is busy for longer, ends the [TPM] with
// [ErrTimeout]; a connection that is lost ends it with [ErrClosed]. After that
// open it anew. Nothing else ends it: what a failed operation could not take
// out of the chip is taken out before the next one.
//
// Whoever waits for the chip need not: the context of [Key.Sign] and
// [TPM.Close] end the waiting.
//
// Answers carry no checksum. So those by which something is chosen for good,
// kept, or shown to the coordinator are under a session's HMAC, carry a hash or
// signature of their own, or are read twice: else [ErrDamaged].
//
// Refusals of the chip are go-tpm's tpm2.TPMRC, wrapped; those that are about
// the chip and not about the command are [ErrLockout], [ErrMemory] and
// [ErrFailure] as well. Errors that a person can act on have a method Hint.
package tpm

// Package papertpm is a TPM on paper: endorsement key, attestation key and
// node keys are software keys in memory, and every answer is the structure
// that a TPM 2.0 would give. A coordinator that judges the evidence cannot
// tell it from a chip, but for who issued its EK certificate.
//
// Start with [NewMaker], a manufacturer, whose [Maker.Roots] the coordinator
// has to believe, and [Maker.New], which makes a [Chip]. A Chip has the methods
// of a tpm.TPM that an applicant uses, under the same names.
//
// # What it is for
//
// Load: a hundred thousand enrolments at one coordinator, from one process. A
// chip and all that it does in an enrolment take under a millisecond, three
// with an RSA endorsement key. To make an swtpm alone takes six hundred, and a
// process.
//
// A second opinion: public areas, creation data and attestations are composed
// by the types of github.com/google/go-tpm, policies by its calculator, and
// credentials are opened by this package's own key derivation. Of package tpm
// it takes types and errors, not arithmetic, so what tpm accepts here are not
// its own mistakes.
//
// # What it is not
//
// Nothing protects the keys, and those of RSA endorsement keys can be computed
// from two chips of one maker (see the file primes.go). There are no commands,
// sessions, passwords or NV indexes but the epoch counter, and a paper chip is
// never busy or locked out. For those there is package simulator/swtpm.
package papertpm

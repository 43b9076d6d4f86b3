// Package share splits a secret among n custodians, any k of whom bring it
// back.
//
// It is for a secret that no single person should have, and that must outlive
// each of them: the user PIN of a token, the key that wraps a backup of CA:SK.
// Start with [Split]. A [Share] goes to its custodian as the text of
// [Share.Reveal], comes back through [Parse], and [Combine] takes k of them.
//
// # Scheme
//
// What is shared is not the secret but a scalar drawn at random for it: by
// Shamir's scheme over the scalar field of P-256, from circl's secretsharing.
// HKDF-SHA-256 (RFC 5869) derives a key from the scalar and the random
// identifier of the set, and AES-256-GCM seals the secret under it. What is
// sealed is bound to the purpose, k, n, the set and the commitments; each share
// carries all of that, with a point of the polynomial of its own.
//
// The commitments are Feldman's: every coefficient of the polynomial times the
// generator. They show of each share whether it lies on the polynomial, so
// that a wrong one is named, before anything is opened with it. One honest
// share among those that are combined is enough for this: its commitments
// admit one scalar, and the scalar one secret, so that whatever the others do,
// the outcome is the secret that was split or an error. A wrong PIN would cost
// one of a token's few tries.
//
// # What it protects
//
// Fewer than k custodians learn the length of the secret from their shares,
// and its purpose; not the secret, and nothing to test guesses against.
// Without commitments Shamir's scheme would hide the scalar from any computing
// power. With them it hides it from those who cannot compute discrete
// logarithms on P-256; a commitment to the PIN itself would fall to guessing,
// one to 256 random bits does not. Who can compute them, such as somebody with
// a large quantum computer, reads the secret out of a single share, also one
// that was copied years before: change the secret, and destroy old shares,
// before that day.
//
// # What it does not
//
// Any k custodians together know the secret, for ever; new shares of the same
// secret do not change that, a new secret does. The machine that splits or
// combines sees it whole. Shares are not signed: any one person can make a set
// of shares, and k custodians together can make one that opens to a secret of
// their choice. Nothing tells afterwards whose shares were used.
//
// circl's arithmetic on scalars of P-256 takes a time that depends on their
// values. Split and Combine are made for a ceremony on a machine of one's own,
// not for a service that others can measure.
//
// # Memory
//
// Secrets and shares are byte slices, so that they can be overwritten: with
// clear, and with [Share.Wipe]. The package overwrites the key, the encodings
// and the scalars that it holds itself. It cannot reach the copies that circl
// and math/big compute with, nor the key schedule of AES; those stay in memory
// until it is used again. Combine on a machine that is switched off afterwards.
//
// # Failure
//
// Each refusal has a type: of the text [*TypoError] and [*FormatError], which
// are [chancery.ErrMalformed]; of shares that do not belong together
// [*MixedError], [*AlteredError], [*WrongShareError], [*DuplicateError] and
// [*TooFewError]; of a split [*ThresholdError], [*SecretError] and
// [*PurposeError]. All of them have a method Hint, and none repeats any part of
// a share's value.
package share

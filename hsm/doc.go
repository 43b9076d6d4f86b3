// Package hsm signs with keys that never leave a PKCS#11 token.
//
// Start with [Open]: it takes a PKCS#11 URI (RFC 7512) and returns a [Token];
// [Token.Key] finds a key on it, and a [Key] is a [chancery.Signer]. It takes
// statements, hashes them in the host and hands the token nothing but digests
// of them (CKM_ECDSA, PKCS#11 2.40 section 2.3.6): tokens disagree about the
// mechanisms that hash, and all of them have this one.
//
// # Sessions
//
// PKCS#11 lets a session run one operation at a time. A Token opens its
// sessions once and pins them; a signature borrows one, and who finds none
// idle waits, for as long as the context allows. A call that is inside the
// module cannot be interrupted: PKCS#11 has no time limits, and a context that
// ends meanwhile does not bring the call back.
//
// C_Initialize counts per process and module, so a process has at most one
// Token, or one ceremony, open on a module at a time; a second one is
// [ErrModuleInUse].
//
// # PIN
//
// The PIN comes from a file or a systemd credential, never from the URI or an
// argument. Open logs in once, and only if the token's flags say that nobody
// has spent a try on a wrong PIN before. A refused PIN is a [*PINError], and
// nothing in this package ever tries it again: a program that is persistent
// locks a token that counts to three.
//
// # Ceremony
//
// [Generate] and [Inventory] are for the day a key is made and for auditors.
// They open the token, do their work and close it; no Token may be open
// beside them. [FindModules] looks for PKCS#11 modules on this machine.
//
// # Failure
//
// A PKCS#11 function that fails is an [*Error]. Few codes leave the module
// usable; after all others [Error.Dead] holds, and from then on the Token
// fails at once, until it is closed and opened anew: object handles, sessions
// and the login are gone, and a module answers with the same error for ever,
// also when its device is back. No signature leaves the package unverified;
// one that does not verify is a [*FaultError], and ends the Token too.
//
// Errors that a person can do something about have a method Hint.
package hsm

// Package hsm signs with keys that never leave a PKCS#11 token.
//
// A service starts with [OpenPool]: it takes tokens and the keys that they
// hold, and [Pool.Key] returns a [PoolKey], a [chancery.Signer] that waits for
// a token rather than fail. Tests, benchmarks and ceremonies, which do without
// the processes, start with [Open]: a [Token] whose [Key] fails with the
// module. Both name tokens by PKCS#11 URI (RFC 7512, [ParseURI]).
//
// Signers take statements, hash them in the host and hand the token nothing but
// digests of them (CKM_ECDSA, PKCS#11 2.40 section 2.3.6): tokens disagree
// about the mechanisms that hash, and all of them have this one.
//
// # Signer processes
//
// A vendor's module is a guest that may crash its host, hang it, or keep
// answering with the same error for ever. So a pool gives each token a process
// of its own: this program, started again ([SignerProcess]), which loads the
// module, reads the PIN, logs in once and signs what comes over a socket.
// Requests travel in batches: what arrives while one is written makes up the
// next.
//
//	Pool ── member ── process ══ socket ══ worker ── Token ── module ── device
//
// # Identity before trust
//
// A process comes into service when its token is the one that the URI names, by
// label and serial number; its keys are the pinned ones, else it is a
// [*WrongKeyError]; and each of them has signed a challenge. No signature leaves
// the package unverified.
//
// # Failure
//
// A PKCS#11 function that fails is an [*Error]. Some codes are known to pass,
// and the same session or a new one tries again: a session that the device
// dropped, a device that is throttled. Few others blame the request alone; after
// all the rest [Error.Dead] holds: handles, sessions and login are gone, and a
// module answers the same for ever, also when its device is back. A [Token] then
// fails at once, until it is closed and opened anew.
//
// A pool knows no request that is at fault. After any error it ends the process
// and starts another, at once and then with pauses; likewise after a crash
// ([*CrashError]), a signature that does not verify ([*FaultError]), and a
// silence longer than the deadline ([*TimeoutError]), which it breaks with
// SIGKILL. What the process had is signed by another token, or by the next
// process: the same digest, so nothing is signed with other content. A token
// that is late is passed by long before its deadline, if there is another.
//
// # Several tokens
//
// Tokens with the same keys share the load: a request goes to the one that will
// be done first, by what signatures took lately and what it has to do already.
// Tokens may also be there for different keys. [Pool.Status] tells how each is.
//
// # Sessions
//
// PKCS#11 lets a session run one operation at a time, and devices count
// sessions, drop idle ones, and keep those of a process that was killed. A token
// opens its sessions once and pins them; one that has fewer is used with those;
// idle ones are used for a challenge now and then. A call that is inside the
// module cannot be interrupted: PKCS#11 has no time limits.
//
// C_Initialize counts per process and module, so a process has at most one
// Token, or one ceremony, open on a module at a time; a second one is
// [ErrModuleInUse].
//
// # PIN
//
// The PIN comes from a file or a systemd credential, never from the URI or an
// argument. There is one login for each process and token, and only if the
// token's flags say that nobody has spent a try on a wrong PIN before. A refused
// PIN is a [*PINError], and is remembered on disk ([Latch]): nobody who starts
// again by himself tries it a second time, until a person says so.
//
// # Ceremony
//
// [OpenCeremony] is for the day a key is made and for auditors; [Backup] and
// [Restore] move a key that was made for it. They do their work in this process;
// no Token may be open beside them. [FindModules] looks for PKCS#11 modules on
// this machine.
//
// Errors that a person can do something about have a method Hint.
package hsm

// Package chip gives a TPM in software the speed and the moods of a real one.
//
// Start with [New]. It puts a socket in front of an swtpm: a program that opens
// [Chip.Device] instead, with package tpm or with any other library, finds the
// same keys, counters and PCRs in a chip that is as slow as its [Model], that
// is busy now and then, and that fails as [Chip.Inject] says. The program need
// not know.
//
// # Speed
//
// A [Model] says how long a chip takes for a command, all in all; [Find] knows
// some of real chips. The answer is held back until that time is over, so no
// model is faster than the swtpm on this machine. A command that the chip
// refuses takes [Latency.Other], whatever it was.
//
// # Moods
//
// A busy chip refuses a command with TPM_RC_RETRY and expects it again (TPM 2.0
// Part 2, section 6.6.3). How often, is [Model.Busy]: never for the zero Model,
// one command in twenty for the named ones. The environment variable SIM_CALM
// makes every chip calm. The same seed and the same commands give the same
// refusals.
//
// # Faults
//
// Each command is counted ([Chip.Calls]) and can be given faults ([Fault]):
// response codes, delays, silence, answers with a wrong bit, and connections
// that end before or after the chip has done what it was told.
//
// # The bus
//
// Between a discrete chip and its processor are a few wires. [Chip.Listen] and
// [Chip.Wire] are somebody who has a probe at them, [Chip.RewriteCommands] and
// [Chip.RewriteAnswers] somebody who has cut them and sits in between.
//
// # One owner
//
// The connection to the swtpm is opened when an owner connects, and closed with
// the owner's. As at the swtpm itself, the command of a second owner waits until
// the first one has gone, and what that one left in the chip is still there.
//
// # What it does not do
//
// The chip says of itself that it is an swtpm, whatever its model. It keeps
// time by the kind of the command and looks at keys only to tell RSA from
// elliptic curves, where one is made: P-384 is as fast as P-256, and a signature
// of an RSA key is as fast as ECDSA.
package chip

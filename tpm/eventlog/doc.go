// Package eventlog reads the log of a machine's measured boot, and tells what
// it replays to.
//
// Before firmware and boot loader use a thing they extend a PCR with its
// digest, and write down what it was. That log is specified in the TCG PC
// Client Platform Firmware Profile (PFP, revision 1.06), section 10; Linux
// shows it as /sys/kernel/security/tpm0/binary_bios_measurements. A PCR is one
// hash over a whole boot; the log is what says which step of it is new.
//
// Start with [Parse]. [Log.Verify] compares what the log replays to with PCRs
// that a quote vouches for, after which [Log.SecureBoot] and [Event.Verified]
// mean something. Only the SHA-256 bank is read.
//
// # Trust
//
// Nobody signs the log; who sends it may have written it. When Verify agrees
// with quoted values, then the events of those PCRs, their number, their order
// and their digests are what the chip was told. These are not:
//
//   - data, except where [Event.Verified] holds;
//   - types, which no digest covers: somebody may have renamed an event, and
//     have extended another after boot that bears the name of the first;
//   - events of type [NoAction], which no PCR covers;
//   - events of PCRs that were not among the values.
//
// Judge digests, not descriptions. Data and names are somebody else's bytes:
// quote them before they reach a terminal.
//
// # What a log explains
//
// The log ends when the firmware hands over. A PCR that somebody extends
// later does not replay: PCR 10 holds what IMA measured, and PCRs 11 and 15
// what systemd measured in user space, each with a log of its own. Kernels
// that do not read the table of final events leave out the end of boot
// services, and PCR 5 does not replay either.
//
// # Strictness
//
// A log is read whole or refused: there is no skipping and no resynchronizing.
// Every event has one digest of each algorithm that the first event announced
// (PFP section 10.1), PCRs are below [PCRs], the last event ends where the
// log ends. Firmware keeps its log in a larger area that is filled up with
// 0xff or zeros; Linux shows the log without that padding, so a log with
// padding is refused. Limits are checked before anything is allocated: 1 MiB,
// 16384 events, 16 algorithms, 64 KiB of data in an event.
package eventlog

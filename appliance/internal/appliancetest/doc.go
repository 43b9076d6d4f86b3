// Package appliancetest gives tests a coordinator without its command line.
//
// Start with [New]: a store in a file, CA:SK and the approval key in a SoftHSM
// token, the ledger and the authority over them, and a clock that tests set
// forward. [NewNode] is the other end, a node with a real chip.
//
// # Faults
//
// A [Signer] stands before CA:SK. It counts what is signed, so that a test can
// tell that a refused request cost no operation in the token, and it refuses or
// waits where a test says so. [Break] makes the store fail at one write.
//
// # Invariants
//
// [Check] holds a log against everything that it promises to anybody. Tests
// call it after each step.
package appliancetest

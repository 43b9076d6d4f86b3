// Package swtpm manufactures and runs software TPMs.
//
// Start with [Manufacture], which does to a directory what a vendor does to a
// chip: it creates the TPM's state, generates its endorsement keys and
// certifies them with a manufacturer CA. [Start] then powers the chip on and
// returns a [Process], whose Device is what package tpm opens.
//
// # Power
//
// [Process.Stop] is an orderly power-off: it sends TPM2_Shutdown(CLEAR) first.
// [Process.Kill] is the plug being pulled. [Process.Restart] is a power cycle:
// what is in NV stays, PCRs and loaded objects are gone, resetCount rises.
//
// # One client
//
// An swtpm serves one connection at a time; a second client's command waits
// until the first client has closed. There is no resource manager.
//
// # Trust
//
// A TPM made here protects nothing: its secrets are in a file. Its
// manufacturer's root belongs into the trust store of a laboratory only.
package swtpm

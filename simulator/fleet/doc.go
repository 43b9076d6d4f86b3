// Package fleet is a fleet on paper: a coordinator and nodes in memory, whose
// keys are plain software keys. What they sign is real: pointer records,
// CA:N:S, N:S, N:C, CRLs and session certificates come out of the same
// functions that a coordinator with an HSM and a node with a TPM use, and
// verify as theirs do.
//
// Start with [New], then [Fleet.Enroll], [Fleet.Revoke] and [Fleet.Trust].
//
// # What it is not
//
// Nothing protects the keys and nothing attests them. Every certificate says
// so: assurance level 0, on a simulator. There is no network, no disk and no
// store; the exchanges of docs/protocol.md section 4 happen as function calls.
package fleet

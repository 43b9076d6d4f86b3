// Package device gives a PKCS#11 module in software the speed, the limits and
// the faults of an HSM.
//
// Start with [New]. It compiles a small PKCS#11 module in C that stands before
// the real one, SoftHSM mostly: a program that opens [Device.Module] instead,
// with [Device.Env] in its environment, sees the same tokens and keys in a
// device that is as slow as its [Model] and that fails as [Device.Inject] says.
// Programs need not know; also ones that are not in Go can be put to the test.
// A machine without a C compiler is a [*NoCompilerError].
//
// # One device
//
// All processes with the same environment use one device, as they would use
// one HSM: they queue for its execution units, share its sessions, and meet its
// faults. The state is in a file that all of them map, changed by atomic
// operations only. So a process may be killed at any moment, and the [Device]
// may change the faults while the processes run.
//
// # Speed
//
// A device has some execution units, and each makes one signature in
// [Model.Latency]. C_Sign and C_SignFinal wait for the unit that is idle first,
// in the order of the calls, and return when it is done. Everything else is as
// fast as the module, and no device is faster than its module on this machine.
//
// # Sessions
//
// A device that limits them has [Model.Sessions] for all processes together,
// and more are CKR_SESSION_COUNT. It takes back one that nobody used for
// [Model.Idle], unless a call is under way in it, and its owner then gets
// CKR_SESSION_HANDLE_INVALID. That is also the only way in which the sessions
// of a killed process come back. A device without such a time gives them back
// at once, as a driver does that cleans up after its processes.
//
// # Faults
//
// Each function of PKCS#11 2.40 is counted ([Device.Calls]) and can be given
// faults ([Fault]): codes, delays, calls that never return, crashes, wrong
// signatures. Slot numbers can change ([Device.RenumberSlots]), as they do when
// a device comes back, and the token can say of itself what it likes
// ([Device.SetTokenFlags]).
//
// For counters and faults a signature is one call, however the program asks for
// the length before: C_Sign and C_SignFinal without a buffer are free.
//
// # What it does not do
//
// A function that is made to fail does not reach the module, but for a
// signature, whose operation has to end there. Other operations of several
// calls (C_Encrypt, C_Decrypt, C_Digest, C_Verify) go on in the module after a
// fault that says they failed.
package device

package tpm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// advice is a sentinel error with a hint for people.
type advice struct{ text, hint string }

func (e *advice) Error() string { return "tpm: " + e.text }
func (e *advice) Hint() string  { return e.hint }

// Errors of the node's half. They are wrapped with detail; compare with
// [errors.Is].
var (
	// ErrDevice: the device's name cannot be a TPM.
	ErrDevice error = &advice{"not a TPM device", "name a character device such as /dev/tpmrm0, or swtpm:/path/to/socket"}
	// ErrBusy: another process owns the chip.
	ErrBusy error = &advice{"the chip has another owner", "stop the other program that uses this TPM; an agent owns its chip alone"}
	// ErrTimeout: the chip did not answer in time, or was busy all the time.
	// The TPM is closed.
	ErrTimeout error = &advice{"the chip takes too long", "try again in a minute; a chip that stays so needs a power cycle (a warm reboot does not reset every chip)"}
	// ErrClosed: the TPM was closed, by Close or by a failure, of which the
	// connection's is the first to say so.
	ErrClosed error = &advice{"closed", "open the TPM again"}
	// ErrDamaged: what the chip said was not what it meant, so nothing was
	// made of it.
	ErrDamaged error = &advice{"an answer of the chip was damaged on its way", "try again; if it happens often, chip or bus are defective, or somebody sits in between"}
	// ErrMemory: the chip has no slot for another object or session. What this
	// package left in it is removed before the next operation.
	ErrMemory error = &advice{"the chip's slots for objects and sessions are full", "try again: what the agent left there is removed first; on a device without resource manager others' stay, so name /dev/tpmrm0, or remove them with tpm2_flushcontext -t -l -s"}
	// ErrFailure: the chip failed its self-test, or at the command.
	ErrFailure error = &advice{"the chip says that it failed", "power-cycle the machine (a warm reboot does not reset every chip); a chip that fails again is defective"}
	// ErrOwnerAuth: the owner hierarchy has a password.
	ErrOwnerAuth error = &advice{"the owner hierarchy has a password", "let the operator who set ownerAuth clear it for enrolment (tpm2_changeauth -c owner) and set it again afterwards"}
	// ErrEndorsementAuth: the endorsement hierarchy has a password.
	ErrEndorsementAuth error = &advice{"the endorsement hierarchy has a password", "clear it with tpm2_changeauth -c endorsement"}
	// ErrLockout: the chip counted too many failed attempts, of which each
	// loss of power after the use of an endorsement key may be one.
	ErrLockout error = &advice{"the chip is locked out after failed attempts", "wait for its recovery time, or reset it with tpm2_dictionarylockout --clear-lockout"}
	// ErrSRK: something else than a storage root key sits at its handle.
	ErrSRK error = &advice{"handle 0x81000001 holds something else than the P-256 storage root key", "look at it with tpm2_readpublic -c 0x81000001, and find out who made it. Do not remove it from a node that is enrolled: N:SK dies with its storage root key. Only if nothing needs it: tpm2_evictcontrol -C o -c 0x81000001"}
	// ErrIndex: the epoch counter's NV index is not the one that was asked for.
	ErrIndex error = &advice{"NV index 0x01800101 is not this fleet's epoch counter", "a counter of another approval key is removed with tpm2_nvundefine -C o 0x01800101; keys sealed to it die"}
	// ErrNoAnchor: the chip has no anchor counter.
	ErrNoAnchor error = &advice{"the chip has no anchor counter", "the chip was cleared, or its owner removed NV index 0x01800102; find out who did"}
	// ErrAnchorIndex: something else is where the anchor counter would be.
	ErrAnchorIndex error = &advice{"NV index 0x01800102 is not an anchor counter", "look at it with tpm2_nvreadpublic, and find out who made it; if nobody needs it: tpm2_nvundefine -C o 0x01800102"}
	// ErrNoRecord: the chip has no record of a coordinator's.
	ErrNoRecord error = &advice{"the chip has no record of a coordinator", "the chip was cleared, or its owner removed NV index 0x01800103; find out who did"}
	// ErrRecordIndex: something else is where the record would be.
	ErrRecordIndex error = &advice{"NV index 0x01800103 is not a coordinator's record", "look at it with tpm2_nvreadpublic, and find out who made it; if nobody needs it: tpm2_nvundefine -C o 0x01800103"}
	// ErrNVSpace: the chip has no room for another index.
	ErrNVSpace error = &advice{"the chip's NV memory is full", "tpm2_nvreadpublic lists what is in it; remove what nobody needs with tpm2_nvundefine"}
	// ErrForeignKey: the chip does not accept the key file.
	ErrForeignKey error = &advice{"the key file belongs to another chip, or this chip was cleared", "enrol anew with a new key"}
	// ErrBank: the chip's SHA-256 PCR bank is not active.
	ErrBank error = &advice{"the SHA-256 PCR bank is not active", "activate it in the firmware's settings or with tpm2_pcrallocate sha256:all"}
	// ErrUnstable: PCRs kept changing while the operation ran.
	ErrUnstable error = &advice{"PCRs keep changing", "wait until the machine has finished measuring and try again"}
)

// A SealedError is N:SK's refusal: neither is the machine in the state in
// which the key was made, nor is there an approval for the state it is in.
type SealedError struct {
	Values PCRValues // of the PCRs that the key is sealed to, as they are now
	Epoch  uint64    // the epoch counter as it is now
	Seal   Seal      // what the key was sealed to
}

func (e *SealedError) Error() string {
	what := "changed"
	if e.Values.Digest() == e.Seal.PCRDigest {
		what = "of a retired epoch"
	}
	return fmt.Sprintf("tpm: the key is sealed and the machine's state is not approved: PCR %s %s (epoch %d, sealed at %d)",
		numbers(e.Seal.PCRs), what, e.Epoch, e.Seal.Epoch)
}

// Hint says what to do about it.
func (e *SealedError) Hint() string {
	return "quote the new state to the coordinator and have it approved; if nobody changed firmware, Secure Boot keys or the boot loader, find out who did"
}

func numbers(pcrs []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(pcrs), " ", ","), "[]")
}

// The links of the chain of evidence, as an [EvidenceError] names them.
const (
	LinkEK            = "ek"             // the endorsement key's public area
	LinkEKCertificate = "ek-certificate" // the manufacturer's word for it
	LinkAK            = "ak"             // the attestation key's public area
	LinkNodeKey       = "node-key"       // N:PK's public area
	LinkSealing       = "sealing"        // the policy that N:SK is under
	LinkCreation      = "creation"       // TPM2_CertifyCreation of N
	LinkQuote         = "quote"          // TPM2_Quote
	LinkEpoch         = "epoch"          // TPM2_NV_Certify of the epoch counter
)

// An EvidenceError says at which link the evidence for a node's key broke.
type EvidenceError struct {
	Link   string // one of the Link constants
	Reason error
}

func (e *EvidenceError) Error() string { return "evidence: " + e.Link + ": " + e.Reason.Error() }
func (e *EvidenceError) Unwrap() error { return e.Reason }

func evidence(link, format string, args ...any) error {
	return &EvidenceError{Link: link, Reason: fmt.Errorf(format, args...)}
}

// Reasons of an EvidenceError that callers tell apart.
var (
	ErrMalformed           = errors.New("malformed")
	ErrAttribute           = errors.New("attribute is not as it must be")
	ErrAttestation         = errors.New("attestation does not say what it must")
	ErrAttestSignature     = errors.New("signature is not the attestation key's")
	ErrPolicy              = errors.New("policy is not the one computed")
	ErrNoRoot              = errors.New("no known manufacturer stands behind it")
	ErrPlatformCertificate = errors.New("this is a platform certificate, not an endorsement key's")
)

// ownerError and endorsementError name the cause when a hierarchy's empty
// password was refused (TPM 2.0 Part 2, section 6.6.3, TPM_RC_BAD_AUTH).
func ownerError(err error) error       { return authError(err, ErrOwnerAuth) }
func endorsementError(err error) error { return authError(err, ErrEndorsementAuth) }

func authError(err, cause error) error {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

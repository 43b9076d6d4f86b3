package eventlog

import "errors"

// ErrNoSHA256 says that the log has no SHA-256 digests: it is of a machine
// whose SHA-256 bank is not active, or in the format of TPM 1.2, which knows
// SHA-1 only. It has a method Hint.
var ErrNoSHA256 error = noSHA256{}

type noSHA256 struct{}

func (noSHA256) Error() string { return "eventlog: no SHA-256 digests" }

// Hint says what to do about it.
func (noSHA256) Hint() string {
	return "activate the SHA-256 PCR bank in the firmware's settings or with tpm2_pcrallocate sha256:all, and reboot"
}

// Errors are wrapped with what was found and where; compare with [errors.Is].
var (
	// ErrMalformed: this is not a log as the specification has it.
	ErrMalformed = errors.New("eventlog: malformed")
	// ErrTooLarge: a limit of this package is exceeded.
	ErrTooLarge = errors.New("eventlog: too large")
	// ErrPCR: values to verify are of no PCR, or of none that exists.
	ErrPCR = errors.New("eventlog: PCRs to verify must be some of 0 to 23")
)

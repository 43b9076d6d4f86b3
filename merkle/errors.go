package merkle

import (
	"errors"
	"fmt"
)

// Errors of this package. They are wrapped with detail; compare with
// [errors.Is].
var (
	ErrMalformed           = errors.New("malformed")
	ErrNotMTC              = errors.New("not a Merkle Tree Certificate")
	ErrIssuer              = errors.New("issued by another CA")
	ErrSerial              = errors.New("serial number out of range")
	ErrNotYetValid         = errors.New("not yet valid")
	ErrExpired             = errors.New("expired")
	ErrProof               = errors.New("Merkle proof does not hold")
	ErrNoCASignature       = errors.New("no signature of the CA cosigner")
	ErrCASignature         = errors.New("signature of the CA cosigner does not verify")
	ErrCriticalExtension   = errors.New("unknown critical extension")
	ErrUnsupportedCosigner = errors.New("unsupported CA cosigner")

	// ErrRange is returned when a [Tree] is asked about what it does not hold.
	ErrRange = errors.New("outside the tree")
)

// errFrame marks input that is not one DER SEQUENCE from its first byte to
// its last, so it cannot be a certificate, damaged or not.
var errFrame = errors.New("not one DER sequence")

// IsNotCertificate tells whether err, from [ParseCertificate] or [ParseCA],
// says that the input is not a Merkle Tree Certificate (or such a CA's
// certificate) at all: not one DER SEQUENCE that spans the input, or a
// certificate in the other, directly signed, form. All other errors are about
// a certificate that is damaged, forged or out of bounds, and mean that
// verification failed.
func IsNotCertificate(err error) bool {
	return errors.Is(err, errFrame) || errors.Is(err, ErrNotMTC)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

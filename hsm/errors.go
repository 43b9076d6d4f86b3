package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

var (
	// ErrClosed is the error of a call on a [Token] that was closed.
	ErrClosed = errors.New("token is closed")

	// ErrModuleInUse is the error of opening a module a second time in one
	// process.
	ErrModuleInUse = errors.New("the PKCS#11 module is already in use by this process")
)

// hinter is what errors of this package are that a person can do something
// about.
type hinter interface {
	error
	Hint() string
}

// An Error is a PKCS#11 function that did not return CKR_OK.
type Error struct {
	Op   string // the function, such as "C_SignInit"
	Code uint   // its CK_RV
	Name string // "CKR_DEVICE_ERROR"; empty for a code that PKCS#11 2.40 does not define
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s: code 0x%x", e.Op, e.Code)
	}
	return fmt.Sprintf("%s: %s (0x%x)", e.Op, e.Name, e.Code)
}

// Dead reports whether the module, its sessions and its login must be taken
// as lost. Tokens report a lost device in many codes, some of them harmless by
// name (CKR_OBJECT_HANDLE_INVALID), and never in CKR_DEVICE_REMOVED when it
// would help; so the list is of the codes that blame the request alone.
func (e *Error) Dead() bool {
	switch e.Code {
	case pkcs11.CKR_ATTRIBUTE_TYPE_INVALID,
		pkcs11.CKR_ATTRIBUTE_SENSITIVE,
		pkcs11.CKR_DATA_INVALID,
		pkcs11.CKR_DATA_LEN_RANGE,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT,
		pkcs11.CKR_MECHANISM_INVALID,
		pkcs11.CKR_MECHANISM_PARAM_INVALID:
		return false
	}
	return true
}

// transport reports whether the code, as an answer to C_Login, blames the way
// to the token and says nothing about the PIN.
func (e *Error) transport() bool {
	switch e.Code {
	case pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED,
		pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_COUNT, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_READ_ONLY_EXISTS,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return true
	}
	return false
}

// Hint tells what to do about the failure.
func (e *Error) Hint() string {
	if e.Dead() {
		return "check that the device is reachable, then open the token again"
	}
	return "the module does not support the operation on this key"
}

// failed turns an error of the binding into an [*Error].
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%s: %w", op, err)
	}
	// The binding has the names but only prints them: "pkcs11: 0x30: CKR_...".
	text := code.Error()
	return &Error{Op: op, Code: uint(code), Name: text[strings.LastIndex(text, " ")+1:]}
}

// A FaultError is a signature that the token made and that does not verify
// under the key's public half. It was not released. A session mix-up in the
// module, a failing device and an attack that injects faults look the same.
type FaultError struct {
	Label string // the key
	Err   error  // why the signature was refused
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("token returned a wrong signature for key %q: %v", e.Label, e.Err)
}

func (e *FaultError) Unwrap() error { return e.Err }

// Dead reports true: a module that has lied once is not asked again.
func (e *FaultError) Dead() bool { return true }

// Hint tells what to do about the fault.
func (e *FaultError) Hint() string {
	return "take the device out of service and examine it; then open the token again"
}

// dead reports whether err ends the use of a token.
func dead(err error) bool {
	var d interface{ Dead() bool }
	return errors.As(err, &d) && d.Dead()
}

// A TokenError is a URI that does not name exactly one token.
type TokenError struct {
	URI     URI
	Matches int    // how many tokens it names
	Seen    []Info // all initialised tokens of the module
}

func (e *TokenError) Error() string {
	var seen []string
	for _, i := range e.Seen {
		seen = append(seen, fmt.Sprintf("%q serial %s (%s %s)", i.Label, i.Serial, i.Manufacturer, i.Model))
	}
	list := "no tokens"
	if len(seen) > 0 {
		list = strings.Join(seen, ", ")
	}
	return fmt.Sprintf("%d tokens match %s; the module has %s", e.Matches, e.URI, list)
}

// Hint tells how to name one token.
func (e *TokenError) Hint() string {
	if len(e.Seen) == 0 {
		return "initialise a token, and check that this user may open the device"
	}
	return "name one of these tokens by token=...;serial=... in the uri"
}

// A WrongKeyError is a token that has another key under the name than the one
// that is known. It is not used.
type WrongKeyError struct {
	Token, Serial string
	Name          string // of the key
	Want, Got     string // fingerprints
}

func (e *WrongKeyError) Error() string {
	return fmt.Sprintf("token %q with serial %s has another key %s: %s, want %s", e.Token, e.Serial, e.Name, e.Got, e.Want)
}

// Hint tells what to do about it.
func (e *WrongKeyError) Hint() string {
	return "connect the token that holds the key, or correct the token's uri; restore the key into this one with: chancery hsm restore"
}

// Package cli is what the two programs have in common on a command line: exit
// codes, the form of errors, and the choice between text for people and JSON
// for programs.
//
// Results go to standard output, progress and errors to standard error. An
// error is printed as "error: " and what happened, and where somebody can do
// something about it, "hint: " and what.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/chancery-pki/chancery"
)

// Exit codes. Scripts may rely on them.
const (
	ExitOK       = 0 // done, or the answer is yes
	ExitFailure  = 1 // not done, or the answer is no
	ExitUsage    = 2 // the command line or an input file is not what it should be
	ExitDegraded = 3 // it runs, but something needs attention
	ExitNoToken  = 4 // the PKCS#11 token or the TPM is absent or will not answer
	ExitRefused  = 5 // a rule says no
)

// An Error carries what to tell and with which code to exit.
type Error struct {
	Code int
	Err  error
	Tip  string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the advice.
func (e *Error) Hint() string { return e.Tip }

// Usage returns an error about the command line or an input file.
func Usage(hint, format string, args ...any) error {
	return &Error{Code: ExitUsage, Err: fmt.Errorf(format, args...), Tip: hint}
}

// Failure returns an error with a hint.
func Failure(hint, format string, args ...any) error {
	return &Error{Code: ExitFailure, Err: fmt.Errorf(format, args...), Tip: hint}
}

// WithCode gives an error an exit code; nil stays nil.
func WithCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err, Tip: HintOf(err)}
}

// hinter is what errors that carry advice implement, in every package.
type hinter interface{ Hint() string }

// HintOf returns the advice that an error carries, or nothing.
func HintOf(err error) string {
	if p, ok := errors.AsType[*chancery.Problem](err); ok {
		return p.Hint
	}
	if h, ok := errors.AsType[interface {
		error
		hinter
	}](err); ok {
		return h.Hint()
	}
	return ""
}

// Report prints err the way the package says and returns the exit code.
func Report(w io.Writer, err error) int {
	if err == nil {
		return ExitOK
	}
	code := ExitFailure
	if e, ok := errors.AsType[*Error](err); ok {
		code = e.Code
	}
	fmt.Fprintf(w, "error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if hint := HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return code
}

// An Output is the form in which a command prints its result.
type Output string

const (
	Text Output = "text"
	JSON Output = "json"
)

// Set implements pflag.Value.
func (o *Output) Set(s string) error {
	switch Output(s) {
	case Text, JSON:
		*o = Output(s)
		return nil
	}
	return fmt.Errorf("output is text or json, not %q", s)
}

// String and Type implement pflag.Value.
func (o *Output) String() string { return string(*o) }
func (o *Output) Type() string   { return "text|json" }

// Print writes v as JSON, or calls text, to standard output.
func (o Output) Print(v any, text func(w io.Writer)) error {
	if o == JSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	text(os.Stdout)
	return nil
}

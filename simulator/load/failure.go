package load

import (
	"context"
	"errors"
	"fmt"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A Failure is what went wrong, and how often.
type Failure struct {
	Code  string `json:"code" doc:"the coordinator's problem code, http-STATUS where it has none of its own, or one of network, timeout, interrupted, refused, pending, not-our-coordinator, malformed, certificate, serial, crl, chip"`
	Count int    `json:"count"`
	First string `json:"first" doc:"text of the first one"`
	Hint  string `json:"hint,omitempty" doc:"what can be done"`
}

// An awayError is a connection that could not be made or did not last.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// away marks what a call returned as the network's doing, unless the other end
// has said something.
func away(err error) error {
	if err == nil || isProblem(err) || errors.Is(err, chancery.ErrNotOurCoordinator) || errors.Is(err, chancery.ErrMalformed) {
		return err
	}
	return &awayError{err}
}

func isProblem(err error) bool {
	_, ok := errors.AsType[*chancery.Problem](err)
	return ok
}

// A checkError is a certificate or a list that is not what it has to be.
type checkError struct {
	code string
	error
}

func (e *checkError) Unwrap() error { return e.error }

func unlike(code, format string, args ...any) error {
	return &checkError{code, fmt.Errorf(format, args...)}
}

// transient reports whether the coordinator is away or asks to come again.
func transient(err error) bool {
	if p, ok := errors.AsType[*chancery.Problem](err); ok {
		return p.Status == 429 || p.Status == 503
	}
	_, ok := errors.AsType[*awayError](err)
	return ok
}

// failure tells what kind of failure an error is.
func failure(err error) Failure {
	f := Failure{Code: "chip", First: err.Error()}
	if p, ok := errors.AsType[*chancery.Problem](err); ok {
		f.Code, f.Hint = p.Code, p.Hint
		if f.Code == "" || f.Code == "invalid" { // the code of whatever has none of its own
			f.Code = fmt.Sprintf("http-%d", p.Status)
		}
		if p.Status == 429 {
			f.Hint = "the coordinator bounds what one address may ask for: set enroll_rate = 0 in its chancery.toml for a measurement, or let nodes come again with --retry"
		}
		return f
	}
	f.Hint = cli.HintOf(err)
	check, checked := errors.AsType[*checkError](err)
	_, refused := errors.AsType[*join.RefusedError](err)
	_, isAway := errors.AsType[*awayError](err)
	switch {
	case errors.Is(err, context.Canceled):
		f.Code = "interrupted"
	case checked:
		f.Code = check.code
	case refused:
		f.Code = "refused"
	case errors.Is(err, chancery.ErrNotOurCoordinator):
		f.Code = "not-our-coordinator"
	case errors.Is(err, chancery.ErrMalformed):
		f.Code = "malformed"
	case isAway && errors.Is(err, context.DeadlineExceeded):
		f.Code = "timeout"
	case isAway:
		f.Code = "network"
	}
	return f
}

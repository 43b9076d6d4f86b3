// Package api serves the coordinator over HTTP: [NewNode] to nodes, over TLS,
// and [NewAdmin] to operators, on a Unix socket whose file permissions decide
// who that is. Handlers translate; every decision is package authority's.
//
// Errors are RFC 9457 problem documents ([chancery.Problem]) with a code for
// programs and, where somebody can act, a hint. What went wrong inside of the
// coordinator is logged and not told.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/ledger"
)

// problem is a chancery.Problem as huma wants errors to be.
type problem struct{ chancery.Problem }

func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return "application/problem+json" }

func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		p := &problem{chancery.Problem{Title: http.StatusText(status), Status: status, Detail: msg, Code: "invalid"}}
		switch status {
		case http.StatusTooManyRequests:
			p.Code, p.Hint = "rate", "wait as long as Retry-After says"
		case http.StatusServiceUnavailable:
			p.Code, p.Hint = "busy", "wait as long as Retry-After says"
		}
		for _, err := range errs {
			if err != nil {
				p.Detail = fmt.Sprintf("%s; %v", p.Detail, err)
			}
		}
		return p
	}
}

// newAPI returns the router and its API with the given title.
func newAPI(title string) (*http.ServeMux, huma.API) {
	mux := http.NewServeMux()
	config := huma.DefaultConfig(title, "1")
	config.Formats = map[string]huma.Format{"application/json": strict, "json": strict}
	config.CreateHooks = nil // no $schema fields in answers
	config.DocsPath = ""     // the description is there; a page that loads scripts from elsewhere is not
	return mux, humago.New(mux, config)
}

// strict is JSON without fields that nobody knows, and with nothing after it.
var strict = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: func(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something after the value")
	}
	return nil
}}

// handle turns what a handler returns into an answer.
func handle[I, O any](logger *slog.Logger, f func(context.Context, *I) (*O, error)) func(context.Context, *I) (*O, error) {
	return func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, told(logger, err)
		}
		return out, nil
	}
}

// told is what an error is to whoever asked.
func told(logger *slog.Logger, err error) *problem {
	if r, ok := errors.AsType[*authority.Refusal](err); ok {
		return &problem{chancery.Problem{Title: http.StatusText(r.Status), Status: r.Status, Detail: r.Detail, Code: r.Code, Hint: r.Tip}}
	}
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	switch {
	case errors.Is(err, ledger.ErrClosed): // first: it wraps the end of the ledger's own context
		return unavailable("stopping", "the coordinator is stopping; try again")
	case errors.Is(err, context.Canceled):
		return unavailable("canceled", "the request was given up")
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("no-token", "CA:SK did not sign in time; try again")
	}
	logger.Error("request failed", "error", err)
	return &problem{chancery.Problem{Title: http.StatusText(500), Status: 500, Detail: "the coordinator could not do it; its log says why", Code: "internal"}}
}

// refuse answers with an error, where no huma.API does.
func refuse(w http.ResponseWriter, logger *slog.Logger, err error) {
	p := told(logger, err)
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func unavailable(code, detail string) *problem {
	return &problem{chancery.Problem{Title: http.StatusText(503), Status: 503, Detail: detail, Code: code}}
}

package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/chancery-pki/chancery"
)

// A response is what came back for a request.
type response struct {
	status int
	header http.Header
	body   []byte
}

// exchange is one request and its response, of at most limit bytes. A response
// other than 2xx is an error.
func exchange(ctx context.Context, client *http.Client, method string, target *url.URL, body any, limit int64) (r response, err error) {
	request, err := Request(ctx, method, target.String(), body)
	if err != nil {
		return r, err
	}
	answer, err := client.Do(request)
	if err != nil {
		// url.Error repeats the URL, which the caller knows.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return r, err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return r, problem(answer)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err != nil {
		return r, err
	}
	if int64(len(b)) > limit {
		return r, fmt.Errorf("%s: %w: more than %d bytes", target.Path, chancery.ErrMalformed, limit)
	}
	return response{answer.StatusCode, answer.Header, b}, nil
}

// Request returns a request with a body in JSON, or without one for nil.
func Request(ctx context.Context, method, target string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequestWithContext(ctx, method, target, nil)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(b))
	if err == nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, err
}

// problem returns what the coordinator says in an RFC 9457 document, or the
// bare status if it says nothing of the kind.
func problem(response *http.Response) error {
	p := &chancery.Problem{}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	b, err := io.ReadAll(io.LimitReader(response.Body, maxJSON))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(b, p) != nil {
		p = &chancery.Problem{}
	}
	p.Status = response.StatusCode
	p.Title, p.Detail, p.Hint = Printable(p.Title), Printable(p.Detail), Printable(p.Hint)
	if p.Detail == "" {
		p.Detail = p.Title
	}
	if p.Detail == "" {
		p.Detail = http.StatusText(response.StatusCode)
	}
	return fmt.Errorf("the coordinator says (%d): %w", response.StatusCode, p)
}

// maxText bounds what is printed of a text that somebody else wrote.
const maxText = 500

// Printable returns a text of the coordinator's in a form that is safe in a
// terminal and a log: one line, nothing but graphic characters, not endless.
func Printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsGraphic(r) && r != unicode.ReplacementChar:
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return -1
	}, s))
}

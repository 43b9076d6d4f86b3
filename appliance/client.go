package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/cli"
)

// call asks the coordinator on its admin socket. in and out are JSON, or out
// is a *[]byte for what is not. Either may be nil.
func (a *app) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	contentType := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, contentType = bytes.NewReader(b), "application/json"
	}
	resp, err := a.request(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 128<<20))
	if err != nil {
		return err
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = b
		return nil
	}
	return json.Unmarshal(b, out)
}

// request asks the coordinator for an answer of any length, whose body the
// caller closes. A problem is an error.
func (a *app) request(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://chancery"+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", a.data.socket())
		},
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, a.data.unreachable(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return nil, problem(resp.StatusCode, b)
}

// unreachable says why the admin socket cannot be opened, if that is why.
func (d dataDir) unreachable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return &notRunningError{d}
	case errors.Is(err, fs.ErrPermission):
		return cli.Failure("run this as the user that the coordinator runs as", "%s may not be opened by this user", d.socket())
	}
	return err
}

// A notRunningError is a data directory in which no coordinator runs.
type notRunningError struct{ data dataDir }

func (e *notRunningError) Error() string {
	return fmt.Sprintf("no coordinator is running in %s", e.data)
}
func (e *notRunningError) Hint() string {
	return "start it with: chancery serve --data " + string(e.data)
}

func problem(status int, b []byte) error {
	var p chancery.Problem
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		return fmt.Errorf("the coordinator answered %d", status)
	}
	return &p
}

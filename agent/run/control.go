package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/socket"
)

// The socket speaks HTTP:
//
//	GET  /v1/status  -> Status
//	GET  /v1/live    -> Live
//	POST /v1/ping    PingRequest -> one PingEvent a line, while they happen
//	POST /v1/relay   RelayRequest -> one RelayEvent a line; it ends with the request
//	POST /v1/x509    X509Request -> one X509Event a line, until the request ends
//	POST /v1/reload  -> what was changed, a list of lines
//	POST /v1/clear   clears the alarms of forks -> those that stood
//
// Its file has mode 0600 in a directory of mode 0700: who may connect is the
// agent's own user.

const (
	// maxRequest bounds a request's body.
	maxRequest = 16 << 10
	// statusTime is how long an agent may take to say how it is, which it
	// does out of memory.
	statusTime = 5 * time.Second
)

// listenControl makes the socket. The directory is this process's, so a socket
// that is there already is what a crash left.
func (a *agent) listenControl() (net.Listener, error) {
	path := a.dir.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := socket.Listen(path, 0o600)
	if err != nil {
		return nil, &socketError{err}
	}
	return l, nil
}

type socketError struct{ err error }

func (e *socketError) Error() string { return "the agent's socket: " + e.err.Error() }
func (e *socketError) Unwrap() error { return e.err }
func (e *socketError) Hint() string {
	switch {
	case errors.Is(e.err, syscall.EADDRINUSE):
		return "another program listens there: stop it, or name another path"
	case errors.Is(e.err, fs.ErrNotExist):
		return "make its directory"
	case errors.Is(e.err, fs.ErrPermission):
		return "let the agent's user write its directory"
	}
	return "a socket's path has at most 107 bytes; choose a shorter state directory with --state"
}

// serveControl answers until ctx ends.
func (a *agent) serveControl(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(a.status())
	})
	mux.HandleFunc("GET /v1/live", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(a.live())
	})
	mux.HandleFunc("POST /v1/ping", events(a.ping))
	mux.HandleFunc("POST /v1/relay", events(a.relay))
	mux.HandleFunc("POST /v1/x509", events(a.watchX509))
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		changed, err := a.askReload(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(append([]string{}, changed...))
	})
	mux.HandleFunc("POST /v1/clear", func(w http.ResponseWriter, r *http.Request) {
		cleared, err := ClearForks(a.dir)
		a.heedAlarms()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for _, alarm := range cleared {
			a.Logger.Warn("an operator has cleared the alarm", "alarm", string(alarm))
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(cleared)
	})
	return socket.Serve(ctx, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, l)
}

// events handles a request by telling what happens, one event a line.
func events[R, E any](do func(context.Context, *R, func(E))) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request R
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/jsonl")
		enc, out := json.NewEncoder(w), http.NewResponseController(w)
		do(r.Context(), &request, func(e E) {
			enc.Encode(e) // of no use to a client that is gone; its context ends
			out.Flush()
		})
	}
}

// A Client talks to the agent that runs in a state directory.
type Client struct{ http http.Client }

// A NotRunningError says that no agent runs in a directory.
type NotRunningError struct{ Path string }

func (e *NotRunningError) Error() string { return "no agent is running in " + e.Path }

// Hint says how to start one.
func (e *NotRunningError) Hint() string { return "start it: chancery-agent run --state " + e.Path }

// Connect returns a client of the agent that runs in the directory. If there
// is none the error of its first call is a [*NotRunningError]. Close it after
// use.
func Connect(dir *state.Dir) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", dir.Socket())
		if err != nil {
			return nil, &NotRunningError{dir.Path()}
		}
		return conn, nil
	}
	return &Client{http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close gives the connection up.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks the agent how it is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	s := new(Status)
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, func(d *json.Decoder) error { return d.Decode(s) })
	return s, err
}

// ClearForks has the agent clear the alarms, and returns those that stood.
func (c *Client) ClearForks(ctx context.Context) (cleared []state.Alarm, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/clear", struct{}{}, func(d *json.Decoder) error { return d.Decode(&cleared) })
	return cleared, err
}

// Ping has the agent ping a peer and calls each for every event until the last
// one, or until ctx ends.
func (c *Client) Ping(ctx context.Context, r *PingRequest, each func(PingEvent)) error {
	return follow(ctx, c, "/v1/ping", r, each)
}

// Relay has the agent relay until ctx ends, and calls each for every event.
func (c *Client) Relay(ctx context.Context, r *RelayRequest, each func(RelayEvent)) error {
	return follow(ctx, c, "/v1/relay", r, each)
}

// X509 calls each for every event, until ctx ends.
func (c *Client) X509(ctx context.Context, r *X509Request, each func(X509Event)) error {
	return follow(ctx, c, "/v1/x509", r, each)
}

// Live asks for the live sessions.
func (c *Client) Live(ctx context.Context) (*Live, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	l := new(Live)
	err := c.call(ctx, http.MethodGet, "/v1/live", nil, func(d *json.Decoder) error { return d.Decode(l) })
	return l, err
}

// Reload has the agent read what may change in its configuration, and returns
// what did, a line each.
func (c *Client) Reload(ctx context.Context) (changed []string, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/reload", struct{}{}, func(d *json.Decoder) error { return d.Decode(&changed) })
	return changed, err
}

func follow[E any](ctx context.Context, c *Client, path string, request any, each func(E)) error {
	return c.call(ctx, http.MethodPost, path, request, func(d *json.Decoder) error {
		for d.More() {
			var e E
			if err := d.Decode(&e); err != nil {
				return err
			}
			each(e)
		}
		return nil
	})
}

func (c *Client) call(ctx context.Context, method, path string, body any, read func(*json.Decoder) error) error {
	request, err := coordinator.Request(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*NotRunningError](err); ok {
			return e
		}
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, maxRequest))
		return fmt.Errorf("the agent says: %s", cmp.Or(strings.TrimSpace(string(why)), response.Status))
	}
	return read(json.NewDecoder(response.Body))
}

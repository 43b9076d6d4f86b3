package local

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/socket"
)

// A Trust is what a program needs to judge peers.
type Trust struct {
	Fleet   string `json:"fleet"`             // pin
	Name    string `json:"name"`              // of the node
	Pointer []byte `json:"pointer,omitempty"` // the record, if it is newer than the caller's
	CRL     []byte `json:"crl,omitempty"`     // the full list, likewise
	// Suspended says why every peer is to be refused, empty if they are not.
	Suspended string `json:"suspended,omitempty"`
}

// A SessionRequest asks for a session certificate.
type SessionRequest struct {
	Key []byte `json:"key"` // SubjectPublicKeyInfo
}

// A Session is a session certificate and what it is under.
type Session struct {
	Session   []byte    `json:"session"` // DER
	NC        []byte    `json:"nc"`      // DER
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// A Source is the agent, as this package sees it. Its methods may be called
// concurrently.
type Source interface {
	// Trust returns what the agent trusts at present, why all peers are
	// refused if they are, and a channel that is closed when either changes.
	Trust() (t chancery.Trust, suspended error, changed <-chan struct{})
	// Refresh fetches a newer CRL now.
	Refresh(ctx context.Context) error
	// Certify has N:SK certify a key.
	Certify(ctx context.Context, key chancery.PublicKey) (*Session, error)
}

// A Config says whom a server answers. Source, Name, Allow and Logger are
// required.
type Config struct {
	Source Source
	Name   string // of the node
	Allow  func(Caller) bool
	Logger *slog.Logger
}

// DefaultSocket is where the agent serves programs unless told otherwise.
const DefaultSocket = "/run/chancery/programs.sock"

const (
	maxRequest = 4 << 10
	maxWait    = 60 * time.Second
	// certifyTime is how long a request waits for the chip.
	certifyTime = 30 * time.Second
)

type callerKey struct{}

// Listen makes the socket. Any user may connect: who is answered is for the
// rules to say. A socket that is there already is what a crash left, unless
// somebody listens.
func Listen(path string) (net.Listener, error) { return socket.Listen(path, 0o666) }

// Serve answers programs until ctx ends.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/trust", c.trust)
	mux.HandleFunc("POST /v1/refresh", c.refresh)
	mux.HandleFunc("POST /v1/session", c.session)
	server := &http.Server{
		Handler: c.attested(mux), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: maxRequest,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			caller, err := CallerOf(conn)
			if err != nil {
				c.Logger.Error("a program cannot be attested", "error", err)
				return ctx
			}
			return context.WithValue(ctx, callerKey{}, caller)
		},
	}
	return socket.Serve(ctx, server, l)
}

// attested answers whom the rules name.
func (c *Config) attested(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := r.Context().Value(callerKey{}).(Caller)
		if !ok || !c.Allow(caller) {
			c.Logger.Warn("program refused", "caller", caller.String())
			http.Error(w, "no rule allows "+caller.String(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Config) trust(w http.ResponseWriter, r *http.Request) {
	var numbers [3]uint64
	for i, name := range []string{"pointer", "crl", "wait"} {
		var err error
		if s := r.URL.Query().Get(name); s != "" {
			if numbers[i], err = strconv.ParseUint(s, 10, 64); err != nil {
				http.Error(w, name+" is not a number", http.StatusBadRequest)
				return
			}
		}
	}
	pointer, crl, wait := numbers[0], numbers[1], min(time.Duration(min(numbers[2], 3600))*time.Second, maxWait)
	had := r.URL.Query().Get("suspended")
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		t, suspended, changed := c.Source.Trust()
		out := Trust{Fleet: t.Pointer.FleetID().Pin(), Name: c.Name}
		if suspended != nil {
			out.Suspended = suspended.Error()
		}
		if t.Pointer.Seq > pointer {
			out.Pointer = t.Pointer.Marshal()
		}
		if t.CRL != nil && t.CRL.Head().Number > crl {
			out.CRL = t.CRL.Marshal()
		}
		if out.Pointer == nil && out.CRL == nil && out.Suspended == had {
			select {
			case <-changed:
				continue
			case <-late.C:
			case <-r.Context().Done():
				return
			}
		}
		answer(w, out)
		return
	}
}

func (c *Config) refresh(w http.ResponseWriter, r *http.Request) {
	if err := c.Source.Refresh(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (c *Config) session(w http.ResponseWriter, r *http.Request) {
	var in SessionRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	key, err := chancery.ParsePublicKey(in.Key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), certifyTime)
	defer cancel()
	s, err := c.Source.Certify(ctx, key)
	if err != nil {
		c.Logger.Warn("a program got no session certificate", "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	c.Logger.Info("session certificate for a program", "caller", r.Context().Value(callerKey{}).(Caller).String(), "until", s.NotAfter)
	answer(w, s)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

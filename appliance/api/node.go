package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/ledger"
)

// A Node serves nodes. Verifier judges those that present an N:C; whoever
// publishes a CRL updates it.
type Node struct {
	Authority *authority.Authority
	Ledger    *ledger.Ledger
	Pointer   *chancery.Pointer
	Verifier  *chancery.Verifier
	X509      *issuer.Issuer // nil if the fleet has none
	// Rate is how many requests of enrolments a second one network address
	// may make on average; 0 is no limit.
	Rate   float64
	Now    func() time.Time
	Logger *slog.Logger

	park *park // nil unless Listen was called
}

const (
	// maxBody is above an initial connection with the longest EK chain.
	maxBody = 64 << 10
	// maxSubmission is above a submission with an event log of 512 KiB, several
	// times what machines have.
	maxSubmission = 768 << 10
	// maxShown is above the longest head and the longest pointer record, in base64.
	maxShown = 192 << 10
	// maxInFlight bounds the enrolments under way; more are asked to wait.
	maxInFlight = 512
	// bodyTime is how long a request may take to arrive, of a node far away too.
	bodyTime = 30 * time.Second
	// signTime is how long a request waits for CA:SK.
	signTime = 30 * time.Second
)

// TLSConfig returns the configuration of the listener: nodes may present an
// N:C, which the handlers that want one look at.
func (n *Node) TLSConfig(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
	}
}

// NewNode returns the handler for nodes; the paths are those of package
// chancery's messages.
func NewNode(n *Node) http.Handler {
	mux, api := newAPI("Chancery coordinator, for nodes")
	slots := make(chan struct{}, maxInFlight)
	limit := newLimiter(n.Rate)
	enrolment := func(o *huma.Operation) {
		o.MaxBodyBytes, o.BodyReadTimeout = maxBody, bodyTime
		// The gates look at all of it; to validate it before is to decode it
		// twice.
		o.SkipValidateBody = true
		o.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
			r, _ := humago.Unwrap(ctx)
			if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); r.Method == http.MethodPost && (err != nil || kind != "application/json") {
				huma.WriteErr(api, ctx, http.StatusUnsupportedMediaType, "the body is to be application/json")
				return
			}
			if !limit.allow(r) {
				ctx.SetHeader("Retry-After", "1")
				huma.WriteErr(api, ctx, http.StatusTooManyRequests, "too many enrolments from this address; try again")
				return
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				next(ctx)
			default:
				ctx.SetHeader("Retry-After", "1")
				huma.WriteErr(api, ctx, http.StatusServiceUnavailable, "too many enrolments are under way; try again")
			}
		}}
	}

	type connectIn struct{ Body chancery.InitialConnection }
	type connectOut struct{ Body chancery.Answer }
	connect := func(renewal bool) func(context.Context, *connectIn) (*connectOut, error) {
		return func(ctx context.Context, in *connectIn) (*connectOut, error) {
			ch, err := n.channel(ctx, renewal)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, signTime)
			defer cancel()
			a, err := n.Authority.Connect(ctx, ch, &in.Body)
			if err != nil {
				n.Logger.Info("initial connection refused", "name", printable(in.Body.Name), "renewal", renewal, "reason", err)
				return nil, err
			}
			return &connectOut{*a}, nil
		}
	}
	huma.Post(api, "/v1/enroll", handle(n.Logger, connect(false)), enrolment)
	huma.Post(api, "/v1/renew", handle(n.Logger, connect(true)), enrolment)

	serveLogs(mux, n.Ledger, n.Logger)
	(&x509Server{n.X509, n.Now, n.Logger}).serve(mux)

	type intakeIn struct {
		Intake string `path:"intake"`
	}
	type submitIn struct {
		Intake string `path:"intake"`
		Body   chancery.Submission
	}
	type verdictOut struct{ Body chancery.Verdict }
	huma.Post(api, "/v1/enroll/{intake}", handle(n.Logger, func(ctx context.Context, in *submitIn) (*verdictOut, error) {
		id, err := authority.ParseIntakeID(in.Intake)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		v, err := n.Authority.Submit(ctx, id, &in.Body)
		if err != nil {
			n.Logger.Info("submission refused", "intake", id, "reason", err)
			return nil, err
		}
		return &verdictOut{*v}, nil
	}), enrolment, func(o *huma.Operation) { o.MaxBodyBytes = maxSubmission })
	huma.Get(api, "/v1/enroll/{intake}", handle(n.Logger, func(ctx context.Context, in *intakeIn) (*verdictOut, error) {
		id, err := authority.ParseIntakeID(in.Intake)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		v, err := n.Authority.Verdict(ctx, id)
		if err != nil {
			return nil, err
		}
		return &verdictOut{*v}, nil
	}))

	type resealIn struct{ Body chancery.ResealRequest }
	type resealOut struct{ Body chancery.ResealAnswer }
	huma.Post(api, "/v1/reseal", handle(n.Logger, func(ctx context.Context, in *resealIn) (*resealOut, error) {
		a, err := n.Authority.Reseal(ctx, &in.Body)
		if err != nil {
			return nil, err
		}
		return &resealOut{*a}, nil
	}), enrolment)

	type attestIn struct{ Body chancery.AttestRequest }
	type attestOut struct{ Body chancery.AttestAnswer }
	huma.Post(api, "/v1/attest", handle(n.Logger, func(ctx context.Context, in *attestIn) (*attestOut, error) {
		ch, err := n.channel(ctx, true)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		a, err := n.Authority.Attest(ctx, ch.Peer, &in.Body)
		if err != nil {
			n.Logger.Info("attestation refused", "node", ch.Peer.Name, "reason", err)
			return nil, err
		}
		return &attestOut{*a}, nil
	}), enrolment, func(o *huma.Operation) { o.MaxBodyBytes = maxSubmission })

	// Whoever holds something else than the coordinator has shows it. It proves
	// itself, so anybody may.
	type shownIn struct{ Body chancery.Shown }
	huma.Post(api, "/v1/shown", handle(n.Logger, func(ctx context.Context, in *shownIn) (*struct{}, error) {
		for _, b := range [][]byte{in.Body.CRLHead, in.Body.Pointer} {
			if len(b) == 0 {
				continue
			}
			if err := n.Ledger.Shown(ctx, b); err != nil {
				return nil, &problem{chancery.Problem{Title: "Bad Request", Status: 400, Detail: err.Error(), Code: "malformed"}}
			}
		}
		return nil, nil
	}), enrolment, func(o *huma.Operation) { o.MaxBodyBytes = maxShown })

	type x509In struct{ Body chancery.X509Request }
	type x509Out struct{ Body chancery.X509Answer }
	huma.Post(api, "/v1/x509", handle(n.Logger, func(ctx context.Context, in *x509In) (*x509Out, error) {
		ch, err := n.channel(ctx, true)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		a, err := n.Authority.CertifyX509(ctx, ch.Peer, &in.Body)
		if err != nil {
			n.Logger.Info("X.509 certificate refused", "node", ch.Peer.Name, "reason", err)
			return nil, err
		}
		return &x509Out{*a}, nil
	}), enrolment)

	type addressIn struct{ Body chancery.Address }
	huma.Put(api, "/v1/address", handle(n.Logger, func(ctx context.Context, in *addressIn) (*struct{}, error) {
		ch, err := n.channel(ctx, true)
		if err != nil {
			return nil, err
		}
		return nil, n.Authority.SetAddress(ctx, ch.Peer, in.Body.Address)
	}), func(o *huma.Operation) { o.MaxBodyBytes = 4 << 10 })
	type nameIn struct {
		Name string `path:"name"`
	}
	type addressOut struct{ Body chancery.Address }
	huma.Get(api, "/v1/address/{name}", handle(n.Logger, func(ctx context.Context, in *nameIn) (*addressOut, error) {
		a, err := n.Authority.Address(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		return &addressOut{a}, nil
	}))

	// The signed objects are served as they are; they prove themselves.
	mux.HandleFunc("GET /.well-known/chancery/pointer", func(w http.ResponseWriter, r *http.Request) {
		binary(w, n.Pointer.Marshal())
	})
	mux.HandleFunc("GET /v1/crl", n.serveList)
	return withTLS(mux)
}

// printable keeps what is no name out of the log.
func printable(name string) string {
	if chancery.ValidateName(name) != nil {
		return "(not a name)"
	}
	return name
}

func binary(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(b)
}

type tlsKey struct{}

// withTLS hands the connection's TLS state to handlers.
func withTLS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tlsKey{}, r.TLS)))
	})
}

// channel describes the connection of a request, and who is at its other end
// where the handler needs to know.
func (n *Node) channel(ctx context.Context, authenticated bool) (authority.Channel, error) {
	var ch authority.Channel
	state, _ := ctx.Value(tlsKey{}).(*tls.ConnectionState)
	if state == nil {
		return ch, &problem{chancery.Problem{Title: "Bad Request", Status: 400, Detail: "not over TLS", Code: "no-tls"}}
	}
	exporter, err := state.ExportKeyingMaterial(chancery.ExporterLabel, nil, len(ch.Exporter))
	if err != nil {
		return ch, err
	}
	copy(ch.Exporter[:], exporter)
	if !authenticated {
		return ch, nil
	}
	ch.Peer, err = n.peer(state.PeerCertificates)
	return ch, err
}

// peer judges the node that shows these certificates.
func (n *Node) peer(shown []*x509.Certificate) (*chancery.Peer, error) {
	certs := make([][]byte, len(shown))
	for i, c := range shown {
		certs[i] = c.Raw
	}
	p, err := n.Verifier.Verify(certs, "", chancery.NodeID{}, chancery.Policy{}, n.Now())
	if err != nil {
		n.Logger.Info("node refused", "reason", err)
		return nil, &problem{chancery.Problem{Title: "Unauthorized", Status: 401, Detail: err.Error(), Code: "not-a-node"}}
	}
	return p, nil
}

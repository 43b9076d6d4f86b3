package api

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/merkle"
)

// An Admin serves operators.
type Admin struct {
	Authority *authority.Authority
	Ledger    *ledger.Ledger
	Store     *store.Store
	Pointer   *chancery.Pointer
	X509      *issuer.Issuer      // nil if the fleet has none
	Tokens    func() []hsm.Status // the PKCS#11 tokens
	Anchor    *anchor.Keeper
	// KeepPolicy puts a policy where the next start finds it.
	KeepPolicy func([]byte) error
	Started    time.Time
	Now        func() time.Time
	Logger     *slog.Logger
}

// The types below are the contract of the socket, and what the command line
// prints with -o json.

// A TokenStatus describes a PKCS#11 token.
type TokenStatus struct {
	Label        string     `json:"label"`
	Serial       string     `json:"serial"`
	Manufacturer string     `json:"manufacturer"`
	Model        string     `json:"model"`
	Hardware     string     `json:"hardware"`
	Firmware     string     `json:"firmware"`
	Library      string     `json:"library"`
	Simulator    bool       `json:"simulator"`
	URI          string     `json:"uri"`
	State        string     `json:"state" enum:"connecting,up,late,down,refused,latched,present" doc:"present if no coordinator runs"`
	Since        time.Time  `json:"since"`
	Error        string     `json:"error,omitempty"`
	Hint         string     `json:"hint,omitempty"`
	Keys         []TokenKey `json:"keys"`
	Signer       int        `json:"signer" doc:"process id of the signer process, 0 without one"`
	Sessions     int        `json:"sessions"`
	InFlight     int        `json:"in_flight"`
	Signatures   uint64     `json:"signatures"`
	Retries      uint64     `json:"retries" doc:"signatures repeated because a session was dropped or the device throttled"`
	Faults       uint64     `json:"faults" doc:"signatures that did not verify"`
	Starts       uint64     `json:"starts" doc:"signer processes that came into service"`
	MedianMS     float64    `json:"median_ms" doc:"of the last signatures, in the token"`
	P99MS        float64    `json:"p99_ms"`
}

// A TokenKey is a key that a token is used for.
type TokenKey struct {
	Name        string `json:"name"`
	Label       string `json:"label"`
	Key         string `json:"key" doc:"fingerprint"`
	Local       string `json:"local" enum:"yes,no,unknown," doc:"generated in this token"`
	Extractable string `json:"extractable" enum:"yes,no,unknown,"`
}

// A Status is the coordinator at a glance.
type Status struct {
	Fleet       string        `json:"fleet" doc:"the pin"`
	TrustDomain string        `json:"trust_domain"`
	Tokens      []TokenStatus `json:"tokens"`
	Started     time.Time     `json:"started"`
	LogSize     uint64        `json:"log_size"`
	Nodes       int           `json:"nodes"`
	Revoked     int           `json:"revoked_nodes"`
	Pending     int           `json:"pending"`
	Reseals     int           `json:"pending_reseals"`
	Simulators  int           `json:"simulators"`
	CRL         CRLStatus     `json:"crl"`
	Pointer     struct {
		Seq     uint64    `json:"seq"`
		Expires time.Time `json:"expires"`
	} `json:"pointer"`
	Anchor   string   `json:"anchor" doc:"where it is noted how far the database has come"`
	Problems []string `json:"problems" doc:"what needs attention; empty is good"`
}

// A CRLStatus describes the current list.
type CRLStatus struct {
	Number     uint64    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Revoked    uint64    `json:"revoked"`
	Bytes      int       `json:"bytes"`
}

// A TokenInput asks for a join token.
type TokenInput struct {
	Names   string   `json:"names"`
	Roles   []string `json:"roles,omitempty"`
	Uses    int      `json:"uses"`
	Seconds int64    `json:"seconds"`
	Approve bool     `json:"approve"`
}

// A TokenOutput holds a new join token: a secret.
type TokenOutput struct {
	Token   string    `json:"token"`
	Pin     string    `json:"pin"`
	Expires time.Time `json:"expires"`
}

// A NodeInfo describes a node, or somebody who waits to become one.
type NodeInfo struct {
	Name       string              `json:"name"`
	NodeID     string              `json:"node_id"`
	State      string              `json:"state" enum:"active,revoked,replaced,pending"`
	Assurance  string              `json:"assurance"`
	Simulator  bool                `json:"simulator"`
	Sealed     bool                `json:"sealed"`
	Roles      []string            `json:"roles"`
	Chip       chancery.Chip       `json:"chip"`
	EK         string              `json:"ek" doc:"SHA-256 over the endorsement key, hexadecimal"`
	Enrolled   time.Time           `json:"enrolled"`
	Revoked    time.Time           `json:"revoked,omitzero"`
	Reason     string              `json:"reason,omitempty"`
	ReasonCode chancery.ReasonCode `json:"reason_code,omitempty" doc:"of the revocation: RFC 5280 section 5.3.1"`
	Address    string              `json:"address,omitempty"`
	Rule       string              `json:"rule,omitempty" doc:"of the policy, under which it was decided"`
	Held       string              `json:"held,omitempty" doc:"why it is not renewed"`
	Attested   time.Time           `json:"attested,omitzero" doc:"when it last attested a good state"`
	Epoch      uint64              `json:"epoch,omitempty" doc:"of a sealed key's counter, as last attested"`
	Retire     string              `json:"retire,omitempty" enum:"wanted,raised," doc:"older approvals are being retired: with the next attestation, or by the next reboot"`
	Approvals  []string            `json:"approvals,omitempty" doc:"operators that have approved, of one that waits"`
	Wanted     int                 `json:"approvals_wanted,omitempty" doc:"how many have to"`
	Replaces   string              `json:"replaces,omitempty" doc:"node id of the one whose place it asks for"`
	Serials    []string            `json:"serials,omitempty"`
}

// An ApproveOutput is a verdict, and how many more operators have to approve.
type ApproveOutput struct {
	chancery.Verdict
	Left int `json:"approvals_left,omitempty"`
}

// A CertificateInfo describes an entry of the log.
type CertificateInfo struct {
	Serial     string              `json:"serial"`
	Name       string              `json:"name"`
	NodeID     string              `json:"node_id"`
	NotAfter   time.Time           `json:"not_after"`
	Revoked    time.Time           `json:"revoked,omitzero"`
	Reason     string              `json:"reason,omitempty"`
	ReasonCode chancery.ReasonCode `json:"reason_code,omitempty" doc:"RFC 5280 section 5.3.1"`
	DER        []byte              `json:"der,omitempty"`
}

// A ResealInfo is a boot state that a node asked to have approved.
type ResealInfo struct {
	Name     string         `json:"name"`
	Epoch    uint64         `json:"epoch"`
	Values   map[int][]byte `json:"pcr_values"`
	Asked    time.Time      `json:"asked"`
	Approved bool           `json:"approved"`
}

// A LogPage is a piece of the issuance log with the messages that certify it.
type LogPage struct {
	CA         string         `json:"ca"`
	Log        uint16         `json:"log"`
	Size       uint64         `json:"size"`
	Entries    []LogEntry     `json:"entries"`
	Subtrees   []LogSubtree   `json:"subtrees"`
	Checkpoint *LogCheckpoint `json:"checkpoint,omitempty"`
}

// A LogEntry is an MTCLogEntry and the key that it has the hash of.
type LogEntry struct {
	Index uint64 `json:"index"`
	Entry []byte `json:"entry"`
	SPKI  []byte `json:"spki"`
}

// A LogSubtree is a signed batch.
type LogSubtree struct {
	BatchStart uint64 `json:"batch_start"`
	Start      uint64 `json:"start"`
	End        uint64 `json:"end"`
	Root       []byte `json:"root"`
	Signature  []byte `json:"signature" doc:"r || s; empty while CA:SK has not signed"`
}

// A LogCheckpoint is a signed statement of the log's size.
type LogCheckpoint struct {
	Size      uint64    `json:"size"`
	Root      []byte    `json:"root"`
	At        time.Time `json:"at"`
	Signature []byte    `json:"signature"`
}

// PageSize is how many entries a LogPage has at most, and how many nodes and
// certificates a page of a list.
const PageSize = 1000

type named struct {
	Name string `path:"name"`
}

// body is an answer that is one JSON document.
type body[T any] struct{ Body T }

// NewAdmin returns the handler for operators.
func NewAdmin(a *Admin) http.Handler {
	mux, api := newAPI("Chancery coordinator, for operators")
	huma.Get(api, "/v1/status", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[Status], error) {
		s, err := a.status(ctx)
		return &body[Status]{s}, err
	}))
	huma.Get(api, "/v1/hsm", handle(a.Logger, func(context.Context, *struct{}) (*body[[]TokenStatus], error) {
		return &body[[]TokenStatus]{tokenStatus(a.Tokens())}, nil
	}))
	huma.Post(api, "/v1/tokens", handle(a.Logger, func(ctx context.Context, in *body[TokenInput]) (*body[TokenOutput], error) {
		t, expires, err := a.Authority.CreateToken(ctx, operator(ctx), authority.TokenRequest{Names: in.Body.Names, Roles: in.Body.Roles,
			Uses: in.Body.Uses, Life: time.Duration(in.Body.Seconds) * time.Second, Approve: in.Body.Approve})
		if err != nil {
			return nil, err
		}
		return &body[TokenOutput]{TokenOutput{t.Reveal(), a.Authority.Fleet().Pin(), expires}}, nil
	}))
	a.nodes(api)
	a.certificates(api)
	a.policies(api)
	a.bootStates(api)
	huma.Get(api, "/v1/reseals", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[[]ResealInfo], error) {
		list, err := a.reseals(ctx)
		return &body[[]ResealInfo]{list}, err
	}))
	huma.Post(api, "/v1/reseals/{name}/approve", handle(a.Logger, func(ctx context.Context, in *named) (*body[ResealInfo], error) {
		w, err := a.Authority.ApproveReseal(ctx, operator(ctx), in.Name)
		if err != nil {
			return nil, err
		}
		return &body[ResealInfo]{ResealInfo{in.Name, w.Epoch, w.PCRs, w.Asked, true}}, nil
	}))
	huma.Post(api, "/v1/crl", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		return nil, a.Ledger.PublishCRL(ctx)
	}))
	mux.HandleFunc("POST /v1/revocations", a.revocations)
	mux.HandleFunc("GET /v1/crl/x509", (&x509Server{a.X509, a.Now, a.Logger}).current(a.Pointer))
	mux.HandleFunc("GET /v1/x509", (&x509Server{a.X509, a.Now, a.Logger}).own)
	serveLogs(mux, a.Ledger, a.Logger)
	mux.HandleFunc("GET /v1/crl", func(w http.ResponseWriter, r *http.Request) { binary(w, a.Ledger.CRL().Marshal()) })
	mux.HandleFunc("GET /v1/pointer", func(w http.ResponseWriter, r *http.Request) { binary(w, a.Pointer.Marshal()) })
	type logIn struct {
		From uint64 `query:"from"`
	}
	huma.Get(api, "/v1/log", handle(a.Logger, func(ctx context.Context, in *logIn) (*body[LogPage], error) {
		p, err := a.logPage(ctx, in.From)
		return &body[LogPage]{p}, err
	}))
	return mux
}

func (a *Admin) nodes(api huma.API) {
	type pageIn struct {
		After string `query:"after" doc:"name of the last node of the page before"`
		ID    string `query:"id" doc:"its node_id, in hex" pattern:"^([0-9a-f]{64})?$"`
	}
	huma.Get(api, "/v1/nodes", handle(a.Logger, func(ctx context.Context, in *pageIn) (*body[[]NodeInfo], error) {
		var id chancery.NodeID
		hex.Decode(id[:], []byte(in.ID)) // it has the pattern
		list, err := a.nodePage(ctx, in.After, id)
		return &body[[]NodeInfo]{list}, err
	}))
	huma.Get(api, "/v1/pending", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[[]NodeInfo], error) {
		list, err := a.pending(ctx)
		return &body[[]NodeInfo]{list}, err
	}))
	huma.Get(api, "/v1/nodes/{name}", handle(a.Logger, func(ctx context.Context, in *named) (*body[[]NodeInfo], error) {
		list, err := a.nodesCalled(ctx, in.Name)
		return &body[[]NodeInfo]{list}, err
	}))
	huma.Post(api, "/v1/nodes/{name}/approve", handle(a.Logger, func(ctx context.Context, in *named) (*body[ApproveOutput], error) {
		v, left, err := a.Authority.Approve(ctx, operator(ctx), in.Name)
		if err != nil {
			return nil, err
		}
		return &body[ApproveOutput]{ApproveOutput{*v, left}}, nil
	}))
	huma.Post(api, "/v1/nodes/{name}/release", handle(a.Logger, func(ctx context.Context, in *named) (*struct{}, error) {
		return nil, a.Authority.Release(ctx, operator(ctx), in.Name)
	}))
	type evidenceIn struct {
		Name   string `path:"name"`
		Serial string `query:"serial" doc:"of one of its certificates; empty: the last one"`
	}
	huma.Get(api, "/v1/nodes/{name}/evidence", handle(a.Logger, func(ctx context.Context, in *evidenceIn) (*body[evidence.Record], error) {
		r, err := a.evidence(ctx, in.Name, in.Serial)
		if err != nil {
			return nil, err
		}
		return &body[evidence.Record]{*r}, nil
	}))
	type revokeIn struct {
		Name string `path:"name"`
		Body RevokeInput
	}
	huma.Post(api, "/v1/nodes/{name}/refuse", handle(a.Logger, func(ctx context.Context, in *revokeIn) (*struct{}, error) {
		return nil, a.Authority.Refuse(ctx, operator(ctx), in.Name, in.Body.Reason)
	}))
	huma.Post(api, "/v1/nodes/{name}/revoke", handle(a.Logger, func(ctx context.Context, in *revokeIn) (*body[RevokeOutput], error) {
		out, err := a.Authority.RevokeNode(ctx, operator(ctx), in.Name, in.Body.ReasonCode, in.Body.Reason)
		return &body[RevokeOutput]{*revokeOutput(out)}, err
	}))
}

func (a *Admin) certificates(api huma.API) {
	type serialIn struct {
		Serial string `path:"serial"`
	}
	huma.Get(api, "/v1/certificates", handle(a.Logger, func(ctx context.Context, in *struct {
		From uint64 `query:"from"`
	}) (*body[[]CertificateInfo], error) {
		list, err := a.certificateList(ctx, in.From)
		return &body[[]CertificateInfo]{list}, err
	}))
	huma.Get(api, "/v1/certificates/{serial}", handle(a.Logger, func(ctx context.Context, in *serialIn) (*body[CertificateInfo], error) {
		c, err := a.certificate(ctx, in.Serial)
		return &body[CertificateInfo]{c}, err
	}))
	type revokeIn struct {
		Serial string `path:"serial"`
		Body   RevokeInput
	}
	huma.Post(api, "/v1/certificates/{serial}/revoke", handle(a.Logger, func(ctx context.Context, in *revokeIn) (*body[RevokeOutput], error) {
		serial, err := parseSerial(in.Serial)
		if err != nil {
			return nil, err
		}
		out, err := a.Authority.RevokeCertificate(ctx, operator(ctx), serial, in.Body.ReasonCode, in.Body.Reason)
		return &body[RevokeOutput]{*revokeOutput(out)}, err
	}))
}

func parseSerial(s string) (merkle.Serial, error) {
	serial, err := merkle.ParseSerial(s)
	if err != nil {
		return 0, &problem{chancery.Problem{Title: "Bad Request", Status: 400, Detail: err.Error(), Code: "bad-serial", Hint: "a serial number is LOG:INDEX, as in 1:42"}}
	}
	return serial, nil
}

package api

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A RevokeInput says why.
type RevokeInput struct {
	Reason     string              `json:"reason" maxLength:"200"`
	ReasonCode chancery.ReasonCode `json:"reason_code,omitempty" doc:"RFC 5280 section 5.3.1"`
}

// A RevokeOutput says what a revocation did, or what one would do.
type RevokeOutput struct {
	Selectors    uint64         `json:"selectors" doc:"that were taken"`
	Nodes        uint64         `json:"nodes"`
	Certificates uint64         `json:"certificates"`
	Already      uint64         `json:"already" doc:"selectors of nodes, and certificates, that had been revoked before"`
	Expired      uint64         `json:"expired" doc:"certificates that no list has to name any more"`
	Unknown      uint64         `json:"unknown" doc:"selectors that name nothing"`
	List         string         `json:"list" doc:"SHA-256 over the selectors in their one form, a newline after each"`
	CRL          uint64         `json:"crl" doc:"number of the list that names them"`
	DryRun       bool           `json:"dry_run,omitempty"`
	First        []RevokeFound  `json:"first,omitempty" doc:"the first few that were found"`
	NotFound     []RevokeMissed `json:"not_found,omitempty" doc:"the first hundred that were not"`
}

// A RevokeFound is something that a selector names.
type RevokeFound struct {
	Line     uint64    `json:"line"`
	Selector string    `json:"selector"`
	Name     string    `json:"name"`
	NodeID   string    `json:"node_id"`
	Serial   string    `json:"serial,omitempty"`
	Revoked  time.Time `json:"revoked,omitzero" doc:"if it was before"`
}

// A RevokeMissed is a selector that names nothing.
type RevokeMissed struct {
	Line     uint64 `json:"line"`
	Selector string `json:"selector"`
}

// A RevokeEvent is a line of the answer to POST /v1/revocations: how far it is,
// and at last a result or a problem, or both if it broke off.
type RevokeEvent struct {
	Progress *RevokeProgress   `json:"progress,omitempty"`
	Result   *RevokeOutput     `json:"result,omitempty"`
	Problem  *chancery.Problem `json:"problem,omitempty"`
}

// A RevokeProgress says how far a revocation is.
type RevokeProgress struct {
	Selectors    uint64 `json:"selectors"`
	Certificates uint64 `json:"certificates"`
}

// A RevokeQuery is the query of POST /v1/revocations.
type RevokeQuery struct {
	Scope         authority.Scope
	Code          chancery.ReasonCode
	Reason        string
	DryRun        bool
	IgnoreUnknown bool
}

const maxReason = 200

// Path returns where to send the list.
func (q *RevokeQuery) Path() string {
	v := url.Values{"scope": {string(q.Scope)}, "reason": {q.Reason}, "reason_code": {q.Code.String()},
		"dry_run": {strconv.FormatBool(q.DryRun)}, "ignore_unknown": {strconv.FormatBool(q.IgnoreUnknown)}}
	return "/v1/revocations?" + v.Encode()
}

func parseRevokeQuery(v url.Values) (q RevokeQuery, err error) {
	fail := func(format string, args ...any) (RevokeQuery, error) {
		return q, &problem{chancery.Problem{Status: 400, Detail: fmt.Sprintf(format, args...), Code: "invalid"}}
	}
	q.Scope, q.Reason = authority.Scope(v.Get("scope")), v.Get("reason")
	if q.Scope != authority.Nodes && q.Scope != authority.Certificates {
		return fail("scope is %s or %s", authority.Nodes, authority.Certificates)
	}
	if len(q.Reason) > maxReason {
		return fail("the reason has %d bytes, at most %d", len(q.Reason), maxReason)
	}
	if s := v.Get("reason_code"); s != "" {
		if q.Code, err = chancery.ParseReasonCode(s); err != nil {
			return fail("%v", err)
		}
	}
	for name, to := range map[string]*bool{"dry_run": &q.DryRun, "ignore_unknown": &q.IgnoreUnknown} {
		if s := v.Get(name); s != "" {
			if *to, err = strconv.ParseBool(s); err != nil {
				return fail("%s is true or false", name)
			}
		}
	}
	return q, nil
}

func revokeOutput(r *authority.Revoked) *RevokeOutput {
	out := &RevokeOutput{Selectors: r.Selectors, Nodes: r.Nodes, Certificates: r.Certificates, Already: r.Already, Expired: r.Expired, Unknown: r.Unknown,
		List: hex.EncodeToString(r.List[:]), CRL: r.CRL}
	for _, f := range r.First {
		out.First = append(out.First, RevokeFound{f.Line, f.Selector, f.Name, f.NodeID.String(), f.Serial, f.Revoked})
	}
	for _, m := range r.Misses {
		out.NotFound = append(out.NotFound, RevokeMissed{m.Line, m.Selector})
	}
	return out
}

// revocations takes a list of selectors of any length, as text with one in a
// line, and answers while it reads with a [RevokeEvent] in each line. Neither
// end has to have the list in memory.
func (a *Admin) revocations(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).EnableFullDuplex() // of HTTP/2, which always is, it is an error
	answer := events{w: w, logger: a.Logger}
	q, err := parseRevokeQuery(r.URL.Query())
	if err != nil {
		answer.end(nil, err)
		return
	}
	done, err := a.Authority.Revoke(r.Context(), operator(r.Context()), authority.RevokeRequest(q), authority.ReadSelectors(q.Scope, r.Body),
		func(t store.Tally) { answer.send(&RevokeEvent{Progress: &RevokeProgress{t.Selectors, t.Certificates}}) })
	var out *RevokeOutput
	if done != nil {
		out = revokeOutput(done)
		out.DryRun = q.DryRun
	}
	answer.end(out, err)
	// Whoever is still sending gets to read the answer first.
	io.CopyN(io.Discard, r.Body, maxDiscarded)
}

const maxDiscarded = 64 << 20

// events answers with a line for each event.
type events struct {
	w      http.ResponseWriter
	logger *slog.Logger
	begun  bool
}

func (e *events) send(v *RevokeEvent) {
	if !e.begun {
		e.w.Header().Set("Content-Type", "application/x-ndjson")
		e.begun = true
	}
	// An error means that nobody listens; what is being done is noticed there.
	if json.NewEncoder(e.w).Encode(v) == nil {
		http.NewResponseController(e.w).Flush()
	}
}

// end sends the last event. A refusal before anything was sent is an answer
// like all others.
func (e *events) end(out *RevokeOutput, err error) {
	if err == nil {
		e.send(&RevokeEvent{Result: out})
		return
	}
	if !e.begun {
		refuse(e.w, e.logger, err)
		http.NewResponseController(e.w).Flush()
		return
	}
	e.send(&RevokeEvent{Result: out, Problem: &told(e.logger, err).Problem})
}

package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

const (
	// callTime is how long a call may take: an HSM may be slow, and a long
	// poll is.
	callTime = 60 * time.Second
	// maxJSON is far above every answer; the largest holds an N:C.
	maxJSON = 1 << 20
	// maxCRL is the limit of our format; the longest X.509 CRL has 40 MB.
	maxCRL = 64 << 20
)

// Enroll opens an enrolment (docs/protocol.md section 4, steps 1 to 3).
func (c *Conn) Enroll(ctx context.Context, m *chancery.InitialConnection) (*chancery.Answer, error) {
	return call[chancery.Answer](ctx, c, http.MethodPost, "/v1/enroll", m)
}

// Renew opens a renewal. The connection must have been dialled with the node's
// identity.
func (c *Conn) Renew(ctx context.Context, m *chancery.InitialConnection) (*chancery.Answer, error) {
	return call[chancery.Answer](ctx, c, http.MethodPost, "/v1/renew", m)
}

// Submit sends N:S and the evidence (steps 5 to 7).
func (c *Conn) Submit(ctx context.Context, intake string, s *chancery.Submission) (*chancery.Verdict, error) {
	return call[chancery.Verdict](ctx, c, http.MethodPost, "/v1/enroll/"+url.PathEscape(intake), s)
}

// Verdict asks what became of a submission.
func (c *Conn) Verdict(ctx context.Context, intake string) (*chancery.Verdict, error) {
	return call[chancery.Verdict](ctx, c, http.MethodGet, "/v1/enroll/"+url.PathEscape(intake), nil)
}

// Reseal asks that the node's boot state be approved (section 4, Sealing).
func (c *Conn) Reseal(ctx context.Context, r *chancery.ResealRequest) (*chancery.ResealAnswer, error) {
	return call[chancery.ResealAnswer](ctx, c, http.MethodPost, "/v1/reseal", r)
}

// Attest shows the node's boot state. The connection must have been dialled
// with the node's identity.
func (c *Conn) Attest(ctx context.Context, r *chancery.AttestRequest) (*chancery.AttestAnswer, error) {
	return call[chancery.AttestAnswer](ctx, c, http.MethodPost, "/v1/attest", r)
}

// Show tells the coordinator what the node holds, because it is something else
// than the coordinator has.
func (c *Conn) Show(ctx context.Context, s *chancery.Shown) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/shown", nil, s, maxJSON)
	return err
}

// X509 asks for the X.509 certificate that accompanies the N:C that the
// connection was dialled with (section 6.8). Nothing of it is verified.
func (c *Conn) X509(ctx context.Context, r *chancery.X509Request) (*chancery.X509Answer, error) {
	return call[chancery.X509Answer](ctx, c, http.MethodPost, "/v1/x509", r)
}

// X509CRL asks for the X.509 CRL of all of a CA id's certificates, in DER
// (section 6.5). It is not verified.
func (c *Conn) X509CRL(ctx context.Context, ca merkle.TrustAnchorID) ([]byte, error) {
	return c.do(ctx, http.MethodGet, chancery.X509CRLPath(ca), nil, nil, maxCRL)
}

// Announce tells the coordinator where this node listens. The connection must
// have been dialled with the node's identity.
func (c *Conn) Announce(ctx context.Context, address string) error {
	_, err := c.do(ctx, http.MethodPut, "/v1/address", nil, chancery.Address{Address: address}, maxJSON)
	return err
}

// Address asks where a node was last seen: a hint.
func (c *Conn) Address(ctx context.Context, name string) (*chancery.Address, error) {
	return call[chancery.Address](ctx, c, http.MethodGet, "/v1/address/"+url.PathEscape(name), nil)
}

// CRL asks for what is newer than the list of this number: a delta or a full
// list, and a full list for number 0. It waits up to wait, at most 30
// seconds, for one to come, and returns nil if none did. The bytes are not
// verified. attest says that the coordinator wants this node to attest now;
// it does so only if the connection was dialled with the node's identity.
func (c *Conn) CRL(ctx context.Context, after uint64, wait time.Duration) (list []byte, attest bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	target := c.base.JoinPath("/v1/crl")
	target.RawQuery = url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}}.Encode()
	r, err := exchange(ctx, &c.client, http.MethodGet, target, nil, maxCRL)
	if err != nil {
		return nil, false, err
	}
	if r.status == http.StatusNoContent {
		r.body = nil
	}
	return r.body, r.header.Get(chancery.HeaderAttest) == chancery.AttestNow, nil
}

// call sends a request in JSON, if it has a body, and parses the answer.
// Fields that this version does not know are passed over.
func call[Answer any](ctx context.Context, c *Conn, method, path string, body any) (*Answer, error) {
	b, err := c.do(ctx, method, path, nil, body, maxJSON)
	if err != nil {
		return nil, err
	}
	answer := new(Answer)
	if err := json.Unmarshal(b, answer); err != nil {
		return nil, fmt.Errorf("coordinator: %s %s: %w: %w", method, path, chancery.ErrMalformed, err)
	}
	return answer, nil
}

func (c *Conn) do(ctx context.Context, method, path string, query url.Values, body any, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	r, err := exchange(ctx, &c.client, method, target, body, limit)
	if err != nil || r.status == http.StatusNoContent {
		return nil, err
	}
	return r.body, nil
}

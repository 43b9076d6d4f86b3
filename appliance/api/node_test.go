package api_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A node goes through the whole exchange (docs/protocol.md section 4) over one
// connection, and renews over one that its N:C authenticates.
func TestExchange(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", true)
	c := w.dial(nil)
	r := c.call("GET", "/.well-known/chancery/pointer", nil)
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/octet-stream" || !bytes.Equal(r.body, w.Pointer.Marshal()) {
		t.Errorf("pointer record: %d, %v", r.status, r.header)
	}
	answer := ok[chancery.Answer](c, "POST", "/v1/enroll", n.Connection(c.exporter()))
	path := "/v1/enroll/" + answer.Intake
	c.call("GET", path, nil).wantProblem(t, "before N:S", http.StatusConflict, "no-n-s")
	verdict := ok[chancery.Verdict](c, "POST", path, n.Submission(&answer))
	nc := w.issued(verdict)
	// Whoever was cut off asks again, from anywhere.
	if again := ok[chancery.Verdict](w.dial(nil), "GET", path, nil); !bytes.Equal(again.NC, verdict.NC) {
		t.Error("the verdict changed")
	}
	w.Check()

	publish(t, w)
	mine := w.dial(n.Identity(nc))
	n.Token = nil
	renewal := ok[chancery.Answer](mine, "POST", "/v1/renew", n.Connection(mine.exporter()))
	renewed := w.issued(ok[chancery.Verdict](mine, "POST", "/v1/enroll/"+renewal.Intake, n.Submission(&renewal)))
	if renewed.Name != "edge-1" || renewed.Serial == nc.Serial {
		t.Errorf("renewed as %s %s", renewed.Name, renewed.Serial)
	}

	mine.done("PUT", "/v1/address", chancery.Address{Address: "192.0.2.1:7443"})
	a := ok[chancery.Address](c, "GET", "/v1/address/edge-1", nil)
	if a != (chancery.Address{Name: "edge-1", Address: "192.0.2.1:7443", Seen: w.Clock.Now()}) {
		t.Errorf("%+v", a)
	}
	c.call("GET", "/v1/address/edge-2", nil).wantProblem(t, "an unknown node", http.StatusNotFound, "not-found")

	challenge := ok[chancery.ResealAnswer](c, "POST", "/v1/reseal", chancery.ResealRequest{NodeID: n.ID().String()})
	q := chancery.ResealQualifying(w.Pointer.FleetID(), n.ID(), [32]byte(challenge.Challenge))
	wish := chancery.ResealRequest{NodeID: n.ID().String(), Challenge: challenge.Challenge, Quote: n.Quote([]int{7}, q), Epoch: new(n.Epoch(q))}
	if a := ok[chancery.ResealAnswer](c, "POST", "/v1/reseal", wish); a.Status != "pending" {
		t.Errorf("%+v", a)
	}
	w.Check()
}

func publish(t *testing.T, w *world) {
	t.Helper()
	if err := w.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.follow()
}

// pop and the token's proof are over the connection: a request that was
// recorded, or is passed on, is worth nothing on another one.
func TestBoundToConnection(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	first, second := w.dial(nil), w.dial(nil)
	req := n.Connection(first.exporter())
	w.WantSpent(0, func() {
		second.call("POST", "/v1/enroll", req).wantProblem(t, "the whole request", http.StatusForbidden, "no-token")
		// A thief who knows the token still does not hold N:SK.
		stolen := *req
		stolen.TokenProof = n.Token.Key().Proof(w.Pointer.FleetID(), n.PoP(second.exporter()), n.Name)
		second.call("POST", "/v1/enroll", &stolen).wantProblem(t, "with the token", http.StatusForbidden, "bad-pop")
	})
	ok[chancery.Answer](first, "POST", "/v1/enroll", req)
}

// What is no good request is told in problem documents, and does not get to
// the rules.
func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	c := w.dial(nil)
	const intake = "/v1/enroll/00000000000000000000000000000000"
	w.WantSpent(0, func() {
		for _, test := range []struct {
			what, method, path, contentType, body string
			status                                int
			code                                  string
		}{
			{"no body", "POST", "/v1/enroll", "application/json", ``, 400, "invalid"},
			{"no JSON", "POST", "/v1/enroll", "application/json", `n_pk`, 422, "invalid"},
			{"something after it", "POST", "/v1/enroll", "application/json", `{} {}`, 422, "invalid"},
			{"an unknown field of an enrolment", "POST", "/v1/enroll", "application/json", `{"surprise":1}`, 422, "invalid"},
			{"no content type", "POST", "/v1/enroll", "", `{}`, 415, "invalid"},
			{"an array", "POST", "/v1/enroll", "application/json", `[]`, 422, "invalid"},
			{"nothing in it", "POST", "/v1/enroll", "application/json", `{}`, 400, "malformed"},
			{"an unknown field", "POST", "/v1/reseal", "application/json", `{"node_id":"00","surprise":1}`, 422, "invalid"},
			{"a number for a string", "POST", "/v1/reseal", "application/json", `{"node_id":7}`, 422, "invalid"},
			{"no base64", "POST", "/v1/reseal", "application/json", `{"node_id":"00","challenge":"%%%"}`, 422, "invalid"},
			{"another content type", "POST", "/v1/reseal", "application/cbor", `{"node_id":"00"}`, 415, "invalid"},
			{"an unknown intake", "GET", intake, "", ``, 404, "not-found"},
			{"an intake that is no number", "GET", "/v1/enroll/xyz", "", ``, 404, "not-found"},
			{"a wait that is too long", "GET", "/v1/crl?wait=61", "", ``, 422, "invalid"},
			{"a wait that is negative", "GET", "/v1/crl?wait=-1", "", ``, 422, "invalid"},
			{"a number that is none", "GET", "/v1/crl?after=x", "", ``, 422, "invalid"},
			{"a body that is too long", "POST", "/v1/enroll", "application/json", `{"n_pk":"` + strings.Repeat("A", 64<<10) + `"}`, 413, "invalid"},
			{"a submission that is too long", "POST", intake, "application/json", `{"n_s":"` + strings.Repeat("A", 768<<10) + `"}`, 413, "invalid"},
			{"a reseal that is too long", "POST", "/v1/reseal", "application/json", `{"node_id":"` + strings.Repeat("A", 64<<10) + `"}`, 413, "invalid"},
			{"an address that is too long", "PUT", "/v1/address", "application/json", `{"address":"` + strings.Repeat("A", 4<<10) + `"}`, 413, "invalid"},
		} {
			r, err := w.dial(nil).send(test.method, test.path, test.contentType, strings.NewReader(test.body))
			if err != nil {
				t.Errorf("%s: %v", test.what, err)
				continue
			}
			r.wantProblem(t, test.what, test.status, test.code)
		}
	})
	for path, status := range map[string]int{"/": 404, "/v1/nodes": 404, "/v1/status": 404, "/docs": 404, "/v1/tokens": 404} {
		if r := c.call("GET", path, nil); r.status != status {
			t.Errorf("GET %s: %d, want %d", path, r.status, status)
		}
	}
	if r := c.call("DELETE", "/v1/enroll", nil); r.status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE /v1/enroll: %d", r.status)
	}
}

// A refusal comes with its code and, where somebody can do something, a hint.
// The name in a refused request does not reach the log unless it is one.
func TestRefusal(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	c := w.dial(nil)
	n.Token = new(chancery.NewToken(w.Pointer.FleetID()))
	p := c.call("POST", "/v1/enroll", n.Connection(c.exporter())).wantProblem(t, "an unknown token", http.StatusForbidden, "no-token")
	if !strings.Contains(p.Hint, "chancery token create") {
		t.Errorf("hint %q", p.Hint)
	}
	n.Name = "edge\n1 forged=line"
	c.call("POST", "/v1/enroll", n.Connection(c.exporter())).wantProblem(t, "no name", http.StatusBadRequest, "bad-name")
	if !w.log.has("initial connection refused") || w.log.has("name=\"edge\\n1") {
		t.Error("the log does not tell of the refusal, or repeats what is no name")
	}
}

// A renewal is for nodes that stand. Whoever cannot show that gets 401, also
// with the certificate of a node that does.
func TestRenewNeedsCertificate(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	nc := w.enrol(n)
	publish(t, w)
	n.Token = nil
	thief := w.chipNode("edge-1", false)
	thief.Token = nil
	good := n.Identity(nc)
	judged := 0
	for _, test := range []struct {
		what     string
		identity *chancery.Identity
	}{
		{"no certificate", nil},
		{"a session certificate that another key signed", thief.Identity(nc)},
		{"N:C without N:SK", &chancery.Identity{NC: nc, Key: good.Key}},
		{"N:C of another fleet", &chancery.Identity{NC: foreign(t), Key: good.Key}},
	} {
		w.WantSpent(0, func() {
			c, err := w.tryDial("127.0.0.1", test.identity)
			if err != nil {
				return // TLS itself saw that the key is not the certificate's
			}
			if _, err := c.send("GET", "/v1/crl", "", nil); err != nil {
				return // likewise, after the client's last flight
			}
			c.call("POST", "/v1/renew", n.Connection(c.exporter())).wantProblem(t, test.what, http.StatusUnauthorized, "not-a-node")
			c.call("PUT", "/v1/address", chancery.Address{Address: "192.0.2.9:1"}).wantProblem(t, test.what, http.StatusUnauthorized, "not-a-node")
			judged++
		})
	}
	if judged != 2 {
		t.Errorf("%d got through TLS, want those with a key of their own: none, and one for whom N:SK did not sign", judged)
	}
	w.dial(nil).call("GET", "/v1/address/edge-1", nil).wantProblem(t, "an address that nobody set", http.StatusNotFound, "not-found")

	// Good until it is revoked, on the connection that is open already too.
	c := w.dial(good)
	ok[chancery.Answer](c, "POST", "/v1/renew", n.Connection(c.exporter()))
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "test"); err != nil {
		t.Fatal(err)
	}
	w.follow()
	w.WantSpent(0, func() {
		c.call("POST", "/v1/renew", n.Connection(c.exporter())).wantProblem(t, "revoked, old connection", http.StatusUnauthorized, "not-a-node")
		c = w.dial(good)
		c.call("POST", "/v1/renew", n.Connection(c.exporter())).wantProblem(t, "revoked, new connection", http.StatusUnauthorized, "not-a-node")
	})

	// A coordinator that does not know what is revoked lets nobody in.
	w.Clock.Advance(2 * appliancetest.CRLLife)
	c = w.dial(good)
	c.call("POST", "/v1/renew", n.Connection(c.exporter())).wantProblem(t, "a stale list", http.StatusUnauthorized, "not-a-node")
}

// Lists: all of it, what is new, nothing, and what comes while one waits.
func TestCRL(t *testing.T) {
	w := newWorld(t)
	c := w.dial(nil)
	get := func(c *conn, query string) *reply {
		t.Helper()
		r := c.call("GET", "/v1/crl"+query, nil)
		if r.status == http.StatusOK && r.header.Get("Content-Type") != "application/octet-stream" || r.status == http.StatusNoContent && len(r.body) > 0 {
			t.Errorf("%s: %d, %v", query, r.status, r.header)
		}
		return r
	}
	full := get(c, "")
	first, err := chancery.OpenCRL(w.Pointer, nil, full.body, w.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"?after=1", "?after=1&wait=0", "?after=1&wait=1"} {
		if r := get(c, query); r.status != http.StatusNoContent {
			t.Errorf("%s: %d", query, r.status)
		}
	}
	nc := w.enrol(w.chipNode("edge-1", false))
	if err := w.Ledger.PublishCRL(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Many wait; a revocation wakes all of them.
	const waiting = 8
	var all sync.WaitGroup
	replies := make([]*reply, waiting)
	for i := range replies {
		c := w.dial(nil)
		all.Go(func() {
			var err error
			if replies[i], err = c.send("GET", "/v1/crl?after=2&wait=60", "", nil); err != nil {
				t.Error(err)
			}
		})
	}
	second := get(c, "?after=1")
	list, err := first.Apply(w.Pointer, second.body, w.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "test"); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for _, r := range replies {
		if r == nil {
			continue
		}
		woken, err := list.Apply(w.Pointer, r.body, w.Clock.Now())
		if err != nil {
			t.Fatalf("%d: %v", r.status, err)
		}
		if err := woken.Check(nc.CA, nc.Serial, nc.NotBefore, w.Clock.Now()); err == nil {
			t.Error("the list that came does not name what was revoked")
		}
	}
	for _, query := range []string{"", "?after=0", "?after=99"} {
		if _, err := chancery.OpenCRL(w.Pointer, nil, get(c, query).body, w.Clock.Now()); err != nil {
			t.Errorf("%q: %v", query, err)
		}
	}
	if _, err := first.Apply(w.Pointer, get(c, "?after=1").body, w.Clock.Now()); err != nil {
		t.Errorf("two steps at once: %v", err)
	}
}

// Each network address has its own allowance.
func TestRate(t *testing.T) {
	w := newWorld(t, func(n *api.Node) { n.Rate = 0.001 })
	n := w.chipNode("edge-1", false)
	a, b := w.dial(nil), w.dialFrom("127.0.0.2", nil)
	answer := ok[chancery.Answer](a, "POST", "/v1/enroll", n.Connection(a.exporter()))
	for _, path := range []string{"/v1/enroll", "/v1/renew", "/v1/reseal", "/v1/enroll/" + answer.Intake} {
		r := a.call("POST", path, struct{}{})
		r.wantProblem(t, path, http.StatusTooManyRequests, "rate")
		if r.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	ok[chancery.Answer](b, "POST", "/v1/enroll", n.Connection(b.exporter()))
	if r := a.call("GET", "/v1/crl", nil); r.status != http.StatusOK {
		t.Errorf("the list is limited as well: %d", r.status)
	}
}

// More enrolments than the coordinator takes at a time are asked to come again,
// and nothing else is. Those that are under way end well.
func TestInFlight(t *testing.T) {
	const most = 512
	w := newWorld(t)
	plain := w.plain()
	holders := make([]net.Conn, most)
	for i := range holders {
		var err error
		if holders[i], err = net.Dial("tcp", plain); err != nil {
			t.Fatal(err)
		}
		defer holders[i].Close()
		// A request whose body is yet to come.
		if _, err := io.WriteString(holders[i], "POST /v1/reseal HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	c := &conn{t: t, base: "http://" + plain}
	defer c.client.CloseIdleConnections()
	ask := func() *reply { return c.call("POST", "/v1/reseal", chancery.ResealRequest{NodeID: "00"}) }
	full := ask()
	for deadline := time.Now().Add(time.Minute); full.status == http.StatusBadRequest && time.Now().Before(deadline); full = ask() {
		full.wantProblem(t, "while there is room", http.StatusBadRequest, "malformed")
	}
	full.wantProblem(t, "one too many", http.StatusServiceUnavailable, "busy")
	if full.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if r := c.call("GET", "/v1/crl", nil); r.status != http.StatusOK {
		t.Errorf("the list is kept out as well: %d", r.status)
	}
	for _, h := range holders {
		if _, err := io.WriteString(h, `{"node_id":"00"}`); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(h), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("one of those that fit: %d", resp.StatusCode)
		}
	}
	ask().wantProblem(t, "when there is room again", http.StatusBadRequest, "malformed")
}

// Without TLS there is no connection to bind an enrolment to.
func TestWithoutTLS(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	c := &conn{t: t, base: "http://" + w.plain()}
	defer c.client.CloseIdleConnections()
	w.WantSpent(0, func() {
		for _, path := range []string{"/v1/enroll", "/v1/renew"} {
			c.call("POST", path, n.Connection([32]byte{})).wantProblem(t, path, http.StatusBadRequest, "no-tls")
		}
	})
}

// A coordinator in trouble says so, and no more.
func TestTrouble(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	c := w.dial(nil)
	req := n.Connection(c.exporter())
	w.Ledger.Close()
	c.call("POST", "/v1/enroll", req).wantProblem(t, "while it stops", http.StatusServiceUnavailable, "stopping")
	if err := w.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for path, message := range map[string]any{
		"POST /v1/enroll":             req,
		"POST /v1/reseal":             chancery.ResealRequest{NodeID: fmt.Sprintf("%064d", 0), Challenge: challenge(c), Quote: &chancery.Quote{Attestation: chancery.Attestation{Attest: []byte{1}, Signature: []byte{1}}, Values: map[int][]byte{}}},
		"GET /v1/address/edge-1":      nil,
		"GET /v1/enroll/" + zeros(32): nil,
	} {
		method, path, _ := strings.Cut(path, " ")
		c.call(method, path, message).wantProblem(t, path, http.StatusInternalServerError, "internal")
	}
	if !w.log.has("database is closed") {
		t.Error("the log does not say why")
	}
}

func zeros(n int) string { return strings.Repeat("0", n) }

func challenge(c *conn) []byte {
	return ok[chancery.ResealAnswer](c, "POST", "/v1/reseal", chancery.ResealRequest{NodeID: zeros(64)}).Challenge
}

// foreign returns the N:C of a node in another fleet.
func foreign(t *testing.T) *chancery.Certificate {
	t.Helper()
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := f.Enroll(fleet.Request{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0].NC
}

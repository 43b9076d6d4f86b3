package api_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// Everybody may have X.509 CRLs, under the path that is in each and under no
// other.
func TestX509CRL(t *testing.T) {
	key, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c := appliancetest.NewPaper(t, 10, func(p *chancery.Pointer) { p.X509Issuer = key.PublicKey() })
	if _, err := c.Authority.RevokeCertificate(t.Context(), "op", 1<<48|3, chancery.ReasonKeyCompromise, ""); err != nil {
		t.Fatal(err)
	}
	i, err := issuer.New(issuer.Config{Store: c.Store, Pointer: c.Pointer, Signer: key, Current: c.Ledger.CRL})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	verifier := chancery.NewVerifier(chancery.Trust{Pointer: c.Pointer, CRL: c.Ledger.CRL()})
	node := func(i *issuer.Issuer) *httptest.Server {
		s := httptest.NewServer(api.NewNode(&api.Node{Authority: c.Authority, Ledger: c.Ledger, Pointer: c.Pointer, Verifier: verifier, X509: i, Now: c.Clock.Now, Logger: logger}))
		t.Cleanup(s.Close)
		return s
	}
	admin := httptest.NewServer(api.NewAdmin(&api.Admin{Authority: c.Authority, Ledger: c.Ledger, Store: c.Store, Pointer: c.Pointer, X509: i, Now: c.Clock.Now, Logger: logger}))
	t.Cleanup(admin.Close)
	s, ca := node(i), c.Pointer.Current().ID

	get := func(url string, header ...string) *reply {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(header) > 0 {
			req.Header.Set(header[0], header[1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return &reply{resp.StatusCode, resp.Header, b}
	}
	head := c.Ledger.CRL().Head()
	for path, operators := range map[string]string{chancery.X509CRLPath(ca): "/v1/crl/x509", chancery.X509PartitionPath(ca, 1, 0): "/v1/crl/x509?partition=0"} {
		r := get(s.URL + path)
		list, err := x509.ParseRevocationList(r.body)
		if err != nil || r.status != 200 || len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].ReasonCode != 1 {
			t.Fatalf("%s: %d, %v, %+v", path, r.status, err, list)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/pkix-crl", "Cache-Control": "public, max-age=" + fmt.Sprint(int(head.NextUpdate.Sub(c.Clock.Now()).Seconds())),
			"Last-Modified": head.ThisUpdate.Format(http.TimeFormat), "Expires": head.NextUpdate.Format(http.TimeFormat),
			api.NumberHeader: strconv.FormatUint(head.Number, 10), api.RevokedHeader: "1",
		} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if again := get(s.URL+path, "If-None-Match", r.header.Get("ETag")); again.status != http.StatusNotModified || len(again.body) > 0 {
			t.Errorf("%s: who has it already gets %d with %d bytes", path, again.status, len(again.body))
		}
		if theirs := get(admin.URL + operators); !bytes.Equal(theirs.body, r.body) {
			t.Errorf("%s: operators have another list: %d, %s", path, theirs.status, theirs.body)
		}
	}

	for path, why := range map[string]string{
		chancery.X509PartitionPath(ca, 1, 2):                       "a partition that is not there yet",
		chancery.X509PartitionPath(ca, 2, 0):                       "another log",
		chancery.X509PartitionPath(ca, 0, 0):                       "no log",
		"/crl/x509/32473.1.7.crl":                                  "another CA",
		"/crl/x509/" + ca.String():                                 "no suffix",
		"/crl/x509/" + ca.String() + ".crl.crl":                    "two suffixes",
		"/crl/x509/" + ca.String() + "/01/0.crl":                   "another spelling of the log",
		"/crl/x509/" + ca.String() + "/1/+0.crl":                   "another spelling of the partition",
		"/crl/x509/" + ca.String() + "/1/0":                        "no suffix of the partition",
		"/crl/x509/" + ca.String() + "/65537/0.crl":                "a log beyond all",
		"/crl/x509/" + ca.String() + "/1/99999999999999999999.crl": "a partition beyond all",
		"/crl/x509/" + strings.Repeat("1.", 1<<10) + "1.crl":       "a CA id without end",
		"/crl/x509/" + strings.Repeat("9", 1<<10) + "/1/0.crl":     "a CA id that is a number",
	} {
		get(s.URL+path).wantProblem(t, why, 404, "no-list")
	}
	get(admin.URL+"/v1/crl/x509?partition=7").wantProblem(t, "an operator's partition", 404, "no-list")
	get(admin.URL+"/v1/crl/x509?partition=x").wantProblem(t, "an operator's no partition", 400, "invalid")
	get(node(nil).URL+chancery.X509CRLPath(ca)).wantProblem(t, "a fleet without an issuer", 404, "no-list")
	if own := get(admin.URL + "/v1/x509"); own.status != 200 || chancery.VerifyX509CA(c.Pointer, c.Pointer.Current(), own.body) != nil {
		t.Errorf("operators get no certificate of the issuer: %d, %s", own.status, own.body)
	}
	if r, err := http.Post(s.URL+chancery.X509CRLPath(ca), "", nil); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", r, err)
	}
}

// A node asks for its X.509 certificate over a connection under its N:C, and
// nobody else can.
func TestX509Certificate(t *testing.T) {
	w := newWorld(t)
	n := w.chipNode("edge-1", false)
	nc := w.enrol(n)
	key, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pop, err := key.Sign(t.Context(), w.Pointer.FleetID(), chancery.X509PoP{Key: key.PublicKey(), CA: nc.CA, Serial: nc.Serial})
	if err != nil {
		t.Fatal(err)
	}
	req := &chancery.X509Request{Key: key.PublicKey().SPKI(), PoP: pop}
	w.dial(nil).call("POST", "/v1/x509", req).wantProblem(t, "without N:C", 401, "not-a-node")
	c := w.dial(n.Identity(nc))
	a := ok[chancery.X509Answer](c, "POST", "/v1/x509", req)
	if err := chancery.VerifyX509(w.Pointer, nc, key.PublicKey(), a.Certificate); err != nil {
		t.Error(err)
	}
	c.call("POST", "/v1/x509", &chancery.X509Request{Key: req.Key, PoP: []byte{1}}).wantProblem(t, "without a proof", 403, "bad-pop")
	if p := c.call("POST", "/v1/x509", &chancery.X509Request{Key: nc.NodeKey.SPKI(), PoP: n.Sign(chancery.X509PoP{Key: nc.NodeKey, CA: nc.CA, Serial: nc.Serial})}).wantProblem(t, "another key", 409, "other-key"); p.Hint == "" {
		t.Error("there is no hint")
	}
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-1", chancery.ReasonUnspecified, "stolen"); err != nil {
		t.Fatal(err)
	}
	w.follow()
	c.call("POST", "/v1/x509", req).wantProblem(t, "a node that is revoked", 401, "not-a-node")
}

package authority_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// request asks for the certificate of a key, as a node with the N:C does.
func (w *world) request(nc *chancery.Certificate, key *fleet.Key) *chancery.X509Request {
	w.t.Helper()
	pop := chancery.X509PoP{Key: key.PublicKey(), CA: nc.CA, Serial: nc.Serial}
	sig, err := key.Sign(w.t.Context(), w.Pointer.FleetID(), pop)
	if err != nil {
		w.t.Fatal(err)
	}
	return &chancery.X509Request{Key: key.PublicKey().SPKI(), PoP: sig}
}

func (w *world) tlsKey() *fleet.Key {
	w.t.Helper()
	key, err := fleet.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *world) certify(nc *chancery.Certificate, req *chancery.X509Request) (*chancery.X509Answer, error) {
	return w.Authority.CertifyX509(w.t.Context(), renewal(nc, w.Pointer.FleetID()).Peer, req)
}

// A node gets one X.509 certificate with each N:C, which verifies under the
// issuer's own and has N:C's serial number.
func TestX509(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	first, key := w.enrol(n), w.tlsKey()
	a, err := w.certify(first, w.request(first, key))
	if err != nil {
		t.Fatal(err)
	}
	if err := chancery.VerifyX509(w.Pointer, first, key.PublicKey(), a.Certificate); err != nil {
		t.Error(err)
	}
	if err := chancery.VerifyX509CA(w.Pointer, w.Pointer.Current(), a.Issuer); err != nil {
		t.Error(err)
	}
	roots := x509.NewCertPool()
	cert, err1 := x509.ParseCertificate(a.Certificate)
	ca, err2 := x509.ParseCertificate(a.Issuer)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	roots.AddCert(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "edge-1.nodes.example", CurrentTime: w.Clock.Now()}); err != nil {
		t.Error(err)
	}
	again, err := w.certify(first, w.request(first, key))
	if err != nil || !bytes.Equal(again.Certificate, a.Certificate) || !bytes.Equal(again.Issuer, a.Issuer) {
		t.Errorf("who asks again gets something else, %v", err)
	}
	_, err = w.certify(first, w.request(first, w.tlsKey()))
	wantRefusal(t, "another key", err, "other-key")

	// The key may be N:SK itself; and the next N:C brings the next certificate.
	w.Clock.Advance(time.Hour)
	answer := w.connectOver(renewal(first, w.Pointer.FleetID()), n)
	second := w.issued(w.submit(answer, n.Submission(answer)))
	own := chancery.X509PoP{Key: n.Key.PublicKey(), CA: second.CA, Serial: second.Serial}
	b, err := w.certify(second, &chancery.X509Request{Key: n.Key.PublicKey().SPKI(), PoP: n.Sign(own)})
	if err != nil {
		t.Fatal(err)
	}
	if err := chancery.VerifyX509(w.Pointer, second, n.Key.PublicKey(), b.Certificate); err != nil {
		t.Error(err)
	}
	w.Check()
}

// Who does not show what it takes gets nothing.
func TestX509Refused(t *testing.T) {
	w := newWorld(t)
	nc, other := w.enrol(w.node("edge-1", false)), w.enrol(w.other("edge-2"))
	key := w.tlsKey()
	good := w.request(nc, key)
	approval := w.Approval.PublicKey()
	sign := func(s chancery.Statement) chancery.Signature {
		sig, err := w.Approval.Sign(t.Context(), w.Pointer.FleetID(), s)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	for _, test := range []struct {
		what, code string
		req        *chancery.X509Request
	}{
		{"no key", "bad-key", &chancery.X509Request{PoP: good.PoP}},
		{"half a key", "bad-key", &chancery.X509Request{Key: good.Key[:40], PoP: good.PoP}},
		{"no proof", "bad-pop", &chancery.X509Request{Key: good.Key}},
		{"somebody else's key", "bad-pop", &chancery.X509Request{Key: w.tlsKey().PublicKey().SPKI(), PoP: good.PoP}},
		{"the proof of another node", "bad-pop", w.request(other, key)},
		{"the coordinator's own key", "bad-key", &chancery.X509Request{Key: approval.SPKI(), PoP: sign(chancery.X509PoP{Key: approval, CA: nc.CA, Serial: nc.Serial})}},
	} {
		_, err := w.certify(nc, test.req)
		wantRefusal(t, test.what, err, test.code)
	}

	// After all that the certificate is still there to be had, until the node or
	// the N:C is revoked.
	if _, err := w.certify(nc, good); err != nil {
		t.Error(err)
	}
	if _, err := w.Authority.RevokeCertificate(t.Context(), "op", nc.Serial, chancery.ReasonUnspecified, ""); err != nil {
		t.Fatal(err)
	}
	_, err := w.certify(nc, good)
	wantRefusal(t, "a revoked certificate", err, "revoked")
	hold := func(reason string) {
		if err := w.Store.Update(t.Context(), func(tx *store.Tx) error { return tx.Hold(other.NodeID(w.Pointer.FleetID()), reason) }); err != nil {
			t.Fatal(err)
		}
	}
	hold("its boot state")
	_, err = w.certify(other, w.request(other, key))
	wantRefusal(t, "a node that is held", err, "held")
	if _, err := w.Authority.RevokeNode(t.Context(), "op", "edge-2", chancery.ReasonUnspecified, "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err = w.certify(other, w.request(other, key))
	wantRefusal(t, "a revoked node", err, "revoked")
	w.Check()
}

// A coordinator without the issuer's key says so.
func TestX509WithoutIssuer(t *testing.T) {
	w := newWorld(t)
	nc := w.enrol(w.node("edge-1", false))
	w.Authority = w.With(func(c *authority.Config) { c.X509 = nil })
	_, err := w.certify(nc, w.request(nc, w.tlsKey()))
	wantRefusal(t, "without the key", err, "no-issuer")
}

// A log that has ended is of a database that may be lost, and with it what was
// certified beside its entries.
func TestX509OfEndedLog(t *testing.T) {
	w := newWorld(t)
	nc := w.enrol(w.node("edge-1", false))
	next := *w.Pointer
	next.Keys = slices.Clone(next.Keys)
	next.Keys[0].Logs = []uint16{1, 2}
	w.Authority = w.With(func(c *authority.Config) { c.Pointer = &next })
	_, err := w.certify(nc, w.request(nc, w.tlsKey()))
	wantRefusal(t, "an N:C of the log before", err, "old-log")
}

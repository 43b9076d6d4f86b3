package run

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

// A follower keeps what the agent tells of the X.509 certificate.
type follower struct {
	m *machine
	// mu guards events.
	mu     sync.Mutex
	events []X509Event
}

// follow asks for the certificate, for as long as the agent runs.
func (m *machine) follow(kind string) *follower {
	m.t.Helper()
	f := &follower{m: m}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.client(func(c *Client) error { // ends with an error if the agent does
			return c.X509(ctx, &X509Request{Key: kind}, func(e X509Event) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.events = append(f.events, e)
			})
		})
	}()
	m.t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// find waits for an event.
func (f *follower) find(what string, is func(X509Event) bool) (found X509Event) {
	f.m.t.Helper()
	f.m.eventually(what, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if is(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (f *follower) first() *X509Set {
	f.m.t.Helper()
	return f.find("there is a certificate", func(e X509Event) bool { return e.Set != nil }).Set
}

func der(t *testing.T, text []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %s", text)
	}
	return block.Bytes
}

// check holds a set against what third parties would.
func (s *X509Set) check(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der(t, s.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(der(t, s.Issuer))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(issuer)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Error(err)
	}
	if cert.Subject.CommonName != name {
		t.Errorf("it is %s's", cert.Subject)
	}
	list, err := x509.ParseRevocationList(der(t, s.CRL))
	if err == nil {
		err = list.CheckSignatureFrom(issuer)
	}
	if err != nil {
		t.Error(err)
	}
	return cert
}

// A program that knows X.509 gets certificate, key and list; the same after the
// agent's next start, without a coordinator; and a newer list as soon as
// somebody is revoked.
func TestX509(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m, other := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	m.startReady()
	f := m.follow(KeySoftware)
	set := f.first()
	cert := set.check(t, "edge-1")
	if _, err := tls.X509KeyPair(set.Certificate, set.Key); err != nil {
		t.Error(err)
	}
	if set.Serial != m.status().Certificate.Serial || !cert.NotAfter.Equal(m.status().Certificate.NotAfter) || set.Revoked != 0 {
		t.Errorf("serial %s until %s, N:C is %+v", set.Serial, set.NotAfter, m.status().Certificate)
	}
	c.Revoke(other.name)
	next := f.find("the list names one", func(e X509Event) bool { return e.Set != nil && e.Set.Revoked == 1 }).Set
	next.check(t, "edge-1")
	if !bytes.Equal(next.Certificate, set.Certificate) || !bytes.Equal(next.Key, set.Key) || next.Number <= set.Number {
		t.Errorf("the certificate has changed with the list: %s, then %s; list %d after %d", set.Serial, next.Serial, next.Number, set.Number)
	}

	// A heartbeat names nobody else, and is no change.
	asked := c.Calls("GET /crl/x509/{ca}")
	number := c.Heartbeat().Head().Number
	m.eventually("the agent has the heartbeat", func() bool { return m.status().CRL.Number >= number })
	time.Sleep(100 * time.Millisecond)
	if n := c.Calls("GET /crl/x509/{ca}"); n != asked {
		t.Errorf("a heartbeat made the agent ask for the list %d times", n-asked)
	}

	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	asked = c.Calls("POST /v1/x509")
	m.startReady()
	again := m.follow(KeySoftware).first()
	if !bytes.Equal(again.Certificate, set.Certificate) || !bytes.Equal(again.Key, set.Key) {
		t.Error("after a restart the certificate is another one")
	}
	if n := c.Calls("POST /v1/x509"); n != asked {
		t.Errorf("after a restart the coordinator was asked %d times for what is on disk", n-asked)
	}
}

// The next N:C brings the next certificate, with a key of its own, and nobody
// has to do anything.
func TestX509Renews(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 6 * time.Second})
	m := enrol(t, c, "edge-1")
	m.startReady()
	f := m.follow(KeySoftware)
	seen := map[string]bool{}
	for len(seen) < 3 {
		set := f.find("there is the next certificate", func(e X509Event) bool { return e.Set != nil && !seen[e.Set.Serial] }).Set
		seen[set.Serial] = true
		set.check(t, "edge-1")
		if _, err := tls.X509KeyPair(set.Certificate, set.Key); err != nil {
			t.Error(err)
		}
		if seen[string(set.Key)] {
			t.Error("two certificates have one key")
		}
		seen[string(set.Key)] = true
	}
}

// With the key in the chip there is no secret in the files: a TSS2 key, and the
// certificate of N:PK. One N:C has one certificate, so the other kind of key has
// to wait for the next one; a sealed key cannot be lent at all.
func TestX509InChip(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	sealed := enrol(t, c, "edge-1")
	sealed.startReady()
	sealed.follow(KeyTPM).find("a sealed key is refused", func(e X509Event) bool {
		return strings.Contains(e.Error, "a sealed key has no TSS2 form") && e.Hint != ""
	})
	sealed.follow(KeySoftware).first() // that was not in the way of anything

	m := enrolUnsealed(t, c, "edge-2")
	m.startReady()
	set := m.follow(KeyTPM).first()
	cert := set.check(t, "edge-2")
	if key := m.nodeKey(); !bytes.Equal(cert.RawSubjectPublicKeyInfo, key.SPKI()) || !bytes.HasPrefix(set.Key, []byte("-----BEGIN TSS2 PRIVATE KEY-----")) {
		t.Errorf("the key is %s, of N:PK: %t", set.Key, bytes.Equal(cert.RawSubjectPublicKeyInfo, key.SPKI()))
	}
	m.follow(KeySoftware).find("the other kind is refused", func(e X509Event) bool { return strings.Contains(e.Error, "another key") })
	m.follow("gold").find("no kind of key", func(e X509Event) bool { return strings.Contains(e.Error, "software") })
}

// A coordinator that lies is not believed, and what there was stays.
func TestX509Lies(t *testing.T) {
	other := testcoordinator.New(t, testcoordinator.Options{})
	stranger := enrol(t, other, "edge-1")
	stranger.startReady()
	theirs := stranger.follow(KeySoftware).first()

	c := testcoordinator.New(t, testcoordinator.Options{})
	for what, faults := range map[string]testcoordinator.Faults{
		"not acceptable": {X509: func(a *chancery.X509Answer) { a.Certificate = der(t, theirs.Certificate) }},
		"says something": {X509: func(a *chancery.X509Answer) { a.Issuer = der(t, theirs.Issuer) }},
		"our own list":   {X509CRL: func(h *chancery.CRLHead) { h.Number = 0 }},
		"was good until": {X509CRL: func(h *chancery.CRLHead) { h.NextUpdate = h.ThisUpdate.Add(-time.Hour) }},
		"404":            {Serve: func(http.Handler) http.Handler { return http.NotFoundHandler() }},
	} {
		m := enrol(t, c, "edge-"+strings.ReplaceAll(what, " ", "-"))
		m.startReady()
		c.Misbehave(faults)
		f := m.follow(KeySoftware)
		f.find("the lie is told: "+what, func(e X509Event) bool { return strings.Contains(e.Error, what) })
		c.Misbehave(testcoordinator.Faults{})
		f.first().check(t, m.name)
		if f.find("there was an event", func(X509Event) bool { return true }).Set != nil {
			t.Errorf("%s: it was believed", what)
		}
		m.stop()
	}
}

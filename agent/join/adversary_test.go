package join_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

func newKey(t *testing.T) *fleet.Key {
	t.Helper()
	k, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Whoever cannot prove to be the coordinator gets nothing out of the chip:
// no activated credential, no attestation, no N:S.
func TestNotOurCoordinator(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	stranger, pin := newKey(t), c.Fleet()
	for _, test := range []struct {
		name   string
		faults testcoordinator.Faults
		says   string
	}{
		{"signed by another key", testcoordinator.Faults{Signer: stranger}, "signature"},
		{"for another N:PK", testcoordinator.Faults{CANS: func(a *chancery.CANS) {
			a.NodeKey, a.NodeID = stranger.PublicKey(), chancery.NewNodeID(pin, stranger.PublicKey())
		}}, "another key"},
		{"for another AK", testcoordinator.Faults{CANS: func(a *chancery.CANS) { a.AKName = bytes.Repeat([]byte{1}, 34) }}, "attestation key"},
		{"for another EK", testcoordinator.Faults{CANS: func(a *chancery.CANS) { a.EKDigest[0] ^= 1 }}, "endorsement key"},
		{"another nonce", testcoordinator.Faults{CANS: func(a *chancery.CANS) { a.NodeNonce[0] ^= 1 }}, "nonce"},
		{"stale", testcoordinator.Faults{CANS: func(a *chancery.CANS) {
			a.Issued, a.Expires = a.Issued.Add(-time.Hour), a.Issued.Add(-time.Hour+chancery.MaxCANSLife)
		}}, "expired"},
		{"from the future", testcoordinator.Faults{CANS: func(a *chancery.CANS) {
			a.Issued, a.Expires = a.Issued.Add(48*time.Hour), a.Issued.Add(48*time.Hour+chancery.MaxCANSLife)
		}}, "future"},
		{"lives too long", testcoordinator.Faults{CANS: func(a *chancery.CANS) { a.Expires = a.Issued.Add(time.Hour) }}, "lives"},
		{"of another intake", testcoordinator.Faults{Answer: func(a *chancery.Answer) { a.Intake = strings.Repeat("0", 32) }}, "intake"},
		{"a flipped bit", testcoordinator.Faults{Answer: func(a *chancery.Answer) { a.CANS[len(a.CANS)/2] ^= 1 }}, ""},
		{"cut", testcoordinator.Faults{Answer: func(a *chancery.Answer) { a.CANS = a.CANS[:len(a.CANS)-1] }}, "malformed"},
		{"nothing", testcoordinator.Faults{Answer: func(a *chancery.Answer) { a.CANS = nil }}, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.t = t
			o := m.options(c)
			c.Misbehave(test.faults)
			_, err := m.join(o)
			if !errors.Is(err, chancery.ErrNotOurCoordinator) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %v with %q", err, chancery.ErrNotOurCoordinator, test.says)
			}
			if m.tap.saw(ccActivateCredential, ccCertifyCreation, ccQuote) {
				t.Error("the chip activated a credential or attested something")
			}
			if c.Calls("POST /v1/enroll/{intake}") > 0 {
				t.Error("N:S was sent")
			}
			m.wantNotEnrolled()
		})
	}
	// The honest one is found all the same, and the key is still the first.
	m.t = t
	key := m.nodeKey()
	c.Misbehave(testcoordinator.Faults{})
	if _, err := m.join(m.options(c)); err != nil {
		t.Fatal(err)
	}
	if !m.wantEnrolled(c).NodeKey.Equal(key) {
		t.Error("another key")
	}
}

// The server behind the pointer record's address has another TLS key.
func TestPinMismatch(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	c.Publish(func(p *chancery.Pointer) {
		p.Endpoints = []chancery.Endpoint{{URL: c.URL, Pins: [][32]byte{{1}}}}
	})
	if _, err := m.join(m.options(c)); !errors.Is(err, chancery.ErrNotOurCoordinator) {
		t.Errorf("%v, want %v", err, chancery.ErrNotOurCoordinator)
	}
	if c.Calls("POST /v1/enroll") > 0 {
		t.Error("the node spoke to a server that it should not trust")
	}
}

func TestPointer(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	other := testcoordinator.New(t, testcoordinator.Options{})
	fork := c.Record(func(p *chancery.Pointer) { p.Seq, p.Previous, p.MinCRL = 1, [32]byte{}, 1 })
	expired := c.Record(func(p *chancery.Pointer) { p.Issued, p.Expires = p.Issued.Add(-2*time.Hour), p.Issued.Add(-time.Hour) })
	for _, test := range []struct {
		name   string
		serves []byte
		want   error
	}{
		{"of another fleet", other.Pointer().Marshal(), chancery.ErrPin},
		{"expired", expired.Marshal(), chancery.ErrPointerExpired},
		{"junk", []byte("<html>"), chancery.ErrMalformed},
		{"nothing", nil, chancery.ErrMalformed},
		{"endless", bytes.Repeat([]byte{0}, 1<<20), chancery.ErrMalformed},
		{"a flipped bit", flip(c.Pointer().Marshal(), -1), chancery.ErrSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.t = t
			c.Misbehave(testcoordinator.Faults{Pointer: func([]byte) []byte { return test.serves }})
			o := m.options(c)
			if _, err := m.join(o); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if _, err := m.look().Pointer(); err == nil {
				t.Error("the record was stored")
			}
		})
	}
	m.t = t
	// A join that is held has stored the record; a fork of it is refused by
	// the next one.
	c.Misbehave(testcoordinator.Faults{Hold: true})
	o := m.options(c)
	o.Wait = false
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	c.Misbehave(testcoordinator.Faults{Pointer: func([]byte) []byte { return fork.Marshal() }})
	if _, err := m.join(o); !errors.Is(err, chancery.ErrPointerFork) {
		t.Errorf("fork: %v", err)
	}
	if a := m.look().Alarms(); len(a) != 1 || a[0] != state.PointerFork {
		t.Errorf("alarms %v", a)
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

// The coordinator was good, and then sends a certificate that is not what N:S
// asked for.
func TestWrongCertificate(t *testing.T) {
	stranger := newKey(t)
	for _, test := range []struct {
		name   string
		faults testcoordinator.Faults
		want   error
	}{
		{"for another key", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.NodeKey = stranger.PublicKey() }}, join.ErrCertificate},
		{"of another name", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.Name = "edge-2" }}, join.ErrCertificate},
		{"with another N:S", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.NS.CANSHash[0] ^= 1 }}, join.ErrCertificate},
		{"with another time in N:S", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.NS.Created = s.NS.Created.Add(time.Second) }}, join.ErrCertificate},
		{"of another trust domain", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.TrustDomain = "other.example" }}, chancery.ErrNotNC},
		{"that lives too long", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.NotAfter = s.NotBefore.Add(365 * 24 * time.Hour) }}, chancery.ErrLife},
		{"that has ended", testcoordinator.Faults{Subject: func(s *chancery.Subject) {
			s.NotBefore, s.NotAfter = s.NotBefore.Add(-2*time.Hour), s.NotBefore.Add(-time.Hour)
		}}, nil},
		{"not signed by CA:SK", testcoordinator.Faults{Verdict: func(v *chancery.Verdict) { v.NC = flip(v.NC, -1) }}, nil},
		{"junk", testcoordinator.Faults{Verdict: func(v *chancery.Verdict) { v.NC = []byte("junk") }}, join.ErrCertificate},
		{"nothing", testcoordinator.Faults{Verdict: func(v *chancery.Verdict) { v.NC = nil }}, merkle.ErrMalformed},
		{"an unknown verdict", testcoordinator.Faults{Verdict: func(v *chancery.Verdict) { v.Status = "maybe" }}, chancery.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
			c.Misbehave(test.faults)
			_, err := m.join(m.options(c))
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			m.wantNotEnrolled()
			// The next attempt is not held up by it.
			c.Misbehave(testcoordinator.Faults{})
			if _, err := m.join(m.options(c)); err != nil {
				t.Fatal(err)
			}
			m.wantEnrolled(c)
		})
	}
}

// Without a good CRL there is no enrolment, and with it the same intake goes
// on.
func TestCRL(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	other := testcoordinator.New(t, testcoordinator.Options{})
	stale := c.OtherCRL(0, time.Second).Marshal()
	time.Sleep(1100 * time.Millisecond) // an artefact has whole seconds
	o := m.options(c)
	for _, test := range []struct {
		name   string
		serves []byte
		want   error
	}{
		{"absent", nil, chancery.ErrMalformed},
		{"junk", []byte("junk"), chancery.ErrMalformed},
		{"of another fleet", other.CRL(0).Marshal(), chancery.ErrSignature},
		{"a flipped bit", flip(c.CRL(0).Marshal(), 20), nil},
		{"stale", stale, chancery.ErrCRLStale},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.t = t
			c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return test.serves }})
			_, err := m.join(o)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			m.wantNotEnrolled()
		})
	}
	m.t = t
	c.Misbehave(testcoordinator.Faults{})
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	if nc := m.wantEnrolled(c); nc.Serial.Index() != 1 || c.Calls("POST /v1/enroll") != 1 {
		t.Errorf("serial %s after %d initial connections, want the first of one", nc.Serial, c.Calls("POST /v1/enroll"))
	}
}

// A certificate that is on the CRL already is not taken.
func TestRevokedAtBirth(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	c.Misbehave(testcoordinator.Faults{Hold: true})
	o := m.options(c)
	o.Wait = false
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte {
		c.Revoke("edge-1")
		return c.CRL(0).Marshal()
	}})
	if err := c.Approve("edge-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.join(o); !errors.Is(err, chancery.ErrRevoked) {
		t.Errorf("%v, want %v", err, chancery.ErrRevoked)
	}
	m.wantNotEnrolled()
}

func TestRefused(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	c.Misbehave(testcoordinator.Faults{Refuse: "not in this \x1b[31mhouse\n"})
	_, err := m.join(m.options(c))
	refused, ok := errors.AsType[*join.RefusedError](err)
	if !ok || refused.Reason != "not in this [31mhouse" {
		t.Errorf("%q, want the reason without control characters", err)
	}
	m.wantNotEnrolled()
	if _, err := m.look().Intake(); err == nil {
		t.Error("the intake is still there")
	}

	o := m.options(c)
	o.Token = nil
	if p, ok := errors.AsType[*chancery.Problem](second(m.join(o))); !ok || p.Code != "bad-token" {
		t.Errorf("without a token: %v", p)
	}
}

func second(_ *join.Result, err error) error { return err }

func TestPending(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	c.Misbehave(testcoordinator.Faults{Hold: true})
	o := m.options(c)
	o.Wait = false
	r, err := m.join(o)
	if err != nil || r.Status != join.Pending || r.Node != "edge-1" {
		t.Fatalf("%+v, %v", r, err)
	}
	m.wantNotEnrolled()

	// Waiting, and interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	o.Wait, o.Notice = true, func(s string) {
		if strings.Contains(s, "approve edge-1") {
			cancel()
		}
	}
	dir, err := state.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = join.Join(ctx, dir, o)
	dir.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}

	// Approved while it waits: the same intake, no second question.
	o.Notice = func(s string) {
		if strings.Contains(s, "approve edge-1") && c.Waiting("edge-1") > 0 {
			if err := c.Approve("edge-1"); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	m.wantEnrolled(c)
	if n := c.Calls("POST /v1/enroll"); n != 1 {
		t.Errorf("%d initial connections, want 1", n)
	}
}

// A connection that is lost ends the enrolment: it is bound to the connection.
func TestLostConnection(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	o := m.options(c)
	for _, path := range []string{"/.well-known/chancery/pointer", "/v1/enroll", "/v1/enroll/", "/v1/crl"} {
		c.Misbehave(testcoordinator.Faults{Serve: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.TrimRight(r.URL.Path, "0123456789abcdef") == path {
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(w, r)
			})
		}})
		if _, err := m.join(o); err == nil {
			t.Errorf("%s: joined over a lost connection", path)
		}
		m.wantNotEnrolled()
	}
	c.Misbehave(testcoordinator.Faults{})
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	m.wantEnrolled(c)
}

// A coordinator that does not answer does not hold the node for ever.
func TestSlowCoordinator(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	c.Misbehave(testcoordinator.Faults{Serve: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
	}})
	dir, err := state.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := join.Join(ctx, dir, m.options(c)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
}

// The machine changed between two attempts: its first key would not sign, so
// there is another one.
func TestSealClosedBetweenAttempts(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	o := m.options(c)
	c.Misbehave(testcoordinator.Faults{Signer: newKey(t)})
	if _, err := m.join(o); !errors.Is(err, chancery.ErrNotOurCoordinator) {
		t.Fatal(err)
	}
	first := m.nodeKey()
	chip := m.chip.Open(t)
	if err := errors.Join(chip.ExtendPCR(7, [32]byte{1}), chip.Close()); err != nil {
		t.Fatal(err)
	}
	c.Misbehave(testcoordinator.Faults{})
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	if m.wantEnrolled(c).NodeKey.Equal(first) {
		t.Error("the key whose seal is closed is in use")
	}
}

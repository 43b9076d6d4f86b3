package chancery

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func TestSessionCertificate(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1", func(s *Subject) { s.DNSNames = []string{"edge-1.fleet.example"} })
	if err := w.judge(n.certs()); err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(n.certificate)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.CommonName != "edge-1" || c.Issuer.CommonName != "edge-1" || c.IsCA || len(c.URIs) != 1 ||
		c.URIs[0].String() != n.nc.SPIFFEID() || len(c.DNSNames) != 1 || len(c.SerialNumber.Bytes()) != 16 {
		t.Errorf("crypto/x509 reads %+v", c)
	}
	// The signature is an ordinary one over the TBSCertificate by N:SK.
	c.PublicKeyAlgorithm = x509.ECDSA
	if err := (&x509.Certificate{PublicKey: n.nc.NodeKey.ECDSA(), PublicKeyAlgorithm: x509.ECDSA}).CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
}

// RFC 5280 writes times from 2050 on in another form; a session over new
// year has both.
func TestSessionInto2050(t *testing.T) {
	w := newWorld(t)
	w.now = time.Date(2049, 12, 31, 23, 30, 0, 0, time.UTC)
	w.publish()
	n := w.enroll("edge-1")
	if err := w.judge(n.certs()); err != nil {
		t.Error(err)
	}
	w.now = w.now.Add(45 * time.Minute)
	if err := w.judge(n.certs()); err != nil {
		t.Error(err)
	}
}

func TestSessionOfAP384Node(t *testing.T) {
	w := newWorld(t)
	key := newKey384("edge-1")
	nc := w.issue(w.subject("edge-1", func(s *Subject) {
		s.NodeKey = key.PublicKey()
		s.NS.Signature = key.must(w.fleet(), s.ns(w.fleet()))
	}))[0]
	tbs, err := NewSession(nc, newKey("session").PublicKey(), [16]byte{1}, w.now, w.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sig := key.must(w.fleet(), tbs)
	if err := w.judge([][]byte{tbs.Certificate(P384, sig), nc.Raw()}); err != nil {
		t.Error(err)
	}
	refused(t, w.judge([][]byte{tbs.Certificate(P256, sig), nc.Raw()}), CheckSession, ErrSession)
	refused(t, w.judge([][]byte{tbs.Certificate(P256, nodeKey("edge-1").must(w.fleet(), tbs)), nc.Raw()}), CheckSession, ErrSession)
}

func TestNewSessionValidity(t *testing.T) {
	w := newWorld(t)
	nc := w.enroll("edge-1").nc
	for _, test := range []struct {
		name     string
		from, to time.Time
		ok       bool
	}{
		{"an hour", w.now, w.now.Add(time.Hour), true},
		{"24 hours", w.now, w.now.Add(MaxSessionLife), true},
		{"longer than 24 hours", w.now, w.now.Add(MaxSessionLife + time.Second), false},
		{"to the end of N:C", nc.NotAfter.Add(-time.Hour), nc.NotAfter, true},
		{"beyond the end of N:C", nc.NotAfter.Add(-time.Hour), nc.NotAfter.Add(time.Second), false},
		{"before N:C", nc.NotBefore.Add(-time.Second), nc.NotBefore.Add(time.Hour), false},
		{"backwards", w.now.Add(time.Hour), w.now, false},
		{"no time at all", w.now, w.now, false},
		{"less than the second that is kept", w.now, w.now.Add(time.Millisecond), false},
	} {
		_, err := NewSession(nc, newKey("s").PublicKey(), [16]byte{}, test.from, test.to)
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrSession) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for _, serial := range [][16]byte{{}, {0xff}, {0x80}} {
		tbs, err := NewSession(nc, newKey("s").PublicKey(), serial, w.now, w.now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		der := tbs.Certificate(P256, nodeKey("edge-1").must(w.fleet(), tbs))
		if err := w.judge([][]byte{der, nc.Raw()}); err != nil {
			t.Errorf("serial %x: %v", serial, err)
		}
	}
}

// A compromised host can make N:SK sign things. What is not the one form of a
// session certificate gets it nowhere.
func TestSessionSaysNothingElse(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	other := w.enroll("edge-2")
	key, from, to := n.session.PublicKey(), w.now, w.now.Add(time.Hour)
	number := [16]byte{0x40, 1}
	good := sessionTBS(n.nc, number, from, to, key)

	// as changes the N:C that the session certificate copies from.
	as := func(change func(s *Subject)) []byte {
		c := *n.nc
		change(&c.Subject)
		return sessionTBS(&c, number, from, to, key)
	}
	sign := func(tbs []byte) []byte {
		s := SessionTBS{tbs}
		return s.Certificate(P256, n.key.must(w.fleet(), s))
	}
	sig := n.key.must(w.fleet(), SessionTBS{good})
	raw := func(tbs, sig []byte) []byte {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(tbs)
			b.AddBytes(P256.algorithmIdentifier())
			b.AddASN1BitString(sig)
		})
		return b.BytesOrPanic()
	}
	for _, test := range []struct {
		name string
		der  []byte
		want error
	}{
		{"good", sign(good), nil},
		{"another name", sign(as(func(s *Subject) { s.Name = "edge-2" })), ErrSession},
		{"another trust domain", sign(as(func(s *Subject) { s.TrustDomain = "other.example" })), ErrSession},
		{"extra SAN", sign(as(func(s *Subject) { s.DNSNames = []string{"bank.example"} })), ErrSession},
		{"extra extension", sign(addToTBS(t, good)), ErrSession},
		{"24 hours and a second", sign(sessionTBS(n.nc, number, from, from.Add(MaxSessionLife+time.Second), key)), ErrSession},
		{"backwards", sign(sessionTBS(n.nc, number, to, from, key)), ErrSession},
		{"ends after N:C", sign(sessionTBS(n.nc, number, n.nc.NotAfter.Add(-time.Hour), n.nc.NotAfter.Add(time.Second), key)), ErrSession},
		{"begins before N:C", sign(sessionTBS(n.nc, number, n.nc.NotBefore.Add(-time.Second), to, key)), ErrSession},
		{"not yet valid", sign(sessionTBS(n.nc, number, w.now.Add(clockTolerance+time.Second), to, key)), ErrSession},
		{"begins within the tolerance", sign(sessionTBS(n.nc, number, w.now.Add(clockTolerance), to, key)), nil},
		{"serial number of 15 bytes", sign(sessionTBS(n.nc, [16]byte{0, 0x40}, from, to, key)), ErrSession},
		{"negative serial number", sign(sessionTBS(n.nc, [16]byte{0x80}, from, to, key)), ErrSession},
		{"other node's signature", SessionTBS{good}.Certificate(P256, other.key.must(w.fleet(), SessionTBS{good})), ErrSignature},
		{"session key's own signature", SessionTBS{good}.Certificate(P256, n.session.must(w.fleet(), SessionTBS{good})), ErrSignature},
		{"CA:SK's signature", SessionTBS{good}.Certificate(P256, w.ca().must(w.fleet(), SessionTBS{good})), ErrSignature},
		{"high s", raw(good, twin(P256, sig).ASN1()), ErrSession},
		{"r || s instead of DER", raw(good, sig), ErrSession},
		{"signature with a trailing byte", raw(good, append(sig.ASN1(), 0)), ErrSession},
		{"session key without a suite", sign(sessionTBS(n.nc, number, from, to, PublicKey{spki: string(ed25519Key(t))})), ErrSession},
		{"other node's session certificate", other.certificate, ErrSession},
		{"N:C again", n.nc.Raw(), ErrSession},
		{"trailing byte", append(sign(good), 0), ErrSession},
		{"larger than the limit", append(sign(good), make([]byte, maxSession)...), ErrSession},
		{"nothing", nil, ErrSession},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := w.judge([][]byte{test.der, n.nc.Raw()})
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, CheckSession, ErrSession)
			refused(t, err, CheckSession, test.want)
		})
	}

	w.now = to.Add(time.Second)
	w.publish()
	refused(t, w.judge([][]byte{sign(good), n.nc.Raw()}), CheckSession, ErrSession)
}

// addToTBS adds one more, harmless, extension to a TBSCertificate.
func addToTBS(t *testing.T, tbs cryptobyte.String) []byte {
	var in, extensions, list cryptobyte.String
	fields := cryptobyte.NewBuilder(nil)
	if !tbs.ReadASN1(&in, cbasn1.SEQUENCE) {
		t.Fatal("not a TBSCertificate")
	}
	for !in.Empty() {
		var field cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1Element(&field, &tag) {
			t.Fatal("not a TBSCertificate")
		}
		if tag != cbasn1.Tag(3).Constructed().ContextSpecific() {
			fields.AddBytes(field)
		} else if !field.ReadASN1(&extensions, tag) || !extensions.ReadASN1(&list, cbasn1.SEQUENCE) {
			t.Fatal("no extensions")
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(fields.BytesOrPanic())
		b.AddASN1(cbasn1.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(list)
				addExtension(b, oidRoles, false, octets([]byte("\x00\x06\x05admin")))
			})
		})
	})
	return b.BytesOrPanic()
}

// N:S, which N:SK signed, is no session certificate, and a session
// certificate's signature is no N:S: section 2's labels and the 0x30 that
// begins DER keep them apart.
func TestSessionAndNSAreApart(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("edge-1")
	tbs := SessionTBS{sessionTBS(n.nc, [16]byte{0x40}, w.now, w.now.Add(time.Hour), n.session.PublicKey())}
	refused(t, w.judge([][]byte{tbs.Certificate(P256, n.nc.NS.Signature), n.nc.Raw()}), CheckSession, ErrSignature)
	subject := w.subject("edge-1", func(s *Subject) { s.NS.Signature = n.key.must(w.fleet(), tbs) })
	refused(t, w.judge([][]byte{w.issue(subject)[0].Raw()}), CheckNS, ErrSignature)
}

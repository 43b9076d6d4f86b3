package chancery

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"
)

// x509 has the world's X.509 issuer certify a TLS key beside an N:C, and
// itself.
func (w *world) x509(nc *Certificate, key PublicKey) (cert, ca []byte) {
	w.t.Helper()
	p, issuer := w.pointer(), newKey("x509")
	tbs, err := NewX509(p, nc, key)
	if err != nil {
		w.t.Fatal(err)
	}
	own, _, err := NewX509CA(p, p.Current())
	if err != nil {
		w.t.Fatal(err)
	}
	return tbs.Certificate(issuer.must(w.fleet(), tbs)), own.Certificate(issuer.must(w.fleet(), own))
}

func mustParse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Who knows nothing of us verifies the chain, for each name and each use, at
// each moment of N:C's life, and finds in the certificate what N:C says.
func TestX509(t *testing.T) {
	for _, tls := range []softKey{newKey("tls key"), newKey384("tls key")} {
		w := newWorld(t)
		nc := w.enroll("edge-1", func(s *Subject) { s.DNSNames = []string{"edge-1.example.net"} }).nc
		der, caDER := w.x509(nc, tls.PublicKey())
		if err := errors.Join(VerifyX509(w.pointer(), nc, tls.PublicKey(), der), VerifyX509CA(w.pointer(), w.pointer().Current(), caDER)); err != nil {
			t.Fatal(err)
		}
		c, ca, ours := mustParse(t, der), mustParse(t, caDER), mustParse(t, nc.Raw())
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			for _, at := range []time.Time{nc.NotBefore, nc.NotAfter} {
				if _, err := c.Verify(x509.VerifyOptions{DNSName: "edge-1.example.net", Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: at}); err != nil {
					t.Errorf("at %s: %v", at, err)
				}
			}
		}
		for what, opts := range map[string]x509.VerifyOptions{
			"another name": {DNSName: "edge-2.example.net", Roots: roots, CurrentTime: w.now},
			"another use":  {Roots: roots, CurrentTime: w.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}},
			"too late":     {Roots: roots, CurrentTime: nc.NotAfter.Add(time.Second)},
			"too early":    {Roots: roots, CurrentTime: nc.NotBefore.Add(-time.Second)},
		} {
			if _, err := c.Verify(opts); err == nil {
				t.Errorf("it is good for %s", what)
			}
		}
		if c.SerialNumber.Cmp(ours.SerialNumber) != 0 || !bytes.Equal(c.RawSubject, ours.RawSubject) || len(c.URIs) != 1 || c.URIs[0].String() != nc.SPIFFEID() ||
			!c.NotBefore.Equal(nc.NotBefore) || !c.NotAfter.Equal(nc.NotAfter) || !slices.Equal(c.DNSNames, nc.DNSNames) {
			t.Errorf("serial %s of %s, names %v and %v, from %s to %s", c.SerialNumber, c.Subject, c.URIs, c.DNSNames, c.NotBefore, c.NotAfter)
		}
		if want := X509DistributionPoint(w.pointer(), nc.CA, 1, 0); !slices.Equal(c.CRLDistributionPoints, want) || len(want) == 0 {
			t.Errorf("its CRL is at %q, want %q", c.CRLDistributionPoints, want)
		}
		if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.UnhandledCriticalExtensions) > 0 {
			t.Errorf("CA %t, usage %d, %v", c.IsCA, c.KeyUsage, c.UnhandledCriticalExtensions)
		}
		if !bytes.Equal(c.SubjectKeyId, X509KeyID(tls.PublicKey())) || !bytes.Equal(c.AuthorityKeyId, ca.SubjectKeyId) || !bytes.Equal(c.RawIssuer, ca.RawSubject) {
			t.Errorf("key %x by key %x of %s", c.SubjectKeyId, c.AuthorityKeyId, c.Issuer)
		}
		// No log entry has such a serial number, and nothing can be a CA below.
		if ca.SerialNumber.Cmp(new(big.Int).Lsh(big.NewInt(1), 48)) >= 0 || ca.SerialNumber.Sign() <= 0 || !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("the issuer's: serial %s, CA %t, path %d, usage %d", ca.SerialNumber, ca.IsCA, ca.MaxPathLen, ca.KeyUsage)
		}
	}
}

// A certificate can have no other byte than it has: whichever is changed, and
// however its signature is restated, it is refused.
func TestX509EveryByte(t *testing.T) {
	w := newWorld(t)
	nc, key := w.enroll("edge-1").nc, newKey("tls key").PublicKey()
	der, ca := w.x509(nc, key)
	for i := range der {
		b := bytes.Clone(der)
		b[i] ^= 1
		if err := VerifyX509(w.pointer(), nc, key, b); !errors.Is(err, ErrX509) {
			t.Errorf("byte %d of the certificate: %v", i, err)
		}
	}
	for i := range ca {
		b := bytes.Clone(ca)
		b[i] ^= 1
		if err := VerifyX509CA(w.pointer(), w.pointer().Current(), b); !errors.Is(err, ErrX509) {
			t.Errorf("byte %d of the issuer's: %v", i, err)
		}
	}
	tbs, err := NewX509(w.pointer(), nc, key)
	if err != nil {
		t.Fatal(err)
	}
	sig := newKey("x509").must(w.fleet(), tbs)
	if err := VerifyX509(w.pointer(), nc, key, tbs.Certificate(twin(P256, sig))); !errors.Is(err, ErrX509) {
		t.Errorf("with high s: %v", err)
	}
	if err := VerifyX509(w.pointer(), nc, key, append(bytes.Clone(der), make([]byte, maxX509)...)); !errors.Is(err, ErrX509) {
		t.Errorf("too long: %v", err)
	}
}

// It accompanies one N:C and one key, and is of one issuer.
func TestX509OfAnother(t *testing.T) {
	w := newWorld(t)
	one, two, key := w.enroll("edge-1").nc, w.enroll("edge-2").nc, newKey("tls key").PublicKey()
	der, ca := w.x509(one, key)
	if err := VerifyX509(w.pointer(), two, key, der); !errors.Is(err, ErrX509) {
		t.Errorf("beside another N:C: %v", err)
	}
	if err := VerifyX509(w.pointer(), one, newKey("another").PublicKey(), der); !errors.Is(err, ErrX509) {
		t.Errorf("of another key: %v", err)
	}
	if err := VerifyX509(w.pointer(), one, key, ca); !errors.Is(err, ErrX509) {
		t.Errorf("the issuer's: %v", err)
	}
	tbs, err := NewX509(w.pointer(), one, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyX509(w.pointer(), one, key, tbs.Certificate(w.ca().must(w.fleet(), tbs))); !errors.Is(err, ErrX509) {
		t.Errorf("signed by CA:SK: %v", err)
	}

	// The coordinator moves, and what was issued before stays good; a CRL that
	// is somewhere else altogether never was.
	moved := *w.pointer()
	moved.Endpoints = []Endpoint{{URL: "https://new.example"}, {URL: "https://coordinator.example:8443"}}
	if err := VerifyX509(&moved, one, key, der); err != nil {
		t.Errorf("after the coordinator has moved: %v", err)
	}
	elsewhere, err := newX509(w.pointer(), one, key, []string{"https://coordinator.example:8443" + X509PartitionPath(one.CA, 1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyX509(w.pointer(), one, key, elsewhere.Certificate(newKey("x509").must(w.fleet(), elsewhere))); !errors.Is(err, ErrX509) {
		t.Errorf("on the CRL of another partition: %v", err)
	}

	none := *w.pointer()
	none.X509Issuer = PublicKey{}
	_, err1 := NewX509(&none, one, key)
	_, _, err2 := NewX509CA(&none, none.Current())
	for _, err := range []error{err1, err2, VerifyX509(&none, one, key, der), VerifyX509CA(&none, none.Current(), ca)} {
		if !errors.Is(err, ErrX509) {
			t.Errorf("of a fleet without an issuer: %v", err)
		}
	}
}

// The proof of possession names key, N:C and fleet.
func TestX509PoP(t *testing.T) {
	w := newWorld(t)
	for _, key := range []softKey{newKey("tls key"), newKey384("tls key")} {
		pop := X509PoP{Key: key.PublicKey(), CA: w.pointer().Current().ID, Serial: serial(1, 7)}
		sig := key.must(w.fleet(), pop)
		if err := pop.Key.Verify(w.fleet(), pop, sig); err != nil {
			t.Fatal(err)
		}
		for what, other := range map[string]X509PoP{
			"another serial number": {pop.Key, pop.CA, serial(1, 8)},
			"another CA":            {pop.Key, caID("32473.1.2"), pop.Serial},
			"another key":           {newKey("another").PublicKey(), pop.CA, pop.Serial},
		} {
			if err := pop.Key.Verify(w.fleet(), other, sig); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := pop.Key.Verify(FleetID{1}, pop, sig); !errors.Is(err, ErrSignature) {
			t.Errorf("in another fleet: %v", err)
		}
	}
}

// With the longest of everything the certificate is far below the limit.
func TestX509Longest(t *testing.T) {
	w := newWorld(t)
	i := newX509Issuer(t, elliptic.P384())
	label := "a123456789a123456789a123456789a123456789a123456789a123456789a12"
	nc := w.enroll(label, func(s *Subject) {
		for n := range maxDNSNames {
			s.DNSNames = append(s.DNSNames, fmt.Sprintf("%d.%s.%s.%s.%s", n, label, label, label, label[:50]))
		}
	}).nc
	p := *w.pointer()
	p.X509Issuer, p.Endpoints = i.pointer.X509Issuer, nil
	for range maxEndpoints {
		p.Endpoints = append(p.Endpoints, Endpoint{URL: "https://" + string(bytes.Repeat([]byte("a"), 247))})
	}
	tbs, err := NewX509(&p, nc, newKey384("tls key").PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if len(tbs.raw) > maxX509-256 {
		t.Errorf("%d bytes without the signature, the limit is %d", len(tbs.raw), maxX509)
	}
}

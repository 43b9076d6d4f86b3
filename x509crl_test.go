package chancery

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

// An x509Issuer is the issuer for third parties as a test has it: the key, and
// the certificate that they would have.
type x509Issuer struct {
	key     *ecdsa.PrivateKey
	pointer *Pointer
	ca      merkle.TrustAnchorID
	cert    *x509.Certificate
}

func newX509Issuer(t testing.TB, curve elliptic.Curve) *x509Issuer {
	t.Helper()
	i := &x509Issuer{}
	var err error
	if i.key, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
		t.Fatal(err)
	}
	public, err := NewPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	i.pointer = &Pointer{X509Issuer: public, Endpoints: []Endpoint{{URL: "https://coordinator.example:8443"}, {URL: "https://[2001:db8::1]:8443"}}}
	i.ca = DefaultCAID(public)
	name, err := X509IssuerName(i.ca)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: name, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, i.key.Public(), i.key)
	if err == nil {
		i.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// sign signs as the token would.
func (i *x509Issuer) sign(t interface{ Fatal(...any) }, c X509CRL) []byte {
	suite := i.pointer.X509Issuer.Suite()
	h := suite.Hash().New()
	h.Write(Message(FleetID{}, suite, c))
	der, err := i.key.Sign(rand.Reader, h.Sum(nil), suite.Hash())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := NewSignatureASN1(suite, der)
	if err != nil {
		t.Fatal(err)
	}
	return c.List(sig)
}

// The list has the bytes that crypto/x509 writes for the same facts.
func TestX509CRLIsGos(t *testing.T) {
	issuers := []*x509Issuer{newX509Issuer(t, elliptic.P256()), newX509Issuer(t, elliptic.P384())}
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.SampledFrom(issuers).Draw(t, "issuer")
		at := time.Unix(rapid.Int64Range(1, 4e9).Draw(t, "thisUpdate"), 0).UTC() // both sides of 2050
		head := &CRLHead{Number: rapid.Uint64Range(1, 1<<63).Draw(t, "number"), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}
		log := rapid.Uint16Range(1, 65535).Draw(t, "log")
		indexes := rapid.SliceOfNDistinct(rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64Range(0, 1<<48-1)), 0, 40, rapid.ID).Draw(t, "indexes")
		var urls []string
		var extra []pkix.Extension
		if rapid.Bool().Draw(t, "partition") {
			urls = X509DistributionPoint(i.pointer, i.ca, log, 7)
			extra = []pkix.Extension{{Id: oidIssuingDistributionPoint, Critical: true, Value: x509DistributionPoint(urls)}}
		}
		b, err := NewX509CRL(i.pointer, head, i.ca, urls, rapid.IntRange(0, 60).Draw(t, "expect"))
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.RevocationList{Number: new(big.Int).SetUint64(head.Number), ThisUpdate: head.ThisUpdate, NextUpdate: head.NextUpdate, ExtraExtensions: extra}
		for _, index := range indexes {
			serial, err := merkle.NewSerial(log, index)
			if err != nil {
				t.Fatal(err)
			}
			when := time.Unix(rapid.Int64Range(1, 4e9).Draw(t, "revoked"), 0).UTC()
			reason := rapid.SampledFrom(ReasonCodes()).Draw(t, "reason")
			b.Add(serial, when, reason)
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: new(big.Int).SetUint64(uint64(serial)), RevocationTime: when, ReasonCode: int(reason)})
		}
		want, err := x509.CreateRevocationList(rand.Reader, template, i.cert, i.key)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := x509.ParseRevocationList(want)
		if err != nil {
			t.Fatal(err)
		}
		der := i.sign(t, b.Finish())
		ours, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatalf("%v in %x", err, der)
		}
		if !bytes.Equal(ours.RawTBSRevocationList, theirs.RawTBSRevocationList) {
			t.Fatalf("ours %x\ngo's %x", ours.RawTBSRevocationList, theirs.RawTBSRevocationList)
		}
		if err := ours.CheckSignatureFrom(i.cert); err != nil {
			t.Fatal(err)
		}
		if len(ours.Raw) != len(der) {
			t.Fatalf("%d bytes, the list has %d", len(der), len(ours.Raw))
		}
	})
}

// The partition of the serial number names it in its critical extension, and
// the list of all has no such extension.
func TestX509CRLScope(t *testing.T) {
	i := newX509Issuer(t, elliptic.P256())
	head := &CRLHead{Number: 3, ThisUpdate: time.Unix(1e9, 0).UTC(), NextUpdate: time.Unix(1e9+3600, 0).UTC()}
	for _, urls := range [][]string{nil, X509DistributionPoint(i.pointer, i.ca, 1, 2)} {
		b, err := NewX509CRL(i.pointer, head, i.ca, urls, 0)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(i.sign(t, b.Finish()))
		if err != nil {
			t.Fatal(err)
		}
		if len(list.RevokedCertificateEntries) != 0 || list.Number.Int64() != 3 || !list.ThisUpdate.Equal(head.ThisUpdate) || !list.NextUpdate.Equal(head.NextUpdate) {
			t.Errorf("a list of none is %+v", list)
		}
		critical := 0
		for _, e := range list.Extensions {
			if e.Critical {
				critical++
				for _, u := range urls {
					if !bytes.Contains(e.Value, []byte(u)) {
						t.Errorf("%s is not in %x", u, e.Value)
					}
				}
			}
		}
		if critical != min(len(urls), 1) {
			t.Errorf("%d critical extensions with %d URLs", critical, len(urls))
		}
	}
	want := "https://coordinator.example:8443/crl/x509/" + i.ca.String() + "/1/2.crl"
	if got := X509DistributionPoint(i.pointer, i.ca, 1, 2)[0]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := X509CRLPath(i.ca), "/crl/x509/"+i.ca.String()+".crl"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestX509CRLRefuses(t *testing.T) {
	i := newX509Issuer(t, elliptic.P256())
	if _, err := NewX509CRL(&Pointer{}, &CRLHead{}, i.ca, nil, 0); err == nil {
		t.Error("there is a list of an issuer that is not there")
	}
	long := i.ca
	for range 4 {
		long = long.Append(1<<31, 1<<31)
	}
	if _, err := NewX509CRL(i.pointer, &CRLHead{}, long, nil, 0); err == nil {
		t.Errorf("the name of the issuer has %d characters", len(long.String()))
	}
}

// How long a list of a million takes, apart from the signature, and Go's for
// comparison: CreateRevocationList, which signs too.
func BenchmarkX509CRL(b *testing.B) {
	i := newX509Issuer(b, elliptic.P256())
	const n = 1_000_000
	head := &CRLHead{Number: 3, ThisUpdate: time.Unix(1e9, 0).UTC(), NextUpdate: time.Unix(1e9+3600, 0).UTC()}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l, err := NewX509CRL(i.pointer, head, i.ca, nil, n)
			if err != nil {
				b.Fatal(err)
			}
			for index := range uint64(n) {
				l.Add(merkle.Serial(1<<48|index*100), head.ThisUpdate, ReasonKeyCompromise)
			}
			b.SetBytes(int64(len(i.sign(b, l.Finish()))))
		}
	})
	b.Run("Go", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			template := &x509.RevocationList{Number: big.NewInt(3), ThisUpdate: head.ThisUpdate, NextUpdate: head.NextUpdate}
			for index := range uint64(n) {
				template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
					x509.RevocationListEntry{SerialNumber: new(big.Int).SetUint64(1<<48 | index*100), RevocationTime: head.ThisUpdate, ReasonCode: 1})
			}
			der, err := x509.CreateRevocationList(rand.Reader, template, i.cert, i.key)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(der)))
		}
	})
}

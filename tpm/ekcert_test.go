package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// testCA is a manufacturer.
type testCA struct {
	private *ecdsa.PrivateKey
	cert    *x509.Certificate
}

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newTestCA(t testing.TB) testCA {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "manufacturer"},
		NotBefore: epoch, NotAfter: epoch.AddDate(30, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private))(t)
	return testCA{private, must(x509.ParseCertificate(der))(t)}
}

func (ca testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// description is a SAN with a directory name, as TCG chips have it.
func description(t testing.TB, attributes ...pkix.AttributeTypeAndValue) pkix.Extension {
	t.Helper()
	name := must(asn1.Marshal(pkix.RDNSequence{attributes}))(t)
	inner := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}))(t)
	value := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner}))(t)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

func tcg(last int, value any) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 23, 133, 2, last}, Value: value}
}

var usageEK = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

func (ca testCA) issue(t testing.TB, change func(*x509.Certificate)) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: epoch, NotAfter: epoch.AddDate(20, 0, 0),
		KeyUsage: x509.KeyUsageKeyAgreement, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{usageEK},
		ExtraExtensions:    []pkix.Extension{description(t, tcg(1, "id:49465800"), tcg(2, "SLB9670"), tcg(3, "id:00070055"))},
	}
	if change != nil {
		change(template)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return must(x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.private))(t)
}

func TestEKCertificate(t *testing.T) {
	ca := newTestCA(t)
	c := must(tpm.ParseEKCertificate(ca.issue(t, nil)))(t)
	if c.Manufacturer != "id:49465800" || c.Model != "SLB9670" || c.Version != "id:00070055" {
		t.Errorf("description %+v", c)
	}
	at := epoch.AddDate(1, 0, 0)
	if err := c.Verify(nil, ca.pool(), at); err != nil {
		t.Errorf("a good certificate: %v", err)
	}
	wantLink(t, "unknown manufacturer", c.Verify(nil, newTestCA(t).pool(), at), tpm.LinkEKCertificate, nil)
	wantLink(t, "no roots at all", c.Verify(nil, nil, at), tpm.LinkEKCertificate, nil)
	wantLink(t, "expired", c.Verify(nil, ca.pool(), epoch.AddDate(25, 0, 0)), tpm.LinkEKCertificate, nil)
	wantLink(t, "root only in the chip's chain", c.Verify([][]byte{ca.cert.Raw}, newTestCA(t).pool(), at), tpm.LinkEKCertificate, nil)
	wantLink(t, "chain of nonsense", c.Verify([][]byte{{1}}, ca.pool(), at), tpm.LinkEKCertificate, tpm.ErrMalformed)
	wantLink(t, "endless chain", c.Verify(make([][]byte, 9), ca.pool(), at), tpm.LinkEKCertificate, tpm.ErrMalformed)

	for _, test := range []struct {
		what   string
		change func(*x509.Certificate)
		reason error
	}{
		{"platform certificate", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 2}}
		}, tpm.ErrPlatformCertificate},
		{"both usages", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 23, 133, 8, 2})
		}, tpm.ErrPlatformCertificate},
		{"no usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, tpm.ErrAttribute},
		{"any usage", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, tpm.ErrAttribute},
		{"a CA", func(c *x509.Certificate) { c.IsCA = true }, tpm.ErrAttribute},
		{"another critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, nil},
	} {
		c := must(tpm.ParseEKCertificate(ca.issue(t, test.change)))(t)
		wantLink(t, test.what, c.Verify(nil, ca.pool(), at), tpm.LinkEKCertificate, test.reason)
	}
}

// A critical name that is not understood whole must not be taken for
// understood.
func TestEKCertificateNames(t *testing.T) {
	ca := newTestCA(t)
	dns := must(asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("chip.example")}}))(t)
	long := make([]byte, 300)
	for i := range long {
		long[i] = 'x'
	}
	for what, extension := range map[string]pkix.Extension{
		"DNS name":          {Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: dns},
		"two manufacturers": description(t, tcg(1, "id:1"), tcg(1, "id:2")),
		"number as a model": description(t, tcg(2, 5)),
		"endless model":     description(t, tcg(2, string(long))),
	} {
		der := ca.issue(t, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{extension} })
		_, err := tpm.ParseEKCertificate(der)
		wantLink(t, what, err, tpm.LinkEKCertificate, tpm.ErrMalformed)
	}
	for what, der := range map[string][]byte{"nothing": nil, "nonsense": []byte("certificate"), "too long": make([]byte, 9000)} {
		_, err := tpm.ParseEKCertificate(der)
		wantLink(t, what, err, tpm.LinkEKCertificate, tpm.ErrMalformed)
	}
}

// swtpm's manufacturer also issues a platform certificate for the very chip.
func TestPlatformCertificateOfTheChip(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	index := tpm2.TPMHandle(0x01c08000)
	public := must(tpm2.NVReadPublic{NVIndex: index}.Execute(chip.Raw()))(t)
	size := must(public.NVPublic.Contents())(t).DataSize
	read := must(tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName}, Size: size,
	}.Execute(chip.Raw()))(t)
	c := must(tpm.ParseEKCertificate(read.Data.Buffer))(t)
	wantLink(t, "platform certificate", c.Verify(nil, tpmtest.Roots(t), time.Now()), tpm.LinkEKCertificate, tpm.ErrPlatformCertificate)
	ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
	wantLink(t, "certificate over another key", must(tpm.ParseEKCertificate(newTestCA(t).issue(t, nil)))(t).Matches(ek), tpm.LinkEKCertificate, tpm.ErrAttribute)
}

// FuzzEKName parses the subject alternative name of an EK certificate.
func FuzzEKName(f *testing.F) {
	good := description(f, tcg(1, "id:49465800"), tcg(2, "SLB9670"), tcg(3, "id:00070055")).Value
	if c, err := tpm.Describe(good); err != nil || c.Model != "SLB9670" {
		f.Fatal(c, err)
	}
	f.Add(good)
	f.Add(description(f).Value)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tpm.Describe(b)
		if err != nil {
			return
		}
		for _, s := range []string{c.Manufacturer, c.Model, c.Version} {
			if len(s) > 256 || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
				t.Errorf("description %q", s)
			}
		}
		var whole asn1.RawValue
		if rest, err := asn1.Unmarshal(b, &whole); err != nil || len(rest) != 0 {
			t.Errorf("what is not one DER value was read: %v", err)
		}
	})
}

// FuzzParseEKCertificate parses whole certificates. Whatever it accepts does
// not verify under another manufacturer.
func FuzzParseEKCertificate(f *testing.F) {
	ca, stranger := newTestCA(f), newTestCA(f)
	f.Add(ca.issue(f, nil))
	f.Add(ca.cert.Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tpm.ParseEKCertificate(b)
		if err != nil {
			return
		}
		if c.Verify(nil, stranger.pool(), epoch.AddDate(1, 0, 0)) == nil {
			t.Error("a certificate of another manufacturer verifies")
		}
	})
}

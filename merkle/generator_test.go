package merkle

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func readPEM(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "generator", name))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Fatalf("%s is not one PEM certificate", name)
	}
	return block.Bytes
}

func readCA(t testing.TB, folder string) *CA {
	t.Helper()
	ca, err := ParseCA(readPEM(t, folder+"/ca_cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

var (
	in2025 = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	in2055 = time.Date(2055, 6, 1, 0, 0, 0, 0, time.UTC)
)

// What the certificates under testdata/generator are good for, under the CA
// of their own folder.
var generated = []struct {
	name  string
	what  string
	parse error
	ca    error // in the year 2025
}{
	{"p256/cert_0_0.pem", "batch of one", nil, nil},
	{"p256/cert_0_1.pem", "batch of one, five cosigners", nil, nil},
	{"p256/cert_0_2.pem", "complete subtree [0, 8)", nil, nil},
	{"p256/cert_0_3.pem", "[0, 13), and ML-DSA-87 of a cosigner with a long ID", nil, nil},
	{"p256/cert_4_0.pem", "P-384 key, [4, 5)", nil, nil},
	{"p256/cert_4_1.pem", "[4, 5)", nil, nil},
	{"p256/cert_4_2.pem", "[4, 8)", nil, nil},
	{"p256/cert_4_3.pem", "landmark-relative", nil, ErrNoCASignature},
	{"p256/cert_5_0.pem", "no extensions, [4, 8)", nil, nil},
	{"p256/cert_5_1.pem", "no extensions, [5, 6)", nil, nil},
	{"p256/cert_6_0.pem", "RSA key, last of [4, 7)", nil, nil},
	{"p256/cert_7_0.pem", "UTCTime and GeneralizedTime, from 2049", nil, ErrNotYetValid},
	{"p256/cert_8_0.pem", "Ed25519 key, GeneralizedTime, from 2050", nil, ErrNotYetValid},
	{"p256/cert_9_0.pem", "[8, 13)", nil, nil},
	{"p256/cert_9_1.pem", "bit flipped in the inclusion proof", nil, ErrCASignature},
	{"p256/cert_9_2.pem", "unused bit in the signature", ErrMalformed, nil},
	{"p256/cert_9_3.pem", "cosigners out of order", ErrMalformed, nil},
	{"p256/cert_9_4.pem", "the CA cosigner twice", ErrMalformed, nil},
	{"p256/cert_9_5.pem", "other cosigners only", nil, ErrNoCASignature},
	{"p256/cert_9_6.pem", "no cosigners", nil, ErrNoCASignature},
	{"p256/cert_9_7.pem", "other algorithm outside", ErrMalformed, nil},
	{"p256/cert_9_8.pem", "other algorithm inside", ErrMalformed, nil},
	{"p256/cert_9_9.pem", "other algorithm inside and outside", ErrNotMTC, nil},
	{"p256/cert_12_0.pem", "[12, 13), four cosigners", nil, nil},
	{"p256/cert_12_1.pem", "last of [8, 13)", nil, nil},
	{"p256/cert_12_2.pem", "[12, 13)", nil, nil},
	{"p256/cert_12_3.pem", "landmark-relative", nil, ErrNoCASignature},
	{"p256/cert_503_0.pem", "[0, 512)", nil, nil},
	{"p256/cert_503_1.pem", "[0, 512), Ed25519 cosigner", nil, nil},
	{"p256/cert_503_2.pem", "[0, 520)", nil, nil},
	{"p256/cert_503_3.pem", "[502, 504)", nil, nil},
	{"p256/cert_519_0.pem", "[512, 520)", nil, nil},
	{"p256/cert_519_1.pem", "short way up [0, 520)", nil, nil},
	{"p256/cert_519_2.pem", "[512, 520), ECDSA cosigner", nil, nil},
	{"impostor/cert_0_0.pem", "under the key of its own", nil, nil},
	{"p384/cert_0_0.pem", "below MinSerial", nil, ErrSerial},
	{"p384/cert_1_0.pem", "below MinSerial", nil, ErrSerial},
	{"p384/cert_2_0.pem", "[2, 3)", nil, nil},
	{"p384/cert_2_1.pem", "[0, 3), cosigned by another CA", nil, nil},
}

func TestGenerated(t *testing.T) {
	for _, test := range generated {
		t.Run(test.name, func(t *testing.T) {
			der := readPEM(t, test.name)
			c, err := ParseCertificate(der)
			if !errors.Is(err, test.parse) {
				t.Fatalf("%s: parsed with %v, want %v", test.what, err, test.parse)
			}
			if IsNotCertificate(err) != (test.parse == ErrNotMTC) {
				t.Fatalf("%s: IsNotCertificate(%v) = %v", test.what, err, IsNotCertificate(err))
			}
			if err != nil {
				return
			}
			checkLikeX509(t, c)
			checkRoundTrip(t, c)
			ca := readCA(t, filepath.Dir(test.name))
			if err := ca.Verify(c, in2025); !errors.Is(err, test.ca) {
				t.Errorf("%s: %v, want %v", test.what, err, test.ca)
			}
		})
	}
}

// Every file is in the table.
func TestGeneratedComplete(t *testing.T) {
	files, err := filepath.Glob("testdata/generator/*/cert_*.pem")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{filepath.Join("testdata/generator/mldsa/cert_0_0.pem"): true}
	for _, test := range generated {
		want[filepath.Join("testdata/generator", test.name)] = true
	}
	for _, f := range files {
		if !want[f] {
			t.Errorf("%s is not in the table", f)
		}
		delete(want, f)
	}
	for f := range want {
		t.Errorf("%s is missing", f)
	}
}

// checkLikeX509 compares the fields with what crypto/x509 reads, which knows
// nothing of proofs.
func checkLikeX509(t *testing.T, c *Certificate) {
	t.Helper()
	std, err := x509.ParseCertificate(c.Raw)
	if err != nil {
		t.Fatalf("crypto/x509: %v", err)
	}
	switch {
	case !std.SerialNumber.IsUint64() || std.SerialNumber.Uint64() != uint64(c.Serial):
		t.Errorf("serial is %d, crypto/x509 says %d", uint64(c.Serial), std.SerialNumber)
	case !std.NotBefore.Equal(c.NotBefore) || !std.NotAfter.Equal(c.NotAfter):
		t.Errorf("valid from %v to %v, crypto/x509 says %v to %v", c.NotBefore, c.NotAfter, std.NotBefore, std.NotAfter)
	case !bytes.Equal(std.RawIssuer, Name(c.Issuer)):
		t.Errorf("issuer is %v, crypto/x509 says %x", c.Issuer, std.RawIssuer)
	case !bytes.Equal(std.RawSubject, c.RawSubject) || !bytes.Equal(std.RawSubjectPublicKeyInfo, c.RawSPKI):
		t.Error("subject or key differ from those of crypto/x509")
	case !bytes.Equal(std.RawTBSCertificate, c.RawTBS):
		t.Error("TBSCertificate differs from that of crypto/x509")
	case len(std.Extensions) != len(c.Extensions):
		t.Errorf("%d extensions, crypto/x509 says %d", len(c.Extensions), len(std.Extensions))
	}
	for i, e := range std.Extensions {
		if got := c.Extensions[i]; !got.Id.Equal(e.Id) || got.Critical != e.Critical || !bytes.Equal(got.Value, e.Value) {
			t.Errorf("extension %d is %v, crypto/x509 says %v", i, got, e)
		}
	}
}

// fields are those that the certificate was made of.
func (c *Certificate) fields() EntryFields {
	return EntryFields{c.Issuer, c.NotBefore, c.NotAfter, c.RawSubject, c.RawSPKI, c.RawExtensions}
}

// checkRoundTrip makes the certificate and its log entry anew.
func checkRoundTrip(t *testing.T, c *Certificate) {
	t.Helper()
	again, err := MarshalCertificate(c.fields(), c.Serial, c.Proof)
	if err != nil || !bytes.Equal(again, c.Raw) {
		t.Errorf("marshalled again, %v:\n%x, was\n%x", err, again, c.Raw)
	}
	entry, err := MarshalEntry(c.fields())
	if err != nil {
		t.Fatal(err)
	}
	if HashLeaf(entry) != c.EntryHash() {
		t.Error("EntryHash is not the hash of the entry")
	}
	e, err := ParseEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	if e.Issuer != c.Issuer || !e.NotBefore.Equal(c.NotBefore) || !e.NotAfter.Equal(c.NotAfter) ||
		!bytes.Equal(e.RawSubject, c.RawSubject) || !bytes.Equal(e.RawExtensions, c.RawExtensions) || e.Null {
		t.Errorf("entry is %+v", e)
	}
}

func TestGeneratedCentury(t *testing.T) {
	ca := readCA(t, "p256")
	for _, test := range []struct {
		name string
		at   time.Time
		want error
	}{
		{"p256/cert_7_0.pem", time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), nil},
		{"p256/cert_7_0.pem", time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), nil},
		{"p256/cert_7_0.pem", time.Date(2050, 1, 1, 0, 0, 1, 0, time.UTC), ErrExpired},
		{"p256/cert_8_0.pem", in2055, nil},
		{"p256/cert_0_0.pem", in2055, ErrExpired},
	} {
		c, err := ParseCertificate(readPEM(t, test.name))
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.Verify(c, test.at); !errors.Is(err, test.want) {
			t.Errorf("%s at %v: %v, want %v", test.name, test.at, err, test.want)
		}
	}
}

// A certificate is good under its own CA alone, even where another CA uses
// the same ID or has cosigned the same subtree.
func TestGeneratedWrongCA(t *testing.T) {
	for _, test := range []struct {
		ca, cert string
		want     error
	}{
		{"p256", "impostor/cert_0_0.pem", ErrCASignature},
		{"impostor", "p256/cert_0_0.pem", ErrCASignature},
		{"p384", "p256/cert_0_0.pem", ErrIssuer},
		{"p256", "p384/cert_2_0.pem", ErrIssuer},
		{"p256", "p384/cert_2_1.pem", ErrIssuer},
		{"p256", "mldsa/cert_0_0.pem", ErrCASignature},
	} {
		c, err := ParseCertificate(readPEM(t, test.cert))
		if err != nil {
			t.Fatal(err)
		}
		if err := readCA(t, test.ca).Verify(c, in2025); !errors.Is(err, test.want) {
			t.Errorf("%s under %s: %v, want %v", test.cert, test.ca, err, test.want)
		}
	}
}

// The generator's CA certificates are the very bytes that Marshal makes,
// where they have nothing beyond a CA's fields.
func TestGeneratedCA(t *testing.T) {
	for _, folder := range []string{"p256", "impostor"} {
		der, err := readCA(t, folder).Marshal()
		if want := readPEM(t, folder+"/ca_cert.pem"); err != nil || !bytes.Equal(der, want) {
			t.Errorf("%s marshals to %x, %v, want %x", folder, der, err, want)
		}
	}
	if ca := readCA(t, "p384"); ca.ID.String() != "32473.3" || ca.MinSerial.String() != "7:2" || ca.MaxSerial.String() != "11:281474976710655" {
		t.Errorf("CA is %+v", ca)
	}
	if _, err := ParseCA(readPEM(t, "mldsa/ca_cert.pem")); !errors.Is(err, ErrUnsupportedCosigner) {
		t.Errorf("ML-DSA: %v, want ErrUnsupportedCosigner", err)
	}
}

// A CA certificate and a certificate are not taken for one another.
func TestKindsAreTold(t *testing.T) {
	if _, err := ParseCertificate(readPEM(t, "p256/ca_cert.pem")); !errors.Is(err, ErrNotMTC) || !IsNotCertificate(err) {
		t.Errorf("CA certificate as certificate: %v, want ErrNotMTC", err)
	}
	if _, err := ParseCA(readPEM(t, "p256/cert_0_0.pem")); !errors.Is(err, ErrNotMTC) || !IsNotCertificate(err) {
		t.Errorf("certificate as CA certificate: %v, want ErrNotMTC", err)
	}
}

package merkle

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Whichever single bit of a certificate is flipped, it is refused, and only
// damage to the outermost header makes it something other than a damaged
// certificate. The certificate has no signature but the CA's, so there is
// nothing in it that relying parties ignore.
func TestEveryBitFlipIsRefused(t *testing.T) {
	ca := readCA(t, "p256")
	der := readPEM(t, "p256/cert_0_2.pem")
	if c, err := ParseCertificate(der); err != nil || ca.Verify(c, in2025) != nil || len(c.Proof.Signatures) != 1 {
		t.Fatal("the certificate is not good to begin with")
	}
	const header = 4 // SEQUENCE and its length, in three bytes
	kinds := make(map[string]int)
	for bit := range len(der) * 8 {
		bad := slices.Clone(der)
		bad[bit/8] ^= 1 << (bit % 8)
		err := parseAndVerify(ca, bad)
		if err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
		if got, want := IsNotCertificate(err), bit/8 < header; got != want {
			t.Errorf("bit %d of byte %d flipped: IsNotCertificate(%v) = %v", bit%8, bit/8, err, got)
		}
		for _, kind := range []error{ErrMalformed, ErrIssuer, ErrSerial, ErrNotYetValid, ErrExpired, ErrProof, ErrNoCASignature, ErrCASignature, ErrCriticalExtension} {
			if errors.Is(err, kind) {
				kinds[kind.Error()]++
			}
		}
	}
	// The flips reach every check.
	if len(kinds) != 9 {
		t.Errorf("the refusals were %v, want nine kinds", kinds)
	}
}

func parseAndVerify(ca *CA, der []byte) error {
	c, err := ParseCertificate(der)
	if err != nil {
		return err
	}
	return ca.Verify(c, in2025)
}

// A file that is cut short, or has something behind the certificate, is not
// a certificate.
func TestNotOneSequence(t *testing.T) {
	der := readPEM(t, "p256/cert_0_0.pem")
	inputs := [][]byte{
		nil,
		{0x30},
		[]byte("-----BEGIN CERTIFICATE-----\n"),
		append(slices.Clone(der), 0),
		append(slices.Clone(der), der...),
		append([]byte{0x31}, der[1:]...),
		append([]byte{0x30, 0x83, 0x00}, der[2:]...), // length not minimal
		append([]byte{0x30, 0x80}, der[4:]...),       // indefinite length
	}
	for n := range der {
		inputs = append(inputs, der[:n])
	}
	for _, in := range inputs {
		for name, parse := range map[string]func([]byte) error{
			"ParseCertificate": func(b []byte) error { _, err := ParseCertificate(b); return err },
			"ParseCA":          func(b []byte) error { _, err := ParseCA(b); return err },
		} {
			if err := parse(in); !errors.Is(err, ErrMalformed) || !IsNotCertificate(err) {
				t.Errorf("%s of %d bytes: %v", name, len(in), err)
			}
		}
	}
	for _, in := range [][]byte{{0x30, 0}, {0x30, 3, 0x30, 1, 0}} {
		if _, err := ParseCertificate(in); !errors.Is(err, ErrMalformed) || IsNotCertificate(err) {
			t.Errorf("sequence %x: %v, want damaged", in, err)
		}
	}
}

func TestCertificateSizeLimit(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	good := ca.issue(t, ca.fields(t), nil)
	// A cosigner's signature fills the certificate up to the limit.
	sized := func(n int) ([]byte, error) {
		proof := good.Proof
		proof.Signatures = append(slices.Clone(proof.Signatures), SubtreeSignature{ca.ID.Append(1), make([]byte, n)})
		return MarshalCertificate(ca.fields(t), good.Serial, proof)
	}
	small, err := sized(8 << 10)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxCertificateSize - len(small)
	der, err := sized(8<<10 + room)
	if err != nil || len(der) != MaxCertificateSize {
		t.Fatalf("certificate of %d bytes: %v", len(der), err)
	}
	if _, err := ParseCertificate(der); err != nil {
		t.Errorf("certificate of %d bytes: %v", len(der), err)
	}
	if _, err := sized(8<<10 + room + 1); !errors.Is(err, ErrMalformed) {
		t.Errorf("one byte more: %v, want ErrMalformed", err)
	}
	large := append([]byte{0x30, 0x82, 0x7f, 0xff}, make([]byte, 0x7fff)...)
	if _, err := ParseCertificate(large); !errors.Is(err, ErrMalformed) || IsNotCertificate(err) {
		t.Errorf("sequence of 32 KiB: %v, want damaged", err)
	}
}

func TestMarshalRefuses(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	twice := func(der []byte) []byte { return append(slices.Clone(der), der...) }
	for name, edit := range map[string]func(*EntryFields){
		"no issuer":              func(f *EntryFields) { f.Issuer = TrustAnchorID{} },
		"issuer of 256 bytes":    func(f *EntryFields) { f.Issuer = f.Issuer.Append(make([]uint32, 252)...) },
		"year 1949":              func(f *EntryFields) { f.NotBefore = time.Date(1949, 12, 31, 23, 59, 59, 0, time.UTC) },
		"year 10000":             func(f *EntryFields) { f.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"ends before it begins":  func(f *EntryFields) { f.NotAfter = f.NotBefore.Add(-time.Second) },
		"no subject":             func(f *EntryFields) { f.Subject = nil },
		"subject is not a name":  func(f *EntryFields) { f.Subject = []byte{0x30, 2, 5, 0} },
		"two subjects":           func(f *EntryFields) { f.Subject = twice(f.Subject) },
		"no key":                 func(f *EntryFields) { f.SPKI = nil },
		"two keys":               func(f *EntryFields) { f.SPKI = twice(f.SPKI) },
		"empty extensions":       func(f *EntryFields) { f.Extensions = []byte{0x30, 0} },
		"no bytes of extensions": func(f *EntryFields) { f.Extensions = []byte{} },
	} {
		f := ca.fields(t)
		edit(&f)
		if _, err := MarshalEntry(f); !errors.Is(err, ErrMalformed) {
			t.Errorf("MarshalEntry, %s: %v, want ErrMalformed", name, err)
		}
		if _, err := MarshalCertificate(f, 1<<48, Proof{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("MarshalCertificate, %s: %v, want ErrMalformed", name, err)
		}
	}
	if _, err := MarshalCertificate(ca.fields(t), 42, Proof{}); !errors.Is(err, ErrSerial) {
		t.Errorf("log 0: %v, want ErrSerial", err)
	}
	large := ca.fields(t, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, MaxEntrySize)})
	if _, err := MarshalEntry(large); !errors.Is(err, ErrMalformed) {
		t.Errorf("entry of more than 64 KiB: %v, want ErrMalformed", err)
	}
}

// Times lose their fractions of a second and their zone, nothing else.
func TestTimes(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	f := ca.fields(t)
	for _, at := range []time.Time{
		time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1999, 12, 31, 23, 59, 59, 999, time.UTC),
		time.Date(2000, 2, 29, 1, 2, 3, 0, time.FixedZone("", -5*3600)),
		time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		f.NotBefore, f.NotAfter = at, at
		c := ca.certificate(t, f, 1<<48, Proof{Subtree: Subtree{0, 1}})
		if want := at.Truncate(time.Second).UTC(); c.NotBefore != want || c.NotAfter != want {
			t.Errorf("%v comes back as %v and %v", at, c.NotBefore, c.NotAfter)
		}
	}
}

// A value has one encoding; these are others.
func TestOtherEncodingsRefused(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	f := ca.fields(t, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
	f.NotAfter = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	good := ca.issue(t, f, nil).Raw
	for _, test := range []struct{ name, old, new string }{
		{"version 2", "\xa0\x03\x02\x01\x02", "\xa0\x03\x02\x01\x01"},
		{"time with a zone", "\x17\x0d260301120000Z", "\x17\x112603011200+0000"},
		{"time without seconds", "\x17\x0d260301120000Z", "\x17\x0b2603011200Z"},
		{"time with a fraction", "\x17\x0d260301120000Z", "\x17\x0f260301120000.5Z"},
		{"GeneralizedTime before 2050", "\x17\x0d260301120000Z", "\x18\x0f20260301120000Z"},
		{"ends before it begins", "\x18\x0f20500101000000Z", "\x17\x0d500101000000Z"}, // of 1950
		{"thirteenth month", "\x17\x0d260301120000Z", "\x17\x0d261301120000Z"},
		{"critical as 1", "\x01\x01\xff", "\x01\x01\x01"},
		{"critical written though false", "\x01\x01\xff", "\x01\x01\x00"},
		{"unique identifier", "\xa3\x0f\x30\x0d", "\xa1\x0f\x30\x0d"},
		{"algorithm with NULL", string(proofAlgorithm), "\x30\x0f" + string(proofAlgorithm[2:]) + "\x05\x00"},
		{"serial with a zero in front", "\x02\x07\x01\x00\x00", "\x02\x08\x00\x01\x00\x00"},
	} {
		der := replaceDER(t, good, test.old, test.new)
		if c, err := ParseCertificate(der); !errors.Is(err, ErrMalformed) || IsNotCertificate(err) {
			t.Errorf("%s: %v, %v, want damaged", test.name, c, err)
		}
	}
	if c, err := ParseCertificate(replaceDER(t, good, "\x02\x07\x01", "\x02\x07\x02")); err != nil || c.Serial.Log() != 2 {
		t.Errorf("replacing is itself broken: %v", err)
	}
}

// replaceDER replaces all of old, which is inside of the TBSCertificate or is
// one of its elements, and mends the two lengths around it.
func replaceDER(t *testing.T, der []byte, old, new string) []byte {
	t.Helper()
	c, err := ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(c.RawTBS, []byte(old)) {
		t.Fatalf("%x is not in the certificate", old)
	}
	var outer, tbs asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(c.RawTBS, &tbs); err != nil {
		t.Fatal(err)
	}
	rest := bytes.ReplaceAll(outer.Bytes[len(c.RawTBS):], []byte(old), []byte(new))
	contents := bytes.ReplaceAll(tbs.Bytes, []byte(old), []byte(new))
	if i := bytes.Index(contents, []byte("260301")); i > 0 {
		contents = mendValidity(t, contents)
	}
	return wrap(append(wrap(contents), rest...))
}

// mendValidity gives the SEQUENCE around the two times its length again.
func mendValidity(t *testing.T, contents []byte) []byte {
	t.Helper()
	begin := bytes.Index(contents, Name(mustID(t, "32473.1"))) + len(Name(mustID(t, "32473.1")))
	end := bytes.Index(contents, []byte("node-1"))
	if contents[begin] != 0x30 || end < begin {
		t.Fatal("validity not found")
	}
	first := 2 + int(contents[begin+3])
	second := 2 + int(contents[begin+2+first+1])
	contents = slices.Clone(contents)
	contents[begin+1] = byte(first + second)
	return contents
}

func wrap(contents []byte) []byte {
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: contents})
	if err != nil {
		panic(err)
	}
	return der
}

func TestExtensions(t *testing.T) {
	ext := func(i int) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, i}, Value: []byte{5, 0}}
	}
	var list []pkix.Extension
	for i := range maxExtensions {
		list = append(list, ext(i))
	}
	der, err := MarshalExtensions(list)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseExtensions(der); err != nil || fmt.Sprint(got) != fmt.Sprint(list) {
		t.Errorf("%v come back as %v, %v", list, got, err)
	}
	for name, list := range map[string][]pkix.Extension{
		"none":     nil,
		"too many": append(list, ext(maxExtensions)),
		"twice":    {ext(1), ext(2), ext(1)},
		"no OID":   {{Value: []byte{5, 0}}},
	} {
		if _, err := MarshalExtensions(list); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

func TestEntryHashDoesNotAllocate(t *testing.T) {
	c, err := ParseCertificate(readPEM(t, "p256/cert_0_2.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { c.EntryHash() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

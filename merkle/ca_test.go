package merkle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"
)

// A testCA holds the key of a CA and issues from a tree.
type testCA struct {
	*CA
	key  *ecdsa.PrivateKey
	tree Tree
}

var (
	testStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testNow   = testStart.Add(time.Hour)
	testEnd   = testStart.Add(24 * time.Hour)
)

func newTestCA(t testing.TB, curve elliptic.Curve, id string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{key: key, CA: &CA{
		ID:        mustID(t, id),
		PublicKey: &key.PublicKey,
		MinSerial: 1 << 48,
		MaxSerial: 2<<48 - 1,
		NotBefore: testStart.Add(-24 * time.Hour),
		NotAfter:  testEnd.Add(24 * time.Hour),
	}}
}

// sign returns a signature, with the cosigner's hash, over any bytes.
func (ca *testCA) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	kind, err := ca.cosigner()
	if err != nil {
		t.Fatal(err)
	}
	h := kind.hash.New()
	h.Write(message)
	sig, err := ca.key.Sign(rand.Reader, h.Sum(nil), kind.hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// fields are those of an entry for the CA.
func (ca *testCA) fields(t testing.TB, extensions ...pkix.Extension) EntryFields {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(&ca.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: "node-1"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	f := EntryFields{Issuer: ca.ID, NotBefore: testStart, NotAfter: testEnd, Subject: subject, SPKI: spki}
	if len(extensions) > 0 {
		if f.Extensions, err = MarshalExtensions(extensions); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// issue appends the entry after some others, and returns its certificate as
// a batch of three. edit, if any, changes what is signed.
func (ca *testCA) issue(t testing.TB, f EntryFields, edit func(*CosignedMessage)) *Certificate {
	t.Helper()
	entry, err := MarshalEntry(f)
	if err != nil {
		t.Fatal(err)
	}
	first := ca.tree.Size()
	ca.tree.Append(HashLeaf(NullEntry()), HashLeaf(entry), HashLeaf(NullEntry()))
	subtree := Smallest(first, ca.tree.Size())
	hash, err := ca.tree.Subtree(subtree)
	if err != nil {
		t.Fatal(err)
	}
	inclusion, err := ca.tree.Inclusion(first+1, subtree)
	if err != nil {
		t.Fatal(err)
	}
	m := CosignedMessage{Cosigner: ca.ID, Log: LogID(ca.ID, 1), Subtree: subtree, Hash: hash}
	if edit != nil {
		edit(&m)
	}
	return ca.certificate(t, f, 1<<48+Serial(first+1), Proof{
		Subtree:    subtree,
		Inclusion:  inclusion,
		Signatures: []SubtreeSignature{{ca.ID, ca.sign(t, m.Marshal())}},
	})
}

func (ca *testCA) certificate(t testing.TB, f EntryFields, serial Serial, proof Proof) *Certificate {
	t.Helper()
	der, err := MarshalCertificate(f, serial, proof)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIssueAndVerify(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		ca := newTestCA(t, curve, "32473.1")
		for range 20 {
			c := ca.issue(t, ca.fields(t), nil)
			if err := ca.Verify(c, testNow); err != nil {
				t.Fatalf("%s, serial %v: %v", curve.Params().Name, c.Serial, err)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	f := ca.fields(t)
	good := ca.issue(t, f, nil)

	// with returns the good certificate with another proof or serial.
	with := func(edit func(*Proof, *Serial)) *Certificate {
		proof, serial := good.Proof, good.Serial
		proof.Inclusion = slices.Clone(proof.Inclusion)
		edit(&proof, &serial)
		return ca.certificate(t, f, serial, proof)
	}
	otherIssuer := f
	otherIssuer.Issuer = mustID(t, "32473.2")

	for _, c := range []struct {
		name string
		cert *Certificate
		want error
	}{
		{"another CA", newTestCA(t, elliptic.P256(), "32473.2").issue(t, otherIssuer, nil), ErrIssuer},
		{"the same CA ID with another key", newTestCA(t, elliptic.P256(), "32473.1").issue(t, f, nil), ErrCASignature},
		{"signature of a checkpoint", ca.issue(t, f, func(m *CosignedMessage) { m.Timestamp = 1 }), ErrCASignature},
		{"signature of another log", ca.issue(t, f, func(m *CosignedMessage) { m.Log = LogID(ca.ID, 2) }), ErrCASignature},
		{"signature of another cosigner", ca.issue(t, f, func(m *CosignedMessage) { m.Cosigner = ca.ID.Append(1) }), ErrCASignature},
		{"signature over another interval", ca.issue(t, f, func(m *CosignedMessage) { m.Subtree.End++ }), ErrCASignature},
		{"signature over another hash", ca.issue(t, f, func(m *CosignedMessage) { m.Hash[0] ^= 1 }), ErrCASignature},
		{"no signature", with(func(p *Proof, _ *Serial) { p.Signatures = nil }), ErrNoCASignature},
		{"signature under another name", with(func(p *Proof, _ *Serial) {
			p.Signatures = []SubtreeSignature{{ca.ID.Append(1), p.Signatures[0].Signature}}
		}), ErrNoCASignature},
		{"empty signature", with(func(p *Proof, _ *Serial) {
			p.Signatures = []SubtreeSignature{{ca.ID, nil}}
		}), ErrCASignature},
		{"the same entry at another index", with(func(_ *Proof, s *Serial) { *s-- }), ErrCASignature},
		{"the same entry in another log", with(func(_ *Proof, s *Serial) { *s += 1 << 48 }), ErrSerial},
		{"index outside the subtree", with(func(p *Proof, s *Serial) { *s += 7 }), ErrProof},
		{"proof too long", with(func(p *Proof, _ *Serial) { p.Inclusion = append(p.Inclusion, Hash{}) }), ErrProof},
		{"proof too short", with(func(p *Proof, _ *Serial) { p.Inclusion = p.Inclusion[1:] }), ErrProof},
		{"interval that is no subtree", with(func(p *Proof, _ *Serial) { p.Subtree.Start = 1 }), ErrProof},
		{"log entry extension that was not logged", with(func(p *Proof, _ *Serial) {
			p.LogExtensions = []byte{0, 1, 0, 0}
		}), ErrCASignature},
	} {
		err := ca.Verify(c.cert, testNow)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if IsNotCertificate(err) {
			t.Errorf("%s: %v says that it is no certificate", c.name, err)
		}
	}
	if err := ca.Verify(good, testNow); err != nil {
		t.Errorf("the good certificate: %v", err)
	}
}

func TestVerifyValidity(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	c := ca.issue(t, ca.fields(t), nil)
	long := ca.fields(t)
	long.NotBefore, long.NotAfter = ca.NotBefore.AddDate(-1, 0, 0), ca.NotAfter.AddDate(1, 0, 0)
	longer := ca.issue(t, long, nil)
	for _, test := range []struct {
		what string
		cert *Certificate
		at   time.Time
		want error
	}{
		{"first moment", c, testStart, nil},
		{"before it", c, testStart.Add(-time.Nanosecond), ErrNotYetValid},
		{"last moment", c, testEnd, nil},
		{"after it", c, testEnd.Add(time.Nanosecond), ErrExpired},
		{"other time zone", c, testEnd.In(time.FixedZone("", 3600)), nil},
		{"CA's first moment", longer, ca.NotBefore, nil},
		{"before the CA", longer, ca.NotBefore.Add(-time.Second), ErrNotYetValid},
		{"CA's last moment", longer, ca.NotAfter, nil},
		{"after the CA", longer, ca.NotAfter.Add(time.Second), ErrExpired},
	} {
		if err := ca.Verify(test.cert, test.at); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
	}
}

func TestVerifySerialBounds(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	c := ca.issue(t, ca.fields(t), nil)
	for _, test := range []struct {
		min, max Serial
		want     error
	}{
		{c.Serial, c.Serial, nil},
		{c.Serial + 1, 1<<64 - 1, ErrSerial},
		{0, c.Serial - 1, ErrSerial},
	} {
		ca.MinSerial, ca.MaxSerial = test.min, test.max
		if err := ca.Verify(c, testNow); !errors.Is(err, test.want) {
			t.Errorf("serial %v within %v and %v: %v, want %v", c.Serial, test.min, test.max, err, test.want)
		}
	}
	// Log 0 does not exist, whatever the bounds say.
	ca.MinSerial, ca.MaxSerial = 0, 1<<64-1
	zero := *c
	zero.Serial = Serial(c.Serial.Index())
	if err := ca.Verify(&zero, testNow); !errors.Is(err, ErrSerial) {
		t.Errorf("log 0: %v, want ErrSerial", err)
	}
}

func TestVerifyCriticalExtensions(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	private := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 1}
	ext := func(id asn1.ObjectIdentifier, critical bool) *Certificate {
		return ca.issue(t, ca.fields(t, pkix.Extension{Id: id, Critical: critical, Value: []byte{5, 0}}), nil)
	}
	for _, id := range []asn1.ObjectIdentifier{oidKeyUsage, oidExtKeyUsage, oidSubjectAltName, oidBasicConstraints} {
		if err := ca.Verify(ext(id, true), testNow); err != nil {
			t.Errorf("%v: %v", id, err)
		}
	}
	if err := ca.Verify(ext(private, false), testNow); err != nil {
		t.Errorf("not critical: %v", err)
	}
	if err := ca.Verify(ext(private, true), testNow); !errors.Is(err, ErrCriticalExtension) {
		t.Errorf("critical: %v, want ErrCriticalExtension", err)
	}
	if err := ca.Verify(ext(private, true), testNow, private); err != nil {
		t.Errorf("critical and known: %v", err)
	}
}

// ECDSA signatures have a twin with the other s. Certificates may carry
// either; they are not named by it.
func TestVerifyAcceptsEitherS(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	c := ca.issue(t, ca.fields(t), nil)
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(c.Proof.Signatures[0].Signature, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	twin, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	proof := c.Proof
	proof.Signatures = []SubtreeSignature{{ca.ID, twin}}
	if err := ca.Verify(ca.certificate(t, ca.fields(t), c.Serial, proof), testNow); err != nil {
		t.Error(err)
	}
}

// Cosigners that the relying party does not know are never in the way.
func TestVerifyIgnoresOtherCosigners(t *testing.T) {
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	c := ca.issue(t, ca.fields(t), nil)
	proof := c.Proof
	proof.Signatures = []SubtreeSignature{
		{mustID(t, "1"), nil},
		{mustID(t, "32473.0"), []byte("rubbish")},
		proof.Signatures[0],
		{mustID(t, "340282366920938463463374607431768211456"), bytes.Repeat([]byte{0xff}, 4627)},
	}
	if err := ca.Verify(ca.certificate(t, ca.fields(t), c.Serial, proof), testNow); err != nil {
		t.Error(err)
	}
}

func TestCARoundTrip(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		ca := newTestCA(t, curve, "32473.1")
		der, err := ca.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseCA(der)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != ca.ID || !got.PublicKey.Equal(ca.PublicKey) || got.MinSerial != ca.MinSerial ||
			got.MaxSerial != ca.MaxSerial || !got.NotBefore.Equal(ca.NotBefore) || !got.NotAfter.Equal(ca.NotAfter) {
			t.Errorf("%+v comes back as %+v", ca.CA, got)
		}
		if again, err := got.Marshal(); err != nil || !bytes.Equal(again, der) {
			t.Errorf("marshalled again: %x, %v, want %x", again, err, der)
		}
		std, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("crypto/x509: %v", err)
		}
		if !std.IsCA || std.KeyUsage != x509.KeyUsageCertSign {
			t.Errorf("crypto/x509 sees IsCA %v, key usage %b", std.IsCA, std.KeyUsage)
		}
	}
}

func TestCAMarshalRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*CA)
		want error
	}{
		"no ID":            {func(ca *CA) { ca.ID = TrustAnchorID{} }, ErrMalformed},
		"ID too long":      {func(ca *CA) { ca.ID = ca.ID.Append(make([]uint32, 113)...) }, ErrMalformed},
		"reversed serials": {func(ca *CA) { ca.MinSerial = ca.MaxSerial + 1 }, ErrMalformed},
		"reversed times":   {func(ca *CA) { ca.NotAfter = ca.NotBefore.Add(-time.Second) }, ErrMalformed},
		"year 10000":       {func(ca *CA) { ca.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, ErrMalformed},
		"no key":           {func(ca *CA) { ca.PublicKey = nil }, ErrUnsupportedCosigner},
		"P-521":            {func(ca *CA) { ca.PublicKey = &newKey(t, elliptic.P521()).PublicKey }, ErrUnsupportedCosigner},
	} {
		ca := newTestCA(t, elliptic.P256(), "32473.1")
		test.edit(ca.CA)
		if _, err := ca.Marshal(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if err := ca.VerifySubtree(1, Subtree{0, 1}, Hash{}, nil); !errors.Is(err, test.want) {
			t.Errorf("%s, verifying: %v, want %v", name, err, test.want)
		}
	}
	ca := newTestCA(t, elliptic.P256(), "32473.1")
	ca.ID = ca.ID.Append(make([]uint32, 112)...)
	if _, err := ca.Marshal(); err != nil {
		t.Errorf("longest ID: %v", err)
	}
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedCA returns a CA certificate with the given extensions, as crypto/x509
// makes it and another CA signed it.
func signedCA(t *testing.T, key *ecdsa.PrivateKey, extensions ...pkix.Extension) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:    big.NewInt(77),
		RawSubject:      Name(mustID(t, "32473.1")),
		NotBefore:       testStart,
		NotAfter:        testEnd,
		ExtraExtensions: extensions,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "another issuer"}}, &key.PublicKey, newKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseCARefuses(t *testing.T) {
	key := newKey(t, elliptic.P256())
	ca := &CA{ID: mustID(t, "32473.1"), PublicKey: &key.PublicKey, MaxSerial: 1<<64 - 1, NotBefore: testStart, NotAfter: testEnd}
	der, err := ca.extensions()
	if err != nil {
		t.Fatal(err)
	}
	own, err := ParseExtensions(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCA(signedCA(t, key, own...)); err != nil {
		t.Fatalf("signed by somebody: %v", err)
	}

	replace := func(i int, edit func(*pkix.Extension)) []pkix.Extension {
		list := slices.Clone(own)
		list[i].Value = slices.Clone(list[i].Value)
		edit(&list[i])
		return list
	}
	swap := func(old, new []byte) []pkix.Extension {
		return replace(2, func(e *pkix.Extension) {
			if !bytes.Contains(e.Value, old) {
				t.Fatalf("%x not found", old)
			}
			e.Value = bytes.Replace(e.Value, old, new, 1)
		})
	}
	private := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}
	for name, test := range map[string]struct {
		extensions []pkix.Extension
		want       error
	}{
		"no MTCCertificationAuthority":       {own[:2], ErrNotMTC},
		"MTCCertificationAuthority optional": {replace(2, func(e *pkix.Extension) { e.Critical = false }), ErrMalformed},
		"no key usage":                       {own[1:], ErrMalformed},
		"no keyCertSign":                     {replace(0, func(e *pkix.Extension) { e.Value[3] = 0x80; e.Value[2] = 7 }), ErrMalformed},
		"no basic constraints":               {[]pkix.Extension{own[0], own[2]}, ErrMalformed},
		"not a CA":                           {replace(1, func(e *pkix.Extension) { e.Value = []byte{0x30, 0} }), ErrMalformed},
		"another critical extension":         {append(slices.Clone(own), private), ErrCriticalExtension},
		"SHA-384 log":                        {swap([]byte{0x65, 3, 4, 2, 1}, []byte{0x65, 3, 4, 2, 2}), ErrUnsupportedCosigner},
		"SHA-384 signature with P-256":       {swap([]byte{4, 3, 2, 2}, []byte{4, 3, 3, 2}), ErrUnsupportedCosigner},
		"trailing byte":                      {replace(2, func(e *pkix.Extension) { e.Value = append(e.Value, 0) }), ErrMalformed},
	} {
		_, err := ParseCA(signedCA(t, key, test.extensions...))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if IsNotCertificate(err) != (test.want == ErrNotMTC) {
			t.Errorf("%s: IsNotCertificate(%v) = %v", name, err, IsNotCertificate(err))
		}
	}
	if _, err := ParseCA(signedCA(t, newKey(t, elliptic.P521()), own...)); !errors.Is(err, ErrUnsupportedCosigner) {
		t.Errorf("P-521: %v, want ErrUnsupportedCosigner", err)
	}
}

// The bytes of a CosignedMessage, spelled out from the draft ("Signature
// Format").
func TestCosignedMessage(t *testing.T) {
	m := CosignedMessage{
		Cosigner:  mustID(t, "32473.1"),
		Timestamp: 0x0102,
		Log:       LogID(mustID(t, "32473.1"), 3),
		Subtree:   Subtree{4, 8},
		Hash:      sha256.Sum256([]byte("hash")),
	}
	want := "subtree/v1\n\x00" +
		"\x17oid/1.3.6.1.4.1.32473.1" +
		"\x00\x00\x00\x00\x00\x00\x01\x02" +
		"\x1boid/1.3.6.1.4.1.32473.1.0.3" +
		"\x00\x00\x00\x00\x00\x00\x00\x04" +
		"\x00\x00\x00\x00\x00\x00\x00\x08" +
		string(m.Hash[:])
	if got := string(m.Marshal()); got != want {
		t.Errorf("message is %q, want %q", got, want)
	}
	m.Log = m.Log.Append(make([]uint32, 250)...)
	defer func() {
		if r := recover(); r == nil {
			t.Error("a name of more than 255 bytes does not panic")
		}
	}()
	m.Marshal()
}

// An unsigned certificate that carries a signature is a contradiction
// (RFC 9925 section 3.1).
func TestParseCADamaged(t *testing.T) {
	der, err := newTestCA(t, elliptic.P256(), "32473.1").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	contents, ok := frame(der)
	if !ok || !bytes.HasSuffix(contents, []byte{3, 1, 0}) {
		t.Fatal("no empty signature at the end")
	}
	body := contents[:len(contents)-3]
	for name, bad := range map[string][]byte{
		"with a signature":       slices.Concat(body, []byte{3, 2, 0, 1}),
		"without a BIT STRING":   slices.Clone(body),
		"algorithms that differ": slices.Concat(bytes.TrimSuffix(body, unsignedAlgorithm), proofAlgorithm, []byte{3, 1, 0}),
		"another name":           bytes.Replace(contents, []byte("32473.1"), []byte("32473.."), 1),
		"version 2":              bytes.Replace(contents, []byte{2, 1, 2}, []byte{2, 1, 1}, 1),
	} {
		if ca, err := ParseCA(wrap(bad)); !errors.Is(err, ErrMalformed) || IsNotCertificate(err) {
			t.Errorf("%s: %v, %v, want damaged", name, ca, err)
		}
	}
	if _, err := ParseCA(wrap(contents)); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

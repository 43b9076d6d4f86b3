package chancery

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// Every place in batches of all shapes. The package's own verifier and the
// draft's, which knows nothing of Chancery, must agree.
func TestCertificateOfEveryPlaceInABatch(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 256, 257} {
		subjects := make([]*Subject, size)
		for i := range subjects {
			subjects[i] = w.subject(fmt.Sprintf("node-%d", i))
		}
		ca := &merkle.CA{ID: w.currentLog().ca, PublicKey: w.ca().PublicKey().ECDSA(), MinSerial: serial(1, 0), MaxSerial: serial(1, 1<<47), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
		v := NewVerifier(w.trust())
		for i, nc := range w.issue(subjects...) {
			if !reflect.DeepEqual(nc.Subject, *subjects[i]) {
				t.Errorf("%d of %d says %+v, want %+v", i, size, nc.Subject, subjects[i])
			}
			if _, err := v.Verify([][]byte{nc.Raw()}, nc.Name, NodeID{}, Policy{}, w.now); err != nil {
				t.Errorf("%d of %d: %v", i, size, err)
			}
			if err := ca.Verify(nc.MTC(), w.now); err != nil {
				t.Errorf("%d of %d, as any Merkle Tree Certificate: %v", i, size, err)
			}
		}
	}
	w.publish()
	w.check()
}

// crypto/tls carries N:C, so crypto/x509 must make sense of it.
func TestCertificateIsX509(t *testing.T) {
	w := newWorld(t)
	nc := w.issue(w.subject("edge-1", func(s *Subject) { s.DNSNames = []string{"edge-1.fleet.example", "edge-1"} }))[0]
	c, err := x509.ParseCertificate(nc.Raw())
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.CommonName != "edge-1" || c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) ||
		len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://fleet.example/node/edge-1" ||
		!slices.Equal(c.DNSNames, nc.DNSNames) || c.SerialNumber.Uint64() != uint64(nc.Serial) ||
		!nc.NodeKey.ECDSA().Equal(c.PublicKey) {
		t.Errorf("crypto/x509 reads %+v", c)
	}
}

// What a Subject must never say never gets as far as the log.
func TestSubjectIsChecked(t *testing.T) {
	w := newWorld(t)
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprintf("r%02d", i)
	}
	for name, change := range map[string]func(s *Subject){
		"no name":               func(s *Subject) { s.Name = "" },
		"name with a slash":     func(s *Subject) { s.Name = "a/b" },
		"no trust domain":       func(s *Subject) { s.TrustDomain = "" },
		"upper case domain":     func(s *Subject) { s.TrustDomain = "Fleet" },
		"empty validity":        func(s *Subject) { s.NotAfter = s.NotBefore },
		"empty DNS name":        func(s *Subject) { s.DNSNames = []string{""} },
		"wildcard DNS name":     func(s *Subject) { s.DNSNames = []string{"*.example"} },
		"too many DNS names":    func(s *Subject) { s.DNSNames = many[:maxDNSNames+1] },
		"too many roles":        func(s *Subject) { s.Roles = many[:MaxRoles+1] },
		"roles out of order":    func(s *Subject) { s.Roles = []string{"b", "a"} },
		"role twice":            func(s *Subject) { s.Roles = []string{"a", "a"} },
		"empty role":            func(s *Subject) { s.Roles = []string{""} },
		"no N:S":                func(s *Subject) { s.NS.Signature = nil },
		"N:S with high s":       func(s *Subject) { s.NS.Signature = twin(P256, s.NS.Signature) },
		"N:S in DER":            func(s *Subject) { s.NS.Signature = s.NS.Signature.ASN1() },
		"year without encoding": func(s *Subject) { s.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		s := w.subject("edge-1", change)
		if _, err := NewCertificate(s, w.currentLog().ca, serial(1, 0), merkle.Proof{Subtree: merkle.Subtree{End: 1}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	longest := w.subject("edge-1", func(s *Subject) {
		s.Roles, s.DNSNames = many[:MaxRoles], many[:maxDNSNames]
		s.Name = strings.Repeat("n", 63)
		s.NS.Signature = nodeKey("edge-1").must(w.fleet(), s.ns(w.fleet()))
	})
	if err := w.judge([][]byte{w.issue(longest)[0].Raw()}); err != nil {
		t.Errorf("as long as allowed: %v", err)
	}
}

// edit certifies a good subject with a changed list of extensions. CA:SK signs
// all of it: only the form is wrong.
func (w *world) edit(name string, change func(list []pkix.Extension) []pkix.Extension) []byte {
	w.t.Helper()
	f, err := w.subject(name).Fields(w.currentLog().ca)
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := merkle.ParseExtensions(f.Extensions)
	if err != nil {
		w.t.Fatal(err)
	}
	if f.Extensions, err = merkle.MarshalExtensions(change(list)); err != nil {
		w.t.Fatal(err)
	}
	return w.issueFields(f)[0]
}

// find returns the extension in the list.
func find(list []pkix.Extension, oid asn1.ObjectIdentifier) *pkix.Extension {
	return &list[slices.IndexFunc(list, func(e pkix.Extension) bool { return e.Id.Equal(oid) })]
}

func value(oid asn1.ObjectIdentifier, change func(v []byte) []byte) func([]pkix.Extension) []pkix.Extension {
	return func(list []pkix.Extension) []pkix.Extension {
		e := find(list, oid)
		e.Value = change(bytes.Clone(e.Value))
		return list
	}
}

// Whatever CA:SK signed by mistake or for another purpose is no N:C unless it
// has the one form.
func TestNotANodeCertificate(t *testing.T) {
	ekuOnly := func(oid asn1.ObjectIdentifier) []byte {
		der, err := asn1.Marshal([]asn1.ObjectIdentifier{oid})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, change := range map[string]func(list []pkix.Extension) []pkix.Extension{
		"unknown extension": func(l []pkix.Extension) []pkix.Extension {
			return append(l, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 77}, Value: octets(nil)})
		},
		"extensions in another order": func(l []pkix.Extension) []pkix.Extension { slices.Reverse(l); return l },
		"critical N:S": func(l []pkix.Extension) []pkix.Extension {
			find(l, oidNS).Critical = true
			return l
		},
		"key usage not critical": func(l []pkix.Extension) []pkix.Extension {
			find(l, oidKeyUsage).Critical = false
			return l
		},
		"key usage keyCertSign": value(oidKeyUsage, func([]byte) []byte { return []byte{3, 2, 2, 0x84} }),
		"CA:TRUE":               value(oidBasicConstraints, func([]byte) []byte { return []byte{0x30, 3, 1, 1, 0xff} }),
		"only serverAuth":       value(oidExtKeyUsage, func([]byte) []byte { return ekuOnly(oidServerAuth) }),
		"N:S with high s": value(oidNS, func(v []byte) []byte {
			at := len(v) - P256.SignatureSize()
			return append(v[:at], twin(P256, v[at:])...)
		}),
		"N:S of the P-384 length": value(oidNS, func(v []byte) []byte {
			return octets(append(append(v[2:len(v)-65:len(v)-65], 96), make([]byte, 96)...))
		}),
		"N:S cut off":              value(oidNS, func(v []byte) []byte { return octets(v[2 : len(v)-1]) }),
		"N:S with a trailing byte": value(oidNS, func(v []byte) []byte { return octets(append(v[2:], 0)) }),
		"N:S without OCTET STRING": value(oidNS, func(v []byte) []byte { return v[2:] }),
		"bytes after OCTET STRING": value(oidNS, func(v []byte) []byte { return append(v, 0) }),
		"assurance 4":              value(oidAssurance, func(v []byte) []byte { v[2] = 4; return v }),
		"unknown assurance flag":   value(oidAssurance, func(v []byte) []byte { v[3] = 2; return v }),
		"roles not ascending":      value(oidRoles, func([]byte) []byte { return octets([]byte("\x00\x04\x01b\x01a")) }),
		"role twice":               value(oidRoles, func([]byte) []byte { return octets([]byte("\x00\x04\x01a\x01a")) }),
		"role that is no name":     value(oidRoles, func([]byte) []byte { return octets([]byte("\x00\x02\x01/")) }),
		"roles cut off":            value(oidRoles, func([]byte) []byte { return octets([]byte("\x00\x04\x01a")) }),
		"SAN names another node":   value(oidSubjectAltName, func(v []byte) []byte { return bytes.Replace(v, []byte("edge-1"), []byte("edge-2"), 1) }),
		"SAN of another scheme":    value(oidSubjectAltName, func(v []byte) []byte { return bytes.Replace(v, []byte("spiffe"), []byte("httpss"), 1) }),
		"SAN with an escape":       value(oidSubjectAltName, func(v []byte) []byte { return bytes.Replace(v, []byte("edge-1"), []byte("ed%2d1"), 1) }),
		"SAN is something else":    value(oidSubjectAltName, func([]byte) []byte { return []byte{0x30, 0} }),
		"SAN with a trailing byte": value(oidSubjectAltName, func(v []byte) []byte { return append(v, 0) }),
		"SAN with an e-mail address": value(oidSubjectAltName, func(v []byte) []byte {
			v = append(v, 0x81, 3, 'a', '@', 'b')
			v[1] += 5
			return v
		}),
		"SAN with a second URI": value(oidSubjectAltName, func(v []byte) []byte {
			v = append(v, 0x86, 1, 'x')
			v[1] += 3
			return v
		}),
		"without SAN":                without(oidSubjectAltName),
		"without N:S":                without(oidNS),
		"without roles":              without(oidRoles),
		"without assurance":          without(oidAssurance),
		"without key usage":          without(oidKeyUsage),
		"without extended key usage": without(oidExtKeyUsage),
		"without basic constraints":  without(oidBasicConstraints),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			der := w.edit("edge-1", change)
			if _, err := ParseCertificate(der); !errors.Is(err, ErrNotNC) {
				t.Errorf("parses: %v, want ErrNotNC", err)
			}
			refused(t, w.judge([][]byte{der}), CheckParse, ErrNotNC)
		})
	}
}

func without(oid asn1.ObjectIdentifier) func([]pkix.Extension) []pkix.Extension {
	return func(list []pkix.Extension) []pkix.Extension {
		return slices.DeleteFunc(list, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
	}
}

// A log entry of another kind has the same serial numbers and is under the same
// signatures. It is never an N:C, also not with an N:S.
func TestOtherEntryIsNotANodeCertificate(t *testing.T) {
	other := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 4}, Critical: true, Value: octets(make([]byte, 32))}
	for name, change := range map[string]func(list []pkix.Extension) []pkix.Extension{
		"instead of N:S": func(l []pkix.Extension) []pkix.Extension { *find(l, oidNS) = other; return l },
		"beside N:S":     func(l []pkix.Extension) []pkix.Extension { return append(l, other) },
	} {
		w := newWorld(t)
		der := w.edit("edge-1", change)
		ca := &merkle.CA{ID: w.currentLog().ca, PublicKey: w.ca().PublicKey().ECDSA(), MinSerial: serial(1, 0), MaxSerial: serial(1, 9), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
		m, err := merkle.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.Verify(m, w.now); !errors.Is(err, merkle.ErrCriticalExtension) {
			t.Errorf("%s, as any Merkle Tree Certificate: %v", name, err)
		}
		refused(t, w.judge([][]byte{der}), CheckParse, ErrNotNC)
	}
}

// Two N:S in one certificate would leave open which one was checked.
func TestNSTwice(t *testing.T) {
	w := newWorld(t)
	spare := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, 78}
	der := w.edit("edge-1", func(l []pkix.Extension) []pkix.Extension {
		return append(l, pkix.Extension{Id: spare, Value: find(l, oidNS).Value})
	})
	from, to := oidBytes(t, spare), oidBytes(t, oidNS)
	if bytes.Count(der, from) != 1 {
		t.Fatal("the spare extension is not where it should be")
	}
	refused(t, w.judge([][]byte{bytes.Replace(der, from, to, 1)}), CheckParse, merkle.ErrMalformed)
}

func oidBytes(t *testing.T, oid asn1.ObjectIdentifier) []byte {
	der, err := asn1.Marshal(oid)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Fields outside of the extensions have one form too.
func TestSubjectNameHasOneForm(t *testing.T) {
	w := newWorld(t)
	for name, subject := range map[string][]byte{
		"another node's name": commonName("edge-2"),
		"two names":           append([]byte{0x30, byte(2 * (len(commonName("edge-1")) - 2))}, bytes.Repeat(commonName("edge-1")[2:], 2)...),
		"printable string":    bytes.Replace(commonName("edge-1"), []byte{0x0c, 6}, []byte{0x13, 6}, 1),
		"no name":             {0x30, 0},
	} {
		f, err := w.subject("edge-1").Fields(w.currentLog().ca)
		if err != nil {
			t.Fatal(err)
		}
		f.Subject = subject
		t.Run(name, func(t *testing.T) { refused(t, w.judge([][]byte{w.issueFields(f)[0]}), CheckParse, ErrNotNC) })
	}
	f, err := w.subject("edge-1").Fields(w.currentLog().ca)
	if err != nil {
		t.Fatal(err)
	}
	hash := make([]byte, 32)
	f.SPKI = spki(append([]byte{4}, append(hash, hash...)...))
	refused(t, w.judge([][]byte{w.issueFields(f)[0]}), CheckParse, ErrPublicKey)
}

func TestLogExtensionsAreRefused(t *testing.T) {
	w := newWorld(t)
	nc := w.issue(w.subject("edge-1"))[0]
	der := w.rewrite(nc, func(_ *merkle.Serial, p *merkle.Proof) { p.LogExtensions = []byte{0, 1, 0, 0} })
	refused(t, w.judge([][]byte{der}), CheckParse, ErrNotNC)
}

// refused checks both the step that refused a peer and its reason.
func refused(t testing.TB, err error, check Check, reason error) {
	t.Helper()
	var r *RefusedError
	if !errors.As(err, &r) || r.Check != check || !errors.Is(err, reason) {
		t.Errorf("got %v, want a refusal by the %s check: %v", err, check, reason)
	}
}

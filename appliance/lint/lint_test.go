package lint_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/merkle"
)

// What may be certified is let through, by both ways of looking at it, and is
// N:C for those who read it later.
func TestKinds(t *testing.T) {
	for _, k := range kinds {
		w, s := k.of(t)
		c := w.candidate(s)
		if err := w.linter().Check(c, stranger); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if err := second(&w.rules, c); err != nil {
			t.Errorf("%s, looked at in the other way: %v", k.name, err)
		}
		if got := w.issue(3, s, w.subject())[0]; got.Name != s.Name {
			t.Errorf("%s: N:C is %s's", k.name, got.Name)
		}
	}
}

// A draft is a good candidate that a test spoils.
type draft struct {
	w       *world
	c       *lint.Candidate
	e       *merkle.Entry // what c.Entry is made of, unless raw is there
	list    []pkix.Extension
	written map[int][]byte // extensions of the list as they are to be written
	raw     []byte
}

func newDraft(t testing.TB) *draft {
	t.Helper()
	w := newWorld(t)
	w.rules.DNSSuffix = "nodes.fleet.example"
	c := w.candidate(w.subject())
	e, err := merkle.ParseEntry(c.Entry)
	if err != nil {
		t.Fatal(err)
	}
	return &draft{w: w, c: c, e: e, list: slices.Clone(e.Extensions)}
}

// candidate writes the draft down, whether it is well-formed or not.
func (d *draft) candidate() *lint.Candidate {
	if d.raw == nil {
		var all []asn1.RawValue
		for i, e := range d.list {
			b, ok := d.written[i]
			if !ok {
				b = der(d.w.t, e, "")
			}
			all = append(all, asn1.RawValue{FullBytes: b})
		}
		d.e.RawExtensions = der(d.w.t, all, "")
		d.raw = d.e.Marshal()
	}
	return edited(d.c, d.raw)
}

func der(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replace exchanges bytes of the entry, which are there once.
func replace(old, with string) func(*draft) {
	return func(d *draft) {
		d.w.t.Helper()
		i := locate(d.w.t, d.c.Entry, []byte(old))
		d.raw = slices.Concat(d.c.Entry[:i], []byte(with), d.c.Entry[i+len(old):])
	}
}

// value exchanges the value of an extension.
func value(oid string, change func([]byte) []byte) func(*draft) {
	return func(d *draft) {
		e := d.extension(oid)
		e.Value = change(bytes.Clone(e.Value))
	}
}

// structure is value for what is inside a private extension's OCTET STRING.
func structure(n int, change func([]byte) []byte) func(*draft) {
	return func(d *draft) {
		value(private(n).String(), func(v []byte) []byte { return der(d.w.t, change(v[2:]), "") })(d)
	}
}

func (d *draft) extension(oid string) *pkix.Extension {
	d.w.t.Helper()
	i := slices.IndexFunc(d.list, func(e pkix.Extension) bool { return e.Id.String() == oid })
	if i < 0 {
		d.w.t.Fatalf("no extension %s", oid)
	}
	return &d.list[i]
}

// written writes an extension as it is here, in hexadecimal.
func written(i int, text string) func(*draft) {
	return func(d *draft) {
		b, err := hex.DecodeString(text)
		if err != nil {
			d.w.t.Fatal(err)
		}
		d.written = map[int][]byte{i: b}
	}
}

func is(b ...byte) func([]byte) []byte { return func([]byte) []byte { return b } }
func cut(v []byte) []byte              { return v[:len(v)-1] }
func longer(v []byte) []byte           { return append(v, 0) }

func set(i int, b byte) func([]byte) []byte {
	return func(v []byte) []byte { v[i] = b; return v }
}

// called gives the node another name wherever the entry has it.
func called(name string) func(*draft) {
	return func(d *draft) {
		d.c.Name = name
		d.e.RawSubject = nameOf(d.w.t, asn1.TagUTF8String, name)
		value("2.5.29.17", func([]byte) []byte {
			return altNames(d.w.t, 6, chancery.SPIFFEID(d.w.rules.TrustDomain, name), 2, name+"."+d.w.rules.DNSSuffix)
		})(d)
	}
}

func nameOf(t testing.TB, tag int, texts ...string) []byte {
	var set pkix.RelativeDistinguishedNameSET
	for _, text := range texts {
		set = append(set, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: tag, Bytes: []byte(text)}})
	}
	return der(t, pkix.RDNSequence{set}, "")
}

// altNames takes tags and names in turn.
func altNames(t testing.TB, list ...any) []byte {
	var names []asn1.RawValue
	for i := 0; i < len(list); i += 2 {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: list[i].(int), Bytes: []byte(list[i+1].(string))})
	}
	return der(t, names, "")
}

// names makes the SAN out of tags and names.
func names(list ...any) func(*draft) {
	return func(d *draft) { d.extension("2.5.29.17").Value = altNames(d.w.t, list...) }
}

// keyed puts another key in, with its algorithm and its hash.
func keyed(spki []byte) func(*draft) {
	return func(d *draft) {
		var key struct {
			Algorithm asn1.RawValue
			Point     asn1.BitString
		}
		if _, err := asn1.Unmarshal(spki, &key); err == nil {
			d.e.KeyAlgorithm = key.Algorithm.FullBytes
		}
		d.c.SPKI, d.e.KeyHash = spki, merkle.Hash(sha256.Sum256(spki))
	}
}

// point is the key with the coordinates.
func point(t testing.TB, c elliptic.Curve, x, y *big.Int) []byte {
	t.Helper()
	oid := asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	if c == elliptic.P384() {
		oid = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	}
	size := c.Params().BitSize / 8
	b := make([]byte, 1+2*size)
	b[0] = 4
	x.FillBytes(b[1 : 1+size])
	y.FillBytes(b[1+size:])
	return der(t, struct {
		Algorithm struct{ Key, Curve asn1.ObjectIdentifier }
		Point     asn1.BitString
	}{struct{ Key, Curve asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, oid}, asn1.BitString{Bytes: b, BitLength: 8 * len(b)}}, "")
}

// times puts the validity in as it is written.
func times(notBefore, notAfter string) func(*draft) {
	form := func(s string) string { return string([]byte{0x17 + byte(btoi(len(s) > 13)), byte(len(s))}) + s }
	return replace("\x30\x1e\x17\x0d310517120000Z\x17\x0d310524120000Z", string(append([]byte{0x30, byte(len(form(notBefore)) + len(form(notAfter)))}, form(notBefore)+form(notAfter)...)))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Every rule, broken in the ways that one can think of. The other way of
// looking at it must refuse too.
func TestRules(t *testing.T) {
	broken := map[lint.Rule]map[string]func(*draft){
		lint.Size:   {"padding": func(d *draft) { d.raw = append(d.c.Entry, make([]byte, 4096)...) }},
		lint.Serial: {"another log": func(d *draft) { d.c.Serial = serial(t, 2, 41) }, "no log": func(d *draft) { d.c.Serial = 41 }},
		lint.Encoding: {
			"nothing":         func(d *draft) { d.raw = []byte{} },
			"a null entry":    func(d *draft) { d.raw = merkle.NullEntry() },
			"another type":    func(d *draft) { d.raw = slices.Concat([]byte{0, 0, 0, 2}, d.c.Entry[4:]) },
			"a log extension": func(d *draft) { d.e.LogExtensions = []byte{0, 1, 0, 0} },
			"version 1":       replace("\xa0\x03\x02\x01\x02", "\xa0\x03\x02\x01\x00"),
			"a byte more":     func(d *draft) { d.raw = longer(d.c.Entry) },
			"a byte less":     func(d *draft) { d.raw = cut(d.c.Entry) },
			"no extensions": func(d *draft) {
				d.raw = (&merkle.Entry{Issuer: d.e.Issuer, NotBefore: d.e.NotBefore, NotAfter: d.e.NotAfter, RawSubject: d.e.RawSubject, KeyAlgorithm: d.e.KeyAlgorithm, KeyHash: d.e.KeyHash}).Marshal()
			},
			"a written FALSE":         written(1, "30200603551d2501010004163014"+"06082b06010505070301"+"06082b06010505070302"),
			"a BIT STRING as value":   written(2, "300c0603551d130101ff03023000"),
			"something behind it":     written(2, "300e0603551d130101ff040230000500"),
			"no identifier":           written(2, "30070101ff04023000"),
			"a set":                   written(2, "310c0603551d130101ff04023000"),
			"validity is a set":       func(d *draft) { d.swap("301e170d", "311e170d") },
			"a length in two bytes":   func(d *draft) { d.swap("301e170d", "30811e170d") },
			"an identifier cut short": func(d *draft) { d.swap("2b0601040181fd5902010", "2b0601040181fd5902810") },
		},
		lint.Issuer: {
			"another CA": func(d *draft) { d.e.Issuer = d.e.Issuer.Append(1) },
			"PrintableString": func(d *draft) {
				replace("\x0c"+string([]byte{byte(len(d.e.Issuer.String()))}), "\x13"+string([]byte{byte(len(d.e.Issuer.String()))}))(d)
			},
			"a common name": func(d *draft) { d.swap("060a2b0601040182da4b2f01", "060a2b0601040182da4b2f02") },
			"an empty issuer ": func(d *draft) {
				at := locate(t, d.c.Entry, merkle.Name(d.e.Issuer))
				d.raw = slices.Concat(d.c.Entry[:at], []byte{0x30, 0}, d.c.Entry[at+len(merkle.Name(d.e.Issuer)):])
			},
		},
		lint.Time: {
			"no seconds":                   times("3105171200Z", "310524120000Z"),
			"fraction":                     times("310517120000Z", "310524120000.5Z"),
			"offset":                       times("310517120000Z", "3105241200+0000"),
			"GeneralizedTime before 2050":  times("310517120000Z", "20310524120000Z"),
			"GeneralizedTime of year 31":   times("310517120000Z", "00310524120000Z"),
			"a day that does not exist":    times("310517120000Z", "310431120000Z"),
			"month 13":                     times("310517120000Z", "311324120000Z"),
			"hour 24":                      times("310517120000Z", "310523240000Z"),
			"second 60":                    times("310517120000Z", "310524115960Z"),
			"a sign":                       times("310517120000Z", "3105241200+0Z"),
			"three times":                  func(d *draft) { d.swap("301e170d333130353137", "302d170d3331303531373132303030305a170d333130353137") },
			"one time":                     func(d *draft) { d.swap("301e170d3331303531373132303030305a", "300f") },
			"letters instead of digits":    times("310517120000Z", "31052412ab00Z"),
			"GeneralizedTime without zone": times("310517120000Z", "20310524120000"),
		},
		lint.Validity: {
			"ends as it begins":     times("310517120000Z", "310517120000Z"),
			"ends before it begins": times("310517120000Z", "310517115959Z"),
			"ends in 1950":          times("310517120000Z", "500524120000Z"),
		},
		lint.NotBefore: {
			"a second ahead": times("310517120001Z", "310524120000Z"),
			"long before":    times("310517115459Z", "310524115459Z"),
		},
		lint.Life: {"a second too long": times("310517120000Z", "310524120001Z"), "no end": times("310517120000Z", "99991231235959Z")},
		lint.Subject: {
			"another node's":  func(d *draft) { d.e.RawSubject = nameOf(t, asn1.TagUTF8String, "edge-2") },
			"PrintableString": func(d *draft) { d.e.RawSubject = nameOf(t, asn1.TagPrintableString, d.c.Name) },
			"two names":       func(d *draft) { d.e.RawSubject = nameOf(t, asn1.TagUTF8String, d.c.Name, "z") },
			"none":            func(d *draft) { d.e.RawSubject = []byte{0x30, 0} },
			"organisation": func(d *draft) {
				d.e.RawSubject = bytes.Replace(d.e.RawSubject, []byte{0x55, 4, 3}, []byte{0x55, 4, 10}, 1)
			},
			"two parts": func(d *draft) {
				n := nameOf(t, asn1.TagUTF8String, d.c.Name)
				d.e.RawSubject = slices.Concat([]byte{0x30, byte(2 * len(n[2:]))}, n[2:], n[2:])
			},
		},
		lint.Name: {},
		lint.Key: {
			"another key's hash": func(d *draft) { d.e.KeyHash[0] ^= 1 },
			"another algorithm":  replace("\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x20", "\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x04\x20"),
			"off the curve":      func(d *draft) { s := slices.Clone(d.c.SPKI); s[len(s)-1] ^= 1; keyed(s)(d) },
			"zeros":              keyed(point(t, elliptic.P256(), new(big.Int), new(big.Int))),
			"P-384 of zeros":     keyed(point(t, elliptic.P384(), new(big.Int), new(big.Int))),
			"x above the field":  keyed(point(t, elliptic.P256(), new(big.Int).Add(elliptic.P256().Params().P, big.NewInt(5)), big.NewInt(1))),
			"no key":             keyed(nil),
			"a byte more":        func(d *draft) { keyed(append(slices.Clone(d.c.SPKI), 0))(d) },
			"compressed": func(d *draft) {
				p := elliptic.MarshalCompressed(elliptic.P256(), elliptic.P256().Params().Gx, elliptic.P256().Params().Gy)
				keyed(append([]byte("\x30\x39\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00"), p...))(d)
			},
			"P-521": func(d *draft) {
				p := elliptic.P521().Params()
				s := point(t, elliptic.P256(), new(big.Int), new(big.Int))[:23]
				keyed(slices.Concat(s, p.Gx.Bytes(), p.Gy.Bytes()))(d)
			},
		},
		lint.Suite:      {"below the floor": func(d *draft) { d.w.rules.MinSuite = chancery.P384 }},
		lint.BadKey:     {},
		lint.KeyPurpose: {"the CA's": func(d *draft) { keyed(d.w.ca.PublicKey().SPKI())(d) }, "the approval key": func(d *draft) { keyed(d.w.pointer.Approval.SPKI())(d) }},
		lint.Extensions: {
			"an unknown one":  func(d *draft) { d.list = append(d.list, pkix.Extension{Id: private(77), Value: []byte{5, 0}}) },
			"of a later one":  func(d *draft) { d.list[4].Id = private(4) },
			"none":            func(d *draft) { d.list = nil },
			"in other order":  func(d *draft) { d.list[0], d.list[1] = d.list[1], d.list[0] },
			"the last is not": func(d *draft) { d.list = d.list[:6] },
		},
		lint.Critical: {"TRUE as 1": written(2, "300c0603551d1301010104023000")},
		lint.KeyUsage: {
			"and keyCertSign":   value("2.5.29.15", is(3, 2, 2, 0x84)),
			"keyAgreement":      value("2.5.29.15", is(3, 2, 3, 8)),
			"none":              value("2.5.29.15", is(3, 1, 0)),
			"with loose bits":   value("2.5.29.15", is(3, 2, 6, 0x80)),
			"and a zero behind": value("2.5.29.15", longer),
		},
		lint.ExtKeyUsage: {
			"clientAuth only": value("2.5.29.37", func(v []byte) []byte { return append([]byte{0x30, 10}, v[12:]...) }),
			"exchanged":       value("2.5.29.37", func(v []byte) []byte { return slices.Concat(v[:2], v[12:], v[2:12]) }),
			"any":             value("2.5.29.37", is(0x30, 6, 6, 4, 0x55, 0x1d, 0x25, 0)),
			"codeSigning":     value("2.5.29.37", func(v []byte) []byte { v[11] = 3; return v }),
		},
		lint.BasicConstraints: {
			"CA":              value("2.5.29.19", is(0x30, 3, 1, 1, 0xff)),
			"a written FALSE": value("2.5.29.19", is(0x30, 3, 1, 1, 0)),
			"path length":     value("2.5.29.19", is(0x30, 3, 2, 1, 0)),
		},
		lint.AltName: {
			"another node":       names(6, "spiffe://fleet.example/node/edge-2", 2, "edge-1.nodes.fleet.example"),
			"another domain":     names(6, "spiffe://other.example/node/edge-1", 2, "edge-1.nodes.fleet.example"),
			"no node":            names(6, "spiffe://fleet.example/edge-1", 2, "edge-1.nodes.fleet.example"),
			"a query":            names(6, "spiffe://fleet.example/node/edge-1?x", 2, "edge-1.nodes.fleet.example"),
			"upper case":         names(6, "SPIFFE://fleet.example/node/edge-1", 2, "edge-1.nodes.fleet.example"),
			"no URI":             names(2, "edge-1.nodes.fleet.example"),
			"no DNS name":        names(6, "spiffe://fleet.example/node/edge-1"),
			"another DNS name":   names(6, "spiffe://fleet.example/node/edge-1", 2, "edge-2.nodes.fleet.example"),
			"another suffix":     names(6, "spiffe://fleet.example/node/edge-1", 2, "edge-1.nodes.fleet.examples"),
			"a wildcard":         names(6, "spiffe://fleet.example/node/edge-1", 2, "*.nodes.fleet.example"),
			"a DNS name more":    names(6, "spiffe://fleet.example/node/edge-1", 2, "edge-1.nodes.fleet.example", 2, "edge-1"),
			"an address":         names(6, "spiffe://fleet.example/node/edge-1", 2, "edge-1.nodes.fleet.example", 7, "\x0a\x00\x00\x01"),
			"mail":               names(6, "spiffe://fleet.example/node/edge-1", 2, "edge-1.nodes.fleet.example", 1, "a@b.example"),
			"exchanged":          names(2, "edge-1.nodes.fleet.example", 6, "spiffe://fleet.example/node/edge-1"),
			"a zero at the end":  names(6, "spiffe://fleet.example/node/edge-1\x00", 2, "edge-1.nodes.fleet.example"),
			"none":               value("2.5.29.17", is(0x30, 0)),
			"a byte behind them": value("2.5.29.17", longer),
		},
		lint.NS: {
			"empty":          structure(1, is()),
			"cut":            structure(1, cut),
			"longer":         structure(1, longer),
			"no CA:N:S":      structure(1, func(v []byte) []byte { clear(v[:32]); return v }),
			"from tomorrow":  structure(1, func(v []byte) []byte { v[36]++; return v }),
			"from year 9999": structure(1, set(32, 1)),
			"before time":    structure(1, set(32, 0x80)),
			"zero r":         structure(1, func(v []byte) []byte { clear(v[41:73]); return v }),
			"zero s":         structure(1, func(v []byte) []byte { clear(v[73:]); return v }),
			"r is n":         structure(1, func(v []byte) []byte { elliptic.P256().Params().N.FillBytes(v[41:73]); return v }),
			"high s":         structure(1, set(73, 0x80)),
			"length":         structure(1, set(40, 65)),
			"no OCTETS":      value(private(1).String(), set(0, 3)),
			"trailing":       value(private(1).String(), longer),
		},
		lint.Roles: {
			"empty":          structure(3, is()),
			"length":         structure(3, set(1, 3)),
			"cut":            structure(3, cut),
			"cut inside":     structure(3, is(0, 3, 5, 'w', 'e')),
			"empty name":     structure(3, is(0, 1, 0)),
			"upper case":     structure(3, is(0, 2, 1, 'W')),
			"control":        structure(3, is(0, 4, 3, 'a', '\n', 'b')),
			"dots":           structure(3, is(0, 5, 4, 'a', '.', '.', 'b')),
			"dot at the end": structure(3, is(0, 3, 2, 'a', '.')),
			"twice":          structure(3, is(0, 4, 1, 'a', 1, 'a')),
			"descending":     structure(3, is(0, 4, 1, 'b', 1, 'a')),
			"too many": structure(3, func([]byte) []byte {
				b := []byte{0, 99}
				for i := range byte(33) {
					b = append(b, 2, 'a'+i/10, '0'+i%10)
				}
				return b
			}),
		},
		lint.Assurance: {
			"level 4":  structure(2, set(0, 4)),
			"flag 2":   structure(2, set(1, 2)),
			"no EK":    structure(2, func(v []byte) []byte { clear(v[2:]); return v }),
			"cut":      structure(2, cut),
			"longer":   structure(2, longer),
			"trailing": value(private(2).String(), longer),
		},
	}
	for _, name := range []string{"", "A", "a b", "a\x00", "a\n", "a..b", ".a", "a.", "-a", "a-", "a-.b", "a.-b", "é", "e\u0301", "*", "*.a", "a_b", "a/b", "xn--bcher-kva", "a.xn--p1ai", "ab--c", strings.Repeat("a", 64)} {
		broken[lint.Name][fmt.Sprintf("%q", name)] = called(name)
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		for k := 1; k <= 16; k++ {
			x, y := c.ScalarBaseMult([]byte{byte(k)})
			broken[lint.BadKey][fmt.Sprintf("%d on %s", k, c.Params().Name)] = keyed(point(t, c, x, y))
			broken[lint.BadKey][fmt.Sprintf("-%d on %s", k, c.Params().Name)] = keyed(point(t, c, x, new(big.Int).Sub(c.Params().P, y)))
		}
	}
	for i, e := range newDraft(t).list {
		broken[lint.Critical][e.Id.String()] = func(d *draft) { d.list[i].Critical = !d.list[i].Critical }
		broken[lint.Extensions]["without "+e.Id.String()] = func(d *draft) { d.list = slices.Delete(d.list, i, i+1) }
		broken[lint.Extensions]["twice "+e.Id.String()] = func(d *draft) { d.list = slices.Insert(d.list, i, d.list[i]) }
		broken[lint.Extensions]["again at the end "+e.Id.String()] = func(d *draft) { d.list = append(d.list, d.list[i]) }
	}
	for want, list := range broken {
		if len(list) == 0 {
			t.Errorf("%s: nothing breaks it", want)
		}
		for what, spoil := range list {
			d := newDraft(t)
			spoil(d)
			c := d.candidate()
			err := d.w.linter().Check(c, stranger)
			if rule(err) != want {
				t.Errorf("%s: %s: %v", want, what, err)
			}
			if want == lint.Name && rule(lint.CheckName(c.Name)) != want {
				t.Errorf("%s: at an earlier gate %v", what, lint.CheckName(c.Name))
			}
			if err != nil && !printable(err.Error()) {
				t.Errorf("%s: %s: %q", want, what, err)
			}
			if second(&d.w.rules, c) == nil {
				t.Errorf("%s: %s: the other way of looking at it finds nothing", want, what)
			}
		}
	}
}

// swap is replace in hexadecimal. Lengths around it stay as they were.
func (d *draft) swap(old, with string) {
	d.w.t.Helper()
	text := hex.EncodeToString(d.c.Entry)
	if strings.Count(text, old) != 1 {
		d.w.t.Fatalf("%s is in the entry %d times", old, strings.Count(text, old))
	}
	var err error
	if d.raw, err = hex.DecodeString(strings.Replace(text, old, with, 1)); err != nil {
		d.w.t.Fatal(err)
	}
}

// An error goes to a log and a terminal: a node must not write to them.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r != '…' })
}

func rule(err error) lint.Rule {
	if e, ok := errors.AsType[*lint.Error](err); ok {
		return e.Rule
	}
	return ""
}

// A key keeps its name. Whoever cannot be asked is no reason to go on.
func TestKeyReuse(t *testing.T) {
	d := newDraft(t)
	l, c := d.w.linter(), d.candidate()
	calls := 0
	holder := func(name string, err error) lint.Holder {
		return func(spki []byte) (string, error) {
			calls++
			if !bytes.Equal(spki, c.SPKI) {
				t.Errorf("asked about %x", spki)
			}
			return name, err
		}
	}
	if err := l.Check(c, holder(c.Name, nil)); err != nil {
		t.Errorf("a renewal: %v", err)
	}
	if err := l.Check(c, holder("edge-2", nil)); rule(err) != lint.KeyReuse {
		t.Errorf("another node's key: %v", err)
	}
	gone := errors.New("the store is gone")
	if err := l.Check(c, holder("", gone)); !errors.Is(err, gone) {
		t.Errorf("no store: %v", err)
	}
	c.Serial = 0
	if err := l.Check(c, holder("", nil)); rule(err) != lint.Serial || calls != 3 {
		t.Errorf("asked %d times, %v: the store is for what is good otherwise", calls, err)
	}
}

// Every error says where the rule is written, and what to do.
func TestErrors(t *testing.T) {
	d := newDraft(t)
	d.e.NotAfter = d.e.NotBefore.Add(d.w.rules.MaxLife + time.Second)
	err := d.w.linter().Check(d.candidate(), stranger)
	e, ok := errors.AsType[*lint.Error](err)
	if !ok || e.Hint() == "" || e.Source != "docs/protocol.md section 5.4" {
		t.Fatalf("%v", err)
	}
	const want = "certificate refused before signing: life: the certificate lives 168h0m1s, the pointer record allows 168h0m0s (docs/protocol.md section 5.4)"
	if err.Error() != want {
		t.Errorf("%s, want %s", err, want)
	}
}

// The edges of what is allowed.
func TestEdges(t *testing.T) {
	x, y := elliptic.P256().ScalarBaseMult([]byte{17})
	for name, change := range map[string]func(*draft){
		"notBefore five minutes ago": times("310517115500Z", "310524115500Z"),
		"a second of life":           times("310517120000Z", "310517120001Z"),
		"in the middle of a second":  func(d *draft) { d.c.Now = d.c.Now.Add(time.Second - 1) },
		"N:S from tomorrow":          structure(1, func(v []byte) []byte { v[37]++; v[38] += 0x51; v[39] += 0x80 - 0x3c; return v }),
		"no roles":                   structure(3, is(0, 0)),
		"a key that is no guess":     keyed(point(t, elliptic.P256(), x, y)),
		"level 0 with a chip":        structure(2, set(0, 0)),
	} {
		d := newDraft(t)
		change(d)
		c := d.candidate()
		if err := errors.Join(d.w.linter().Check(c, stranger), second(&d.w.rules, c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a pointer record says is forbidden, is; and the rest of its rules are
// the verifier's.
func TestRulesOf(t *testing.T) {
	w := newWorld(t)
	p := *w.pointer
	p.X509Issuer = newKey(t).PublicKey()
	next, retired, tls := newKey(t).PublicKey(), newKey(t).PublicKey(), newKey(t).PublicKey()
	p.Genesis.NextCA = retired.Fingerprint()
	p.Rollovers = []chancery.Rollover{{NextCA: next.Fingerprint()}}
	p.Keys = append(p.Keys, chancery.CAKey{Key: retired, ID: chancery.DefaultCAID(retired), State: chancery.CAKeyRetired})
	p.Endpoints = []chancery.Endpoint{{URL: "https://a.example", Pins: [][32]byte{tls.Fingerprint()}}}
	r := lint.RulesOf(&p)
	for _, k := range []struct {
		key   chancery.PublicKey
		whose string
	}{
		{w.ca.PublicKey(), "the key of CA " + p.Current().ID.String()},
		{retired, "the key of CA " + chancery.DefaultCAID(retired).String()},
		{next, "the next CA key"},
		{p.Approval, "the approval key"},
		{p.X509Issuer, "the X.509 issuer's key"},
		{tls, "the coordinator's TLS key"},
	} {
		if got := r.Forbidden[k.key.Fingerprint()]; got != k.whose {
			t.Errorf("%q, want %q", got, k.whose)
		}
	}
	if r.CA != p.Current().ID || r.Log != 1 || r.TrustDomain != appliancetest.TrustDomain || r.MaxLife != appliancetest.MaxLife || r.MinSuite != chancery.P256 || len(r.Forbidden) != 6 {
		t.Errorf("%+v", r)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*lint.Rules){
		"no CA":             func(r *lint.Rules) { r.CA = merkle.TrustAnchorID{} },
		"log 0":             func(r *lint.Rules) { r.Log = 0 },
		"no trust domain":   func(r *lint.Rules) { r.TrustDomain = "" },
		"a path":            func(r *lint.Rules) { r.TrustDomain = "a/b" },
		"no life":           func(r *lint.Rules) { r.MaxLife = 0 },
		"no suite":          func(r *lint.Rules) { r.MinSuite = 0 },
		"an unknown suite":  func(r *lint.Rules) { r.MinSuite = 3 },
		"nothing forbidden": func(r *lint.Rules) { r.Forbidden = nil },
		"a number":          func(r *lint.Rules) { r.DNSSuffix = "10.0.0.1" },
		"a dot":             func(r *lint.Rules) { r.DNSSuffix = ".example" },
		"upper case":        func(r *lint.Rules) { r.DNSSuffix = "Example" },
		"a wildcard":        func(r *lint.Rules) { r.DNSSuffix = "*.example" },
		"a long suffix":     func(r *lint.Rules) { r.DNSSuffix = strings.Repeat("abcdefghi.", 18) + "abcdefghij" },
	} {
		r := newWorld(t).rules
		change(&r)
		if _, err := lint.New(r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

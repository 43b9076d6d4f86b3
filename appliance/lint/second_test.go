package lint_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/lint"
)

var (
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	reserved = regexp.MustCompile(`(^|\.)[^.]{2}--`)
	roleName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

	private = func(n int) asn1.ObjectIdentifier {
		return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, n}
	}
)

// second judges a candidate in another way than the package does: it has
// crypto/x509 read a certificate with the entry's fields, takes the facts out
// of that, has encoding/asn1 write them anew, and compares. It is slow, and
// does not say what is wrong.
func second(r *lint.Rules, c *lint.Candidate) error {
	if len(c.Entry) > 4096 || c.Serial.Log() != r.Log || !bytes.HasPrefix(c.Entry, []byte{0, 0, 0, 1}) {
		return fmt.Errorf("place or head")
	}
	cert, err := asX509(c)
	if err != nil {
		return err
	}
	found := map[string][]byte{}
	for _, e := range cert.Extensions {
		found[e.Id.String()] = e.Value
	}
	if len(c.Name) > 63 || !hostName.MatchString(c.Name) || reserved.MatchString(c.Name) {
		return fmt.Errorf("name %q", c.Name)
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	if age := c.Now.Sub(cert.NotBefore); life <= 0 || life > r.MaxLife || age < 0 || age > 5*time.Minute {
		return fmt.Errorf("%s to %s at %s", cert.NotBefore, cert.NotAfter, c.Now)
	}
	size, err := secondKey(r, c.SPKI)
	if err != nil {
		return err
	}
	var values [4][]byte
	for n := 1; n <= 3; n++ {
		if rest, err := asn1.Unmarshal(found[private(n).String()], &values[n]); err != nil || len(rest) > 0 {
			return fmt.Errorf("private extension %d: %v", n, err)
		}
	}
	if err := secondValues(c, size, values); err != nil {
		return err
	}
	again, err := rewrite(r, c, cert, values)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, c.Entry) {
		return fmt.Errorf("written anew it is\n%x, not\n%x", again, c.Entry)
	}
	return nil
}

// asX509 makes a certificate of the entry with another signature algorithm,
// and has it parsed.
func asX509(c *lint.Candidate) (*x509.Certificate, error) {
	var f [7]asn1.RawValue // version, issuer, validity, subject, algorithm, hash, extensions
	rest := c.Entry[4:]
	for i := range f {
		var err error
		if rest, err = asn1.Unmarshal(rest, &f[i]); err != nil {
			return nil, err
		}
	}
	fingerprint := sha256.Sum256(c.SPKI)
	if len(rest) > 0 || !bytes.Equal(f[5].Bytes, fingerprint[:]) || !bytes.HasPrefix(c.SPKI[min(len(c.SPKI), 2):], f[4].FullBytes) {
		return nil, fmt.Errorf("key's hash or algorithm")
	}
	algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	der, err := asn1.Marshal(struct {
		TBS struct {
			Version                   asn1.RawValue
			Serial                    *big.Int
			Algorithm                 pkix.AlgorithmIdentifier
			Issuer, Validity, Subject asn1.RawValue
			Key, Extensions           asn1.RawValue
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		TBS: struct {
			Version                   asn1.RawValue
			Serial                    *big.Int
			Algorithm                 pkix.AlgorithmIdentifier
			Issuer, Validity, Subject asn1.RawValue
			Key, Extensions           asn1.RawValue
		}{f[0], new(big.Int).SetUint64(uint64(c.Serial)), algorithm, f[1], f[2], f[3], asn1.RawValue{FullBytes: c.SPKI}, f[6]},
		Algorithm: algorithm,
		Signature: asn1.BitString{Bytes: []byte{0}, BitLength: 8},
	})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// secondKey looks at the key with the arithmetic of math/big, and returns the
// length of a coordinate.
func secondKey(r *lint.Rules, spki []byte) (int, error) {
	if _, forbidden := r.Forbidden[sha256.Sum256(spki)]; forbidden {
		return 0, fmt.Errorf("key is forbidden")
	}
	for _, curve := range []struct {
		elliptic.Curve
		oid   asn1.ObjectIdentifier
		suite chancery.Suite
	}{
		{elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, chancery.P256},
		{elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}, chancery.P384},
	} {
		p, size := curve.Params(), curve.Params().BitSize/8
		if len(spki) < 2*size {
			continue
		}
		point := append([]byte{4}, spki[len(spki)-2*size:]...)
		want, err := asn1.Marshal(struct {
			Algorithm struct{ Key, Curve asn1.ObjectIdentifier }
			Point     asn1.BitString
		}{struct{ Key, Curve asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, curve.oid}, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
		if err != nil || !bytes.Equal(want, spki) {
			continue
		}
		x, y := new(big.Int).SetBytes(point[1:1+size]), new(big.Int).SetBytes(point[1+size:])
		// y² = x³ - 3x + b
		right := new(big.Int).Exp(x, big.NewInt(3), p.P)
		right.Sub(right, new(big.Int).Mul(big.NewInt(3), x)).Add(right, p.B).Mod(right, p.P)
		if x.Cmp(p.P) >= 0 || y.Cmp(p.P) >= 0 || right.Cmp(new(big.Int).Exp(y, big.NewInt(2), p.P)) != 0 {
			return 0, fmt.Errorf("not on the curve")
		}
		if curve.suite < r.MinSuite || slices.Contains(multiples(curve), x.String()) {
			return 0, fmt.Errorf("weak")
		}
		return size, nil
	}
	return 0, fmt.Errorf("no curve")
}

// multiples returns the x-coordinates of G to 16G.
func multiples(c elliptic.Curve) (list []string) {
	for k := range 16 {
		x, _ := c.ScalarBaseMult([]byte{byte(k + 1)})
		list = append(list, x.String())
	}
	return list
}

func secondValues(c *lint.Candidate, size int, values [4][]byte) error {
	ns, assurance, roles := values[1], values[2], values[3]
	var zero [32]byte
	if len(ns) != 41+2*size || int(ns[40]) != 2*size || [32]byte(ns) == zero {
		return fmt.Errorf("N:S")
	}
	p := map[int]elliptic.Curve{32: elliptic.P256(), 48: elliptic.P384()}[size].Params()
	one := big.NewInt(1)
	half := new(big.Int).Div(new(big.Int).Sub(p.N, one), big.NewInt(2))
	r, s := new(big.Int).SetBytes(ns[41:41+size]), new(big.Int).SetBytes(ns[41+size:])
	if r.Cmp(one) < 0 || r.Cmp(p.N) >= 0 || s.Cmp(one) < 0 || s.Cmp(half) > 0 {
		return fmt.Errorf("N:S's signature")
	}
	if created := binary.BigEndian.Uint64(ns[32:]); created > 253402300799 || int64(created) > c.Now.Unix()+24*60*60 {
		return fmt.Errorf("N:S's time")
	}
	if len(assurance) != 34 || assurance[0] > 3 || assurance[1] > 1 || assurance[0] > 0 && [32]byte(assurance[2:]) == zero {
		return fmt.Errorf("assurance")
	}
	if len(roles) < 2 || int(roles[0])<<8+int(roles[1]) != len(roles)-2 {
		return fmt.Errorf("roles")
	}
	var names []string
	for b := roles[2:]; len(b) > 0; {
		if int(b[0]) >= len(b) {
			return fmt.Errorf("roles")
		}
		names, b = append(names, string(b[1:1+b[0]])), b[1+b[0]:]
	}
	for _, n := range names {
		if len(n) > 63 || !roleName.MatchString(n) || bytes.Contains([]byte(n), []byte("..")) {
			return fmt.Errorf("role %q", n)
		}
	}
	if len(names) > 32 || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		return fmt.Errorf("roles %q", names)
	}
	return nil
}

// rewrite writes the entry that says the same.
func rewrite(r *lint.Rules, c *lint.Candidate, cert *x509.Certificate, values [4][]byte) (entry []byte, err error) {
	marshal := func(v any, params string) (der []byte) {
		if err == nil {
			der, err = asn1.MarshalWithParams(v, params)
		}
		return der
	}
	name := func(oid asn1.ObjectIdentifier, text string) []byte {
		return marshal(pkix.RDNSequence{{{Type: oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)}}}}, "")
	}
	names := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(chancery.SPIFFEID(r.TrustDomain, c.Name))}}
	if r.DNSSuffix != "" {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(c.Name + "." + r.DNSSuffix)})
	}
	usage := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, n} }
	standard := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, n} }
	fingerprint := sha256.Sum256(c.SPKI)
	var key struct {
		Algorithm pkix.AlgorithmIdentifier
		Point     asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.SPKI, &key); err != nil {
		return nil, err
	}
	entry = slices.Concat([]byte{0, 0, 0, 1},
		marshal(2, "explicit,tag:0"),
		name(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 47, 1}, r.CA.String()),
		marshal(struct{ NotBefore, NotAfter time.Time }{cert.NotBefore, cert.NotAfter}, ""),
		name(asn1.ObjectIdentifier{2, 5, 4, 3}, c.Name),
		marshal(key.Algorithm, ""),
		marshal(fingerprint[:], ""),
		marshal([]pkix.Extension{
			{Id: standard(15), Critical: true, Value: marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}, "")},
			{Id: standard(37), Value: marshal([]asn1.ObjectIdentifier{usage(1), usage(2)}, "")},
			{Id: standard(19), Critical: true, Value: marshal(struct{}{}, "")},
			{Id: standard(17), Value: marshal(names, "")},
			{Id: private(1), Value: marshal(values[1], "")},
			{Id: private(3), Value: marshal(values[3], "")},
			{Id: private(2), Value: marshal(values[2], "")},
		}, "explicit,tag:3"))
	return entry, err
}

package lint

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// An extension is one that every N:C has.
type extension struct {
	name     string
	oid      string
	critical bool
	check    func(e *examination, value der) error
}

// required are the extensions of N:C in their order.
var required = [...]extension{
	{"keyUsage", oidKeyUsage, true, fixed(KeyUsage, usageSignature, "digitalSignature")},
	{"extKeyUsage", oidExtKeyUsage, false, fixed(ExtKeyUsage, usageBothEnds, "serverAuth and clientAuth")},
	{"basicConstraints", oidBasicConstraints, true, fixed(BasicConstraints, notCA, "CA:FALSE")},
	{"subjectAltName", oidSubjectAltName, false, (*examination).altName},
	{"N:S", oidNS, false, (*examination).ns},
	{"roles", oidRoles, false, (*examination).roles},
	{"assurance", oidAssurance, false, (*examination).assurance},
}

func (e *examination) extensions() error {
	outer, ok := e.rest.element(tagExtensions)
	list, ok2 := outer.element(tagSequence)
	if !ok || !ok2 || len(outer)+len(e.rest) > 0 {
		return refuse(Encoding, "after the key there is something else than extensions, or more")
	}
	for i := range required {
		want := &required[i]
		if len(list) == 0 {
			return refuse(Extensions, "extension %s is missing", want.name)
		}
		ext, _ := list.element(tagSequence) // empty if it is none, and so is oid
		oid, _ := ext.element(tagOID)
		if string(oid) != want.oid {
			return misplaced(oid, i)
		}
		if critical := ext.skip("\x01\x01\xff"); critical != want.critical {
			return refuse(Critical, "extension %s is critical: %t", want.name, critical)
		}
		value, ok := ext.element(tagOctets) // so a written FALSE is not DER
		if !ok || len(ext) > 0 {
			return refuse(Encoding, "extension %s is not DER", want.name)
		}
		if err := want.check(e, value); err != nil {
			return err
		}
	}
	if len(list) > 0 {
		ext, _ := list.element(tagSequence)
		oid, _ := ext.element(tagOID)
		return misplaced(oid, len(required))
	}
	return nil
}

// misplaced tells what is wrong with an extension that is not the one that is
// due.
func misplaced(oid der, due int) error {
	for i := range required {
		if string(oid) == required[i].oid {
			if i < due {
				return refuse(Extensions, "extension %s is there twice", required[i].name)
			}
			return refuse(Extensions, "extension %s is where %s has to be", required[i].name, required[due].name)
		}
	}
	var id x509.OID
	if id.UnmarshalBinary(oid) != nil {
		return refuse(Encoding, "an extension has the object identifier %s", show(oid))
	}
	return refuse(Extensions, "extension %s is none of N:C's", id)
}

// fixed checks an extension whose value is always the same.
func fixed(r Rule, want, what string) func(*examination, der) error {
	return func(_ *examination, value der) error {
		if string(value) != want {
			return refuse(r, "value is %s, not %s", show(value), what)
		}
		return nil
	}
}

// altName wants the SPIFFE ID and, where nodes have DNS names, that one.
func (e *examination) altName(value der) error {
	whole := value
	names, ok := value.element(tagSequence)
	if !ok || len(value) > 0 {
		return refuse(AltName, "value is not a sequence of names: %s", show(whole))
	}
	uri, ok := names.element(tagURI)
	if !ok || !uri.skip(e.uri) || string(uri) != e.Name {
		return refuse(AltName, "first is %s, not the URI %s%s", show(uri), e.uri, e.Name)
	}
	if e.dns != "" {
		name, ok := names.element(tagDNSName)
		if !ok || !name.skip(e.Name) || string(name) != e.dns {
			return refuse(AltName, "the DNS name %s%s is not there", e.Name, e.dns)
		}
	}
	if len(names) > 0 {
		return refuse(AltName, "there is a further name: %s", show(names))
	}
	return nil
}

// inner returns the structure inside the OCTET STRING that a private
// extension's value is.
func inner(value der) (b []byte, ok bool) {
	b, ok = value.element(tagOctets)
	return b, ok && len(value) == 0
}

// skew is how far a node's clock may be ahead when it signs N:S, see
// docs/protocol.md section 2.
const skew = 24 * time.Hour

// ns wants the signature and what it is about. Whether it verifies was seen
// before, at the price of a hundred of these.
func (e *examination) ns(value der) error {
	b, ok := inner(value)
	n := 2 * e.curve.size
	if !ok || len(b) != 32+8+1+n || int(b[40]) != n {
		return refuse(NS, "N:S is not a hash, a time and %d bytes of signature", n)
	}
	hash, created, signature := b[:32], binary.BigEndian.Uint64(b[32:]), b[41:]
	if zero(hash) {
		return refuse(NS, "N:S names no CA:N:S")
	}
	if created > maxTime || time.Unix(int64(created), 0).Sub(e.Now) > skew {
		return refuse(NS, "N:S is of second %d, more than %s after the append at %s", created, skew, stamp(e.Now))
	}
	r, s := signature[:n/2], signature[n/2:]
	if zero(r) || zero(s) || bytes.Compare(r, e.curve.order) >= 0 || bytes.Compare(s, e.curve.half) > 0 {
		return refuse(NS, "N:S has a signature out of range")
	}
	return nil
}

func (e *examination) roles(value der) error {
	b, ok := inner(value)
	if !ok || len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return refuse(Roles, "value is not a list of roles: %s", show(b))
	}
	var last []byte
	count := 0
	for b = b[2:]; len(b) > 0; count++ {
		n := int(b[0])
		if n >= len(b) {
			return refuse(Roles, "the last role is cut")
		}
		role := b[1 : 1+n]
		if !isRole(role) {
			return refuse(Roles, "%s is not a role", show(role))
		}
		if bytes.Compare(role, last) <= 0 {
			return refuse(Roles, "roles %s and %s are not ascending", show(last), show(role))
		}
		last, b = role, b[1+n:]
	}
	if count > maxRoles {
		return refuse(Roles, "%d roles, at most %d", count, maxRoles)
	}
	return nil
}

func (e *examination) assurance(value der) error {
	b, ok := inner(value)
	if !ok || len(b) != 2+32 {
		return refuse(Assurance, "value is not a level, flags and a hash: %s", show(value))
	}
	level, flags := b[0], b[1]
	if level > maxLevel || flags > 1 {
		return refuse(Assurance, "level %d and flags %d are not known", level, flags)
	}
	if level > 0 && zero(b[2:]) {
		return refuse(Assurance, "level %d without an endorsement key", level)
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

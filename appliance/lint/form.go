package lint

import (
	"strings"
	"time"
)

// The form of an N:C's entry, out of RFC 5280, RFC 5480, the draft and
// docs/protocol.md section 5.1. All numbers of this package are here and in
// curve.go; that merkle and the root package have them too is the point.

// entryHead is how every entry of a certificate begins: no log extensions,
// type tbs_cert_entry, [0] { INTEGER 2 }.
const entryHead = "\x00\x00" + "\x00\x01" + "\xa0\x03\x02\x01\x02"

// Contents of OBJECT IDENTIFIERs.
const (
	oidTrustAnchorID = "\x2b\x06\x01\x04\x01\x82\xda\x4b\x2f\x01" // 1.3.6.1.4.1.44363.47.1
	oidCommonName    = "\x55\x04\x03"                             // 2.5.4.3

	oidKeyUsage         = "\x55\x1d\x0f"                             // 2.5.29.15
	oidExtKeyUsage      = "\x55\x1d\x25"                             // 2.5.29.37
	oidBasicConstraints = "\x55\x1d\x13"                             // 2.5.29.19
	oidSubjectAltName   = "\x55\x1d\x11"                             // 2.5.29.17
	oidNS               = "\x2b\x06\x01\x04\x01\x81\xfd\x59\x02\x01" // 1.3.6.1.4.1.32473.2.1
	oidAssurance        = "\x2b\x06\x01\x04\x01\x81\xfd\x59\x02\x02" // 1.3.6.1.4.1.32473.2.2
	oidRoles            = "\x2b\x06\x01\x04\x01\x81\xfd\x59\x02\x03" // 1.3.6.1.4.1.32473.2.3
)

// Values of the extensions that are always the same.
const (
	usageSignature = "\x03\x02\x07\x80" // BIT STRING, bit 0
	usageBothEnds  = "\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
	notCA          = "\x30\x00"
)

const (
	maxEntry   = 4 << 10 // the longest that the other bounds leave is below
	maxName    = 63
	maxDNSName = 253 // RFC 1034 section 3.1: 255 with length and root
	maxRoles   = 32
	maxLevel   = 3
	maxTime    = 253402300799 // 9999-12-31T23:59:59Z
)

// Tags of DER elements.
const (
	tagBoolean     = 0x01
	tagOctets      = 0x04
	tagOID         = 0x06
	tagUTF8        = 0x0c
	tagUTCTime     = 0x17
	tagGeneralized = 0x18
	tagSequence    = 0x30
	tagSet         = 0x31
	tagDNSName     = 0x82 // [2] of GeneralName
	tagURI         = 0x86 // [6] of GeneralName
	tagExtensions  = 0xa3 // [3] of TBSCertificateLogEntry
)

// A der is what is left to read of a DER encoding.
type der []byte

// skip takes off the bytes if they are next.
func (d *der) skip(want string) bool {
	if len(*d) < len(want) || string((*d)[:len(want)]) != want {
		return false
	}
	*d = (*d)[len(want):]
	return true
}

// element takes off the next element, which must have the tag, and returns its
// contents. Lengths have the one form that DER leaves.
func (d *der) element(tag byte) (contents der, ok bool) {
	head, n := d.header()
	if head == 0 || (*d)[0] != tag {
		return nil, false
	}
	contents = (*d)[head : head+n]
	*d = (*d)[head+n:]
	return contents, true
}

// whole is element with tag and length.
func (d *der) whole(tag byte) (element der, ok bool) {
	at := *d
	_, ok = d.element(tag)
	return at[:len(at)-len(*d)], ok
}

// peek returns the next element whatever it is, or all that is left if it is
// none.
func (d *der) peek() []byte {
	if head, n := d.header(); head > 0 {
		return (*d)[:head+n]
	}
	return *d
}

// header returns how long tag and length are, and the contents; 0 if there is
// no whole element. No entry has lengths of more than two bytes.
func (d *der) header() (head, n int) {
	b := *d
	switch {
	case len(b) < 2:
		return 0, 0
	case b[1] < 0x80:
		head, n = 2, int(b[1])
	case b[1] == 0x81 && len(b) > 2 && b[2] >= 0x80:
		head, n = 3, int(b[2])
	case b[1] == 0x82 && len(b) > 3 && b[2] > 0:
		head, n = 4, int(b[2])<<8|int(b[3])
	default:
		return 0, 0
	}
	if len(b)-head < n {
		return 0, 0
	}
	return head, n
}

// tlv returns an element of contents shorter than 2^16.
func tlv(tag byte, contents string) string {
	n := len(contents)
	switch {
	case n < 0x80:
		return string([]byte{tag, byte(n)}) + contents
	case n < 0x100:
		return string([]byte{tag, 0x81, byte(n)}) + contents
	}
	return string([]byte{tag, 0x82, byte(n >> 8), byte(n)}) + contents
}

// nameOf returns the DER Name of one attribute, a UTF8String.
func nameOf(oid, value string) string {
	return tlv(tagSequence, tlv(tagSet, tlv(tagSequence, tlv(tagOID, oid)+tlv(tagUTF8, value))))
}

// readCommonName takes off a Name of one common name, a UTF8String.
func readCommonName(d *der) (name []byte, ok bool) {
	names, ok1 := d.element(tagSequence)
	set, ok2 := names.element(tagSet)
	attribute, ok3 := set.element(tagSequence)
	oid, ok4 := attribute.element(tagOID)
	name, ok5 := attribute.element(tagUTF8)
	ok = ok1 && ok2 && ok3 && ok4 && ok5 && string(oid) == oidCommonName
	return name, ok && len(names)+len(set)+len(attribute) == 0
}

// readTime takes off a time in the form of RFC 5280 section 4.1.2.5: UTCTime
// up to 2049 and GeneralizedTime after it, whole seconds, Zulu.
func readTime(d *der) (time.Time, bool) {
	s, utc := d.element(tagUTCTime)
	century := 0
	if !utc {
		var ok bool
		if s, ok = d.element(tagGeneralized); !ok || len(s) != 15 {
			return time.Time{}, false
		}
		century = two(s)
		s = s[2:]
	}
	if len(s) != 13 || s[12] != 'Z' {
		return time.Time{}, false
	}
	var f [6]int // year of the century to second
	for i := range f {
		if f[i] = two(s[2*i:]); f[i] < 0 {
			return time.Time{}, false
		}
	}
	if utc { // 50 to 99 are of the last century
		century = 20
		if f[0] >= 50 {
			century = 19
		}
	}
	year := 100*century + f[0]
	if utc != (year < 2050) {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(f[1]), f[2], f[3], f[4], f[5], 0, time.UTC)
	// Date takes the 31st of June for the 1st of July.
	_, month, day := t.Date()
	hour, minute, second := t.Clock()
	return t, int(month) == f[1] && day == f[2] && hour == f[3] && minute == f[4] && second == f[5]
}

// two reads two digits, -1 if they are none.
func two(b []byte) int {
	if b[0] < '0' || b[0] > '9' || b[1] < '0' || b[1] > '9' {
		return -1
	}
	return int(b[0]-'0')*10 + int(b[1]-'0')
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// isHostName follows the preferred syntax of RFC 1034 section 3.5, which RFC
// 5280 section 4.2.1.6 asks of DNS names, with the digits of RFC 1123 section
// 2.1 and in lower case. A name that ends in a number would pass for an IPv4
// address.
func isHostName(s string) bool {
	if len(s) > maxDNSName {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if wrongLabel([]byte(l)) != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

func isTrustDomain(s string) bool {
	for _, c := range []byte(s) {
		if !isLower(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 255
}

// wrongName tells what keeps a node's name from being the left part of a DNS
// name that reads as it is written.
func wrongName(name []byte) string {
	if len(name) == 0 || len(name) > maxName {
		return "it must have 1 to 63 characters"
	}
	for start, i := 0, 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			continue
		}
		label := name[start:i]
		if why := wrongLabel(label); why != "" {
			return why
		}
		if len(label) > 3 && label[2] == '-' && label[3] == '-' {
			// RFC 5890 section 2.3.1: xn-- stands for other characters, and
			// the rest is reserved for what may come.
			return "a part with -- in the third and fourth place stands for something else"
		}
		start = i + 1
	}
	return ""
}

func wrongLabel(l []byte) string {
	if len(l) == 0 || len(l) > 63 {
		return "a part between dots must have 1 to 63 characters"
	}
	for _, c := range l {
		if !isLower(c) && c != '-' {
			return "only a-z, 0-9, - and . are allowed"
		}
	}
	if l[0] == '-' || l[len(l)-1] == '-' {
		return "a part between dots must begin and end with a letter or digit"
	}
	return ""
}

// isRole tells whether b can be a role (docs/protocol.md section 2.1). Roles
// are no DNS names.
func isRole(b []byte) bool {
	if len(b) == 0 || len(b) > maxName || !isLower(b[0]) || !isLower(b[len(b)-1]) {
		return false
	}
	for i, c := range b {
		if !isLower(c) && c != '-' && c != '.' || c == '.' && b[i-1] == '.' {
			return false
		}
	}
	return true
}

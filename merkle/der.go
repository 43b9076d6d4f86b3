package merkle

import (
	encasn1 "encoding/asn1"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Readers and writers of the fields that entries, certificates and CA
// certificates have in common. Readers return false on anything but the one
// DER encoding; cryptobyte refuses lengths that are not minimal.

var (
	versionTag    = asn1.Tag(0).ContextSpecific().Constructed()
	extensionsTag = asn1.Tag(3).ContextSpecific().Constructed()
)

// frame returns the contents of the one SEQUENCE that der must be.
func frame(der []byte) (cryptobyte.String, bool) {
	s := cryptobyte.String(der)
	var contents cryptobyte.String
	ok := s.ReadASN1(&contents, asn1.SEQUENCE) && s.Empty()
	return contents, ok
}

func readOID(s *cryptobyte.String, want encasn1.ObjectIdentifier) bool {
	var oid encasn1.ObjectIdentifier
	return s.ReadASN1ObjectIdentifier(&oid) && oid.Equal(want)
}

// readVersion accepts version 3 alone: the only one that can have extensions.
func readVersion(s *cryptobyte.String) bool {
	var contents cryptobyte.String
	var version uint64
	return s.ReadASN1(&contents, versionTag) && contents.ReadASN1Integer(&version) && contents.Empty() && version == 2
}

func addVersion(b *cryptobyte.Builder) {
	b.AddASN1(versionTag, func(b *cryptobyte.Builder) { b.AddASN1Uint64(2) })
}

// algorithm returns an AlgorithmIdentifier without parameters.
func algorithm(oid encasn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) })
	return b.BytesOrPanic()
}

// isAlgorithm tells whether der is an AlgorithmIdentifier of any kind.
func isAlgorithm(der []byte) bool {
	s, ok := frame(der)
	if !ok || !s.SkipASN1(asn1.OBJECT_IDENTIFIER) {
		return false
	}
	var parameters cryptobyte.String
	var tag asn1.Tag
	return s.Empty() || s.ReadAnyASN1(&parameters, &tag) && s.Empty()
}

// isName tells whether der is a distinguished name: a SEQUENCE of SETs.
func isName(der []byte) bool {
	s, ok := frame(der)
	for ok && !s.Empty() {
		ok = s.SkipASN1(asn1.SET)
	}
	return ok
}

// keyAlgorithm returns the first field of a SubjectPublicKeyInfo.
func keyAlgorithm(spki []byte) ([]byte, bool) {
	s, ok := frame(spki)
	var algorithm, key cryptobyte.String
	ok = ok && s.ReadASN1Element(&algorithm, asn1.SEQUENCE) && isAlgorithm(algorithm) &&
		s.ReadASN1(&key, asn1.BIT_STRING) && s.Empty() && len(key) > 0 && key[0] == 0
	return algorithm, ok
}

// Times are UTCTime through the year 2049 and GeneralizedTime after it, in
// seconds and in UTC (RFC 5280 section 4.1.2.5).
const (
	utcTimeFormat         = "060102150405Z"
	generalizedTimeFormat = "20060102150405Z"
)

// timeForm returns the tag and contents of a time whose year is from 1950 to
// 9999.
func timeForm(t time.Time) (asn1.Tag, string) {
	t = t.UTC()
	if t.Year() < 2050 {
		return asn1.UTCTime, t.Format(utcTimeFormat)
	}
	return asn1.GeneralizedTime, t.Format(generalizedTimeFormat)
}

func readTime(s *cryptobyte.String, out *time.Time) bool {
	var contents cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&contents, &tag) {
		return false
	}
	layout := generalizedTimeFormat
	if tag == asn1.UTCTime {
		layout = utcTimeFormat
	}
	t, err := time.Parse(layout, string(contents))
	if err != nil {
		return false
	}
	if tag == asn1.UTCTime && t.Year() >= 2050 {
		t = t.AddDate(-100, 0, 0) // two digits from 50 are of the last century
	}
	*out = t
	wantTag, want := timeForm(t)
	return tag == wantTag && string(contents) == want
}

// readValidity refuses an end before the beginning: nothing is ever valid then.
func readValidity(s *cryptobyte.String, notBefore, notAfter *time.Time) bool {
	var contents cryptobyte.String
	return s.ReadASN1(&contents, asn1.SEQUENCE) &&
		readTime(&contents, notBefore) && readTime(&contents, notAfter) && contents.Empty() &&
		!notAfter.Before(*notBefore)
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	tag, contents := timeForm(t)
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(contents)) })
}

func addValidity(b *cryptobyte.Builder, notBefore, notAfter time.Time) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTime(b, notBefore)
		addTime(b, notAfter)
	})
}

// checkValidity refuses times that have no encoding.
func checkValidity(notBefore, notAfter time.Time) error {
	for _, t := range []time.Time{notBefore, notAfter} {
		if y := t.UTC().Year(); y < 1950 || y > 9999 {
			return malformed("year %d cannot be written in a certificate", y)
		}
	}
	if notAfter.Before(notBefore) {
		return malformed("not before %v, but not after %v", notBefore, notAfter)
	}
	return nil
}

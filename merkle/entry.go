package merkle

import (
	"crypto/sha256"
	"crypto/x509/pkix"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// EntryFields are the fields that a log entry and its certificate share. The
// serial number is not among them: it is the entry's place in the log.
type EntryFields struct {
	Issuer    TrustAnchorID // the CA
	NotBefore time.Time     // the year is from 1950 to 9999; fractions of
	NotAfter  time.Time     // seconds are dropped
	Subject   []byte        // DER Name
	SPKI      []byte        // DER SubjectPublicKeyInfo

	// Extensions is the DER Extensions SEQUENCE (see [MarshalExtensions]),
	// nil if there are none.
	Extensions []byte
}

// MarshalEntry returns the MTCLogEntry whose [HashLeaf] goes into the log
// ("Log Entries"), without log entry extensions. It refuses fields that no
// certificate can be made of, with [ErrMalformed].
func MarshalEntry(f EntryFields) ([]byte, error) {
	algorithm, err := f.check()
	if err != nil {
		return nil, err
	}
	e := Entry{
		Issuer:       f.Issuer,
		NotBefore:    f.NotBefore,
		NotAfter:     f.NotAfter,
		RawSubject:   f.Subject,
		KeyAlgorithm: algorithm,
		KeyHash:      sha256.Sum256(f.SPKI),

		RawExtensions: f.Extensions,
	}
	entry := e.Marshal()
	if len(entry) > MaxEntrySize {
		return nil, malformed("log entry of %d bytes, at most %d", len(entry), MaxEntrySize)
	}
	return entry, nil
}

// check returns the algorithm in the SPKI.
func (f *EntryFields) check() (algorithm []byte, err error) {
	if n := len(f.Issuer.binary); n == 0 || n > maxIDSize {
		return nil, malformed("issuer's trust anchor ID has %d bytes", n)
	}
	if err := checkValidity(f.NotBefore, f.NotAfter); err != nil {
		return nil, err
	}
	if !isName(f.Subject) {
		return nil, malformed("subject is not a DER name")
	}
	algorithm, ok := keyAlgorithm(f.SPKI)
	if !ok {
		return nil, malformed("public key is not a DER SubjectPublicKeyInfo")
	}
	if f.Extensions != nil {
		if _, err := ParseExtensions(f.Extensions); err != nil {
			return nil, err
		}
	}
	return algorithm, nil
}

// NullEntry returns the entry that certifies nothing.
func NullEntry() []byte { return (&Entry{Null: true}).Marshal() }

// An Entry is a parsed MTCLogEntry ("Log Entries"): what the CA certified at
// an index of its log.
type Entry struct {
	// LogExtensions is the list of MTCLogEntryExtension without its length.
	// No such extension is defined yet; relying parties ignore them.
	LogExtensions []byte

	// Null tells that the entry certifies nothing; then all fields below are
	// zero.
	Null bool

	Issuer        TrustAnchorID
	NotBefore     time.Time
	NotAfter      time.Time
	RawSubject    []byte // DER Name
	KeyAlgorithm  []byte // DER AlgorithmIdentifier of the SubjectPublicKeyInfo
	KeyHash       Hash   // SHA-256 over the SubjectPublicKeyInfo
	RawExtensions []byte // DER Extensions SEQUENCE, nil if there are none
	Extensions    []pkix.Extension
}

// ParseEntry parses an MTCLogEntry. It refuses all but version 3, types that
// the draft does not define, and whatever is not the one encoding of its
// value, with [ErrMalformed].
func ParseEntry(entry []byte) (*Entry, error) {
	if len(entry) > MaxEntrySize {
		return nil, malformed("log entry of %d bytes, at most %d", len(entry), MaxEntrySize)
	}
	s := cryptobyte.String(entry)
	var e Entry
	var extensions cryptobyte.String
	var kind uint16
	if !s.ReadUint16LengthPrefixed(&extensions) || !isLogExtensions(extensions) || !s.ReadUint16(&kind) {
		return nil, malformed("log entry does not begin with extensions and a type")
	}
	e.LogExtensions = extensions
	switch kind {
	case entryNull:
		if !s.Empty() {
			return nil, malformed("null entry has contents")
		}
		e.Null = true
		return &e, nil
	case entryTBSCert:
		if err := e.parse(s); err != nil {
			return nil, err
		}
		return &e, nil
	}
	return nil, malformed("log entry of unknown type %d", kind)
}

// parse reads the contents of a TBSCertificateLogEntry.
func (e *Entry) parse(s cryptobyte.String) error {
	var issuer, subject, algorithm, keyHash cryptobyte.String
	if !readVersion(&s) {
		return malformed("log entry is not of version 3")
	}
	if !s.ReadASN1Element(&issuer, asn1.SEQUENCE) ||
		!readValidity(&s, &e.NotBefore, &e.NotAfter) ||
		!s.ReadASN1Element(&subject, asn1.SEQUENCE) || !isName(subject) ||
		!s.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !isAlgorithm(algorithm) ||
		!s.ReadASN1(&keyHash, asn1.OCTET_STRING) || len(keyHash) != len(e.KeyHash) {
		return malformed("log entry is not a DER TBSCertificateLogEntry")
	}
	e.RawSubject, e.KeyAlgorithm, e.KeyHash = subject, algorithm, Hash(keyHash)
	var err error
	if e.Issuer, err = ParseName(issuer); err != nil {
		return err
	}
	e.RawExtensions, e.Extensions, err = readExtensions(&s)
	return err
}

// Marshal returns the MTCLogEntry. The raw fields are taken as they are; it
// panics if LogExtensions is longer than 65535 bytes.
func (e *Entry) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.LogExtensions) })
	if e.Null {
		b.AddUint16(entryNull)
		return b.BytesOrPanic()
	}
	b.AddUint16(entryTBSCert)
	addVersion(&b)
	b.AddBytes(Name(e.Issuer))
	addValidity(&b, e.NotBefore, e.NotAfter)
	b.AddBytes(e.RawSubject)
	b.AddBytes(e.KeyAlgorithm)
	b.AddASN1OctetString(e.KeyHash[:])
	addExtensions(&b, e.RawExtensions)
	return b.BytesOrPanic()
}

// isLogExtensions tells whether list consists of MTCLogEntryExtension
// structures in strictly ascending order of their types.
func isLogExtensions(list cryptobyte.String) bool {
	last := -1
	for !list.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !list.ReadUint16(&kind) || !list.ReadUint16LengthPrefixed(&data) || int(kind) <= last {
			return false
		}
		last = int(kind)
	}
	return true
}

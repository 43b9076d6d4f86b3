package merkle

import (
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxExtensions bounds the work of looking for duplicates.
const maxExtensions = 64

// MarshalExtensions returns the DER Extensions SEQUENCE (RFC 5280 section
// 4.2) of at least one extension, each of a kind of its own.
func MarshalExtensions(list []pkix.Extension) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, e := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(e.Id)
				if e.Critical {
					b.AddASN1Boolean(true)
				}
				b.AddASN1OctetString(e.Value)
			})
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, malformed("extensions: %v", err)
	}
	if _, err := ParseExtensions(der); err != nil {
		return nil, err
	}
	return der, nil
}

// ParseExtensions parses a DER Extensions SEQUENCE. It refuses an empty list,
// more than 64 extensions, two of one kind, and a written critical FALSE,
// which DER leaves out.
func ParseExtensions(der []byte) ([]pkix.Extension, error) {
	s, ok := frame(der)
	if !ok || s.Empty() {
		return nil, malformed("extensions are not a DER sequence of one or more")
	}
	var list []pkix.Extension
	for !s.Empty() {
		var e pkix.Extension
		var contents, value cryptobyte.String
		if !s.ReadASN1(&contents, asn1.SEQUENCE) ||
			!contents.ReadASN1ObjectIdentifier((*encasn1.ObjectIdentifier)(&e.Id)) ||
			contents.PeekASN1Tag(asn1.BOOLEAN) && !(contents.ReadASN1Boolean(&e.Critical) && e.Critical) ||
			!contents.ReadASN1(&value, asn1.OCTET_STRING) || !contents.Empty() {
			return nil, malformed("extension %d is not DER", len(list))
		}
		e.Value = value
		if len(list) == maxExtensions {
			return nil, malformed("more than %d extensions", maxExtensions)
		}
		if _, twice := extension(list, e.Id); twice {
			return nil, malformed("extension %v appears twice", e.Id)
		}
		list = append(list, e)
	}
	return list, nil
}

func extension(list []pkix.Extension, id encasn1.ObjectIdentifier) (pkix.Extension, bool) {
	for _, e := range list {
		if e.Id.Equal(id) {
			return e, true
		}
	}
	return pkix.Extension{}, false
}

// checkCritical refuses critical extensions that are not among the known
// (RFC 5280 section 4.2).
func checkCritical(list []pkix.Extension, known ...encasn1.ObjectIdentifier) error {
next:
	for _, e := range list {
		if !e.Critical {
			continue
		}
		for _, id := range known {
			if e.Id.Equal(id) {
				continue next
			}
		}
		return fmt.Errorf("%w: %v", ErrCriticalExtension, e.Id)
	}
	return nil
}

// readExtensions reads the last field of an entry or certificate. It returns
// nil if there is none.
func readExtensions(s *cryptobyte.String) (raw []byte, list []pkix.Extension, err error) {
	if s.Empty() {
		return nil, nil, nil
	}
	var contents cryptobyte.String
	if !s.ReadASN1(&contents, extensionsTag) || !s.Empty() {
		// Here come also the unique identifiers [1] and [2], which CAs must
		// not generate (RFC 5280 section 4.1.2.8).
		return nil, nil, malformed("something other than extensions follows the public key")
	}
	list, err = ParseExtensions(contents)
	return contents, list, err
}

func addExtensions(b *cryptobyte.Builder, raw []byte) {
	if raw != nil {
		b.AddASN1(extensionsTag, func(b *cryptobyte.Builder) { b.AddBytes(raw) })
	}
}

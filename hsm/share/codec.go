package share

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
)

const (
	version      = 1
	textPrefix   = "chshare1-"
	lineLength   = 64
	checksumSize = 8
)

// Limits, checked before anything is allocated.
const (
	maxBinary = 1 + 1 + MaxPurpose + len(SetID{}) + 2 + MaxShares*pointSize + 2 + sealOverhead + MaxSecret + 1 + scalarSize + checksumSize
	maxText   = 8 << 10 // the longest has some 2400 characters; the rest is room for spaces
)

const alphabet = "abcdefghijklmnopqrstuvwxyz234567"

var encoding = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// header returns what the sealed secret is bound to, in the presentation
// language of RFC 8446 section 3:
//
//	struct {
//	    uint8 version = 1;
//	    opaque purpose<1..64>;
//	    opaque set[16];
//	    uint8 k;
//	    uint8 n;
//	    opaque commitments[33 * k];
//	} Header;
func (p *parts) header() []byte {
	var b cryptobyte.Builder
	p.addHeader(&b)
	return b.BytesOrPanic()
}

func (p *parts) addHeader(b *cryptobyte.Builder) {
	b.AddUint8(version)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(p.info.Purpose)) })
	b.AddBytes(p.info.Set[:])
	b.AddUint8(uint8(p.info.K))
	b.AddUint8(uint8(p.info.N))
	b.AddBytes(p.commitments)
}

// common returns what is the same in all shares of a set.
//
//	struct {
//	    Header header;
//	    opaque sealed<29..284>;
//	} Common;
func (p *parts) common() []byte {
	var b cryptobyte.Builder
	p.addCommon(&b)
	return b.BytesOrPanic()
}

func (p *parts) addCommon(b *cryptobyte.Builder) {
	p.addHeader(b)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p.sealed) })
}

// Marshal returns the binary form of the share, which is as secret as the
// share; nil for one that was wiped.
//
//	struct {
//	    Common common;
//	    uint8 index;
//	    opaque value[32];
//	    opaque checksum[8]; // of all before it
//	} Share;
func (s Share) Marshal() []byte {
	if s.empty() {
		return nil
	}
	// As large as any share, for a builder that grows leaves copies behind.
	b := cryptobyte.NewBuilder(make([]byte, 0, maxBinary))
	p := s.parts()
	p.addCommon(b)
	b.AddUint8(uint8(p.info.Index))
	b.AddBytes(p.value)
	raw := b.BytesOrPanic()
	return append(raw, checksum(raw)...)
}

// Unmarshal reads what [Share.Marshal] wrote, and keeps no part of b.
func Unmarshal(b []byte) (Share, error) {
	if len(b) > maxBinary {
		return Share{}, malformed("%d bytes, want at most %d", len(b), maxBinary)
	}
	body := b[:max(0, len(b)-checksumSize)]
	if !bytes.Equal(checksum(body), b[len(body):]) {
		return Share{}, &TypoError{}
	}
	// From here on the bytes are what somebody wrote, on purpose.
	var (
		in                  = cryptobyte.String(body)
		v, k, n, index      uint8
		purpose, sealed     cryptobyte.String
		set                 SetID
		commitments, scalar []byte
	)
	if !in.ReadUint8(&v) || v != version {
		return Share{}, malformed("version %d, want %d", v, version)
	}
	ok := in.ReadUint8LengthPrefixed(&purpose) && in.CopyBytes(set[:]) && in.ReadUint8(&k) && in.ReadUint8(&n)
	if !ok || !validPurpose(string(purpose)) {
		return Share{}, malformed("its purpose is not a line of 1 to %d bytes", MaxPurpose)
	}
	if k < 2 || k > n || n > MaxShares {
		return Share{}, malformed("%v", &ThresholdError{K: int(k), N: int(n)})
	}
	ok = in.ReadBytes(&commitments, int(k)*pointSize) && in.ReadUint16LengthPrefixed(&sealed) && in.ReadUint8(&index) && in.ReadBytes(&scalar, scalarSize) && in.Empty()
	if !ok {
		return Share{}, malformed("its length does not fit any %d of %d", k, n)
	}
	if len(sealed) < sealOverhead+1 || len(sealed) > sealOverhead+MaxSecret {
		return Share{}, malformed("%d bytes of sealed secret, want %d to %d", len(sealed), sealOverhead+1, sealOverhead+MaxSecret)
	}
	if index < 1 || index > n {
		return Share{}, malformed("share %d of %d", index, n)
	}
	if _, ok := points(commitments); !ok {
		return Share{}, malformed("a commitment is not a point of P-256")
	}
	value := curve.NewScalar()
	defer wipe(value)
	if value.UnmarshalBinary(scalar) != nil || value.IsZero() {
		return Share{}, malformed("its value is not a scalar of P-256")
	}
	return newShare(parts{
		info:        Info{Purpose: string(purpose), Set: set, Index: int(index), K: int(k), N: int(n)},
		commitments: bytes.Clone(commitments),
		sealed:      bytes.Clone(sealed),
		value:       bytes.Clone(scalar),
	}), nil
}

// Reveal returns the share in the form that its custodian keeps: lines of 64
// characters, "chshare1-" and base32. They are the secret; a Share printed any
// other way does not show it. They are bytes so that they can be wiped with
// clear. Nil for a share that was wiped.
func (s Share) Reveal() []byte {
	raw := s.Marshal()
	if raw == nil {
		return nil
	}
	defer clear(raw)
	flat := make([]byte, len(textPrefix)+encoding.EncodedLen(len(raw)))
	defer clear(flat)
	copy(flat, textPrefix)
	encoding.Encode(flat[len(textPrefix):], raw)
	text := make([]byte, 0, len(flat)+len(flat)/lineLength+1)
	for line := range slices.Chunk(flat, lineLength) {
		text = append(append(text, line...), '\n')
	}
	return text
}

// Parse reads what [Share.Reveal] wrote. Spaces, tabs and line ends may be
// anywhere; all else is as it was written. Errors do not repeat the input, and
// Parse keeps no part of it.
//
// That a share parses means that it is some share without a typing error, not
// that it is a right one: that is for [Combine] to find.
func Parse(text []byte) (Share, error) {
	if len(text) > maxText {
		return Share{}, malformed("%d bytes, want at most %d", len(text), maxText)
	}
	flat := make([]byte, 0, len(text))
	defer func() { clear(flat) }()
	var typo *TypoError // the first
	line, column := 1, 0
	for _, c := range text {
		column++
		switch c {
		case ' ', '\t', '\r':
			continue
		case '\n':
			line, column = line+1, 0
			continue
		}
		if flat = append(flat, c); len(flat) > len(textPrefix) && typo == nil && strings.IndexByte(alphabet, c) < 0 {
			typo = &TypoError{Line: line, Column: column}
		}
	}
	body, ok := bytes.CutPrefix(flat, []byte(textPrefix))
	if !ok {
		return Share{}, malformed("it does not begin with %q", textPrefix)
	}
	if bytes.Contains(body, []byte(textPrefix)) {
		return Share{}, malformed("more than one in one text")
	}
	if typo != nil {
		return Share{}, typo
	}
	raw := make([]byte, encoding.DecodedLen(len(body)))
	defer clear(raw)
	n, err := encoding.Decode(raw, body)
	// Bits that are left over in the last character are not in the checksum.
	again := make([]byte, encoding.EncodedLen(n))
	defer clear(again)
	if encoding.Encode(again, raw[:n]); err != nil || !bytes.Equal(again, body) {
		return Share{}, &TypoError{}
	}
	return Unmarshal(raw[:n])
}

// checksum tells typing errors, and only those: anybody can compute it.
func checksum(raw []byte) []byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 share checksum"))
	h.Write(raw)
	return h.Sum(nil)[:checksumSize]
}

// validPurpose reports whether a purpose can be printed in a line without
// doing anything else to it.
func validPurpose(s string) bool {
	return len(s) >= 1 && len(s) <= MaxPurpose && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func malformed(format string, args ...any) *FormatError {
	return &FormatError{Reason: fmt.Sprintf(format, args...), hint: "give the text of one share and nothing else, as this version of the program wrote it"}
}

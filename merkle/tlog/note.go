package tlog

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxNoteSize is the largest note that is looked at. signed-note wants
	// room for 16 signatures of up to 5 kB.
	MaxNoteSize = 128 << 10

	maxSignatures = 32
	maxNameSize   = 255 // as in a CosignedMessage

	signaturePrefix = "— " // em dash, U+2014
	keyIDSize       = 4
)

// b64 is base64 in which one value has one encoding.
var b64 = base64.StdEncoding.Strict()

// A Note is a text with signatures, unverified (signed-note, "Format").
type Note struct {
	Text       string // ends in a newline
	Signatures []Signature
}

// A Signature is a line under a note. Name and ID together say which key made
// it; others than the trusted ones say nothing (signed-note, "Signatures").
type Signature struct {
	Name  string
	ID    uint32
	Bytes []byte // in the form of the key's type, at least 1
}

// ParseNote parses a note. Whether anybody signed it is for [Policy.Open] to
// say.
func ParseNote(b []byte) (*Note, error) {
	if len(b) > MaxNoteSize {
		return nil, malformed("note of %d bytes, at most %d", len(b), MaxNoteSize)
	}
	if err := checkText(string(b)); err != nil {
		return nil, err
	}
	// The last empty line is where the signatures begin.
	split := strings.LastIndex(string(b), "\n\n")
	if split < 0 {
		return nil, malformed("note without signatures")
	}
	n := &Note{Text: string(b[:split+1])}
	var err error
	n.Signatures, err = ParseSignatures(b[split+2:])
	if err != nil {
		return nil, err
	}
	return n, nil
}

// checkText refuses what can stand in no note: bytes that are not UTF-8, and
// control characters other than newline.
func checkText(s string) error {
	control := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\n' })
	if control >= 0 || !utf8.ValidString(s) {
		return malformed("note is not UTF-8 text, or has control characters")
	}
	return nil
}

// ParseSignatures parses one signature line or more, as they stand under a
// note and in the answer of a witness.
func ParseSignatures(b []byte) ([]Signature, error) {
	var signatures []Signature
	for rest := string(b); rest != "" || len(signatures) == 0; {
		line, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return nil, malformed("note does not end in a signature line")
		}
		if len(signatures) == maxSignatures {
			return nil, malformed("note has more than %d signatures", maxSignatures)
		}
		s, err := parseSignature(line)
		if err != nil {
			return nil, err
		}
		signatures, rest = append(signatures, s), after
	}
	return signatures, nil
}

func parseSignature(line string) (Signature, error) {
	line, dash := strings.CutPrefix(line, signaturePrefix)
	name, encoded, space := strings.Cut(line, " ")
	b, err := b64.DecodeString(encoded)
	if !dash || !space || err != nil || len(b) <= keyIDSize {
		return Signature{}, malformed("%.80q is not a signature line", line)
	}
	if err := checkName(name); err != nil {
		return Signature{}, err
	}
	return Signature{name, binary.BigEndian.Uint32(b), b[keyIDSize:]}, nil
}

// checkName tells whether a key can have the name (signed-note, "Format").
func checkName(name string) error {
	if name == "" || len(name) > maxNameSize || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '+' || unicode.IsSpace(r) }) {
		return malformed("%.80q is not the name of a key", name)
	}
	return nil
}

// Line returns the signature as it stands in a note, with the newline.
func (s Signature) Line() string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, keyIDSize+len(s.Bytes)), s.ID)
	return signaturePrefix + s.Name + " " + b64.EncodeToString(append(b, s.Bytes...)) + "\n"
}

// Marshal returns the note. It refuses what [ParseNote] would.
func (n *Note) Marshal() ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", n.Text)
	for _, s := range n.Signatures {
		b.WriteString(s.Line())
	}
	out := []byte(b.String())
	same, err := ParseNote(out)
	if err != nil {
		return nil, err
	}
	if same.Text != n.Text || len(same.Signatures) != len(n.Signatures) {
		return nil, malformed("note text does not end in a newline")
	}
	return out, nil
}

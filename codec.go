package chancery

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery/merkle"
)

// ErrMalformed means that bytes are not the one encoding of any value of the
// structure they were taken for: truncated, over-long, trailing bytes, values
// out of range, or simply something else.
var ErrMalformed = errors.New("malformed")

// Every artefact that travels or lies on a disk by itself begins with magic
// and its kind, so that one is never taken for another and [Identify] can tell
// what a file is.
const magic = "CHY1"

type kind uint8

const (
	kindPointer kind = 1
	kindCANS    kind = 2
	kindNS      kind = 3
	kindCRL     kind = 4
	kindDelta   kind = 5
	kindAudit   kind = 6
	kindAnchor  kind = 7
	kindHead    kind = 8
)

// Limits of section 2, checked before anything is allocated.
const (
	maxPointer = 64 << 10
	maxCANS    = 4 << 10
	maxNS      = 1 << 10
	maxCRL     = 64 << 20
	maxCRLHead = 64 << 10
)

// A decoder reads presentation-language fields. After a failed read it yields
// zero values and remembers the failure for done, so parsers read straight
// through and check once.
type decoder struct {
	s   cryptobyte.String
	bad bool
}

// open starts on an artefact of the kind, refusing what is longer than max.
func open(b []byte, k kind, max int) *decoder {
	d := &decoder{s: b}
	if len(b) > max || string(d.bytes(len(magic))) != magic || kind(d.u8()) != k {
		d.bad = true
	}
	return d
}

func (d *decoder) u8() (v uint8)   { d.read(d.s.ReadUint8(&v)); return }
func (d *decoder) u16() (v uint16) { d.read(d.s.ReadUint16(&v)); return }
func (d *decoder) u32() (v uint32) { d.read(d.s.ReadUint32(&v)); return }
func (d *decoder) u64() (v uint64) { d.read(d.s.ReadUint64(&v)); return }

func (d *decoder) read(ok bool) {
	if d.bad || !ok {
		d.bad = true
		d.s = nil
	}
}

// bytes reads n bytes without copying them.
func (d *decoder) bytes(n int) (v []byte) { d.read(d.s.ReadBytes(&v, n)); return }

// vec8, vec16 and vec32 read a vector with a length prefix of that many bits,
// without copying it.
func (d *decoder) vec8() []byte {
	var v cryptobyte.String
	d.read(d.s.ReadUint8LengthPrefixed(&v))
	return v
}

func (d *decoder) vec16() []byte {
	var v cryptobyte.String
	d.read(d.s.ReadUint16LengthPrefixed(&v))
	return v
}

func (d *decoder) vec32() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.s)) {
		d.read(false)
		return nil
	}
	return d.bytes(int(n))
}

func (d *decoder) hash() (h [32]byte) {
	copy(h[:], d.bytes(32))
	return
}

// maxTime is the last second that RFC 5280 can write: 9999-12-31T23:59:59Z.
const maxTime = 253402300799

// time reads seconds since the epoch.
func (d *decoder) time() time.Time {
	v := d.u64()
	d.read(v <= maxTime)
	return time.Unix(int64(v), 0).UTC()
}

func (d *decoder) key() PublicKey {
	v := d.vec16()
	if d.bad {
		return PublicKey{}
	}
	k, err := ParsePublicKey(v)
	d.read(err == nil)
	return k
}

// optionalKey reads a key or, where the vector is empty, none.
func (d *decoder) optionalKey() PublicKey {
	if !d.bad && len(d.s) >= 2 && d.s[0] == 0 && d.s[1] == 0 {
		d.bytes(2)
		return PublicKey{}
	}
	return d.key()
}

func (d *decoder) caID() merkle.TrustAnchorID {
	v := d.vec8()
	if d.bad {
		return merkle.TrustAnchorID{}
	}
	id, err := merkle.TrustAnchorIDFromBytes(v)
	d.read(err == nil)
	return id
}

// signature reads r || s; whether it has the right length for its key, and
// verifies, is the verifier's business.
func (d *decoder) signature() Signature {
	v := d.vec8()
	d.read(len(v) == P256.SignatureSize() || len(v) == P384.SignatureSize())
	return append(Signature(nil), v...)
}

// list reads a vector of items with a 16-bit length prefix. A failure inside
// it is a failure of d.
func (d *decoder) list(max int, item func(d *decoder)) {
	inner := decoder{s: d.vec16(), bad: d.bad}
	for n := 0; !inner.bad && !inner.s.Empty(); n++ {
		inner.read(n < max)
		item(&inner)
	}
	d.read(!inner.bad)
}

// done returns the verdict once all fields are read.
func (d *decoder) done(what string) error {
	if d.bad || !d.s.Empty() {
		return fmt.Errorf("%s: %w", what, ErrMalformed)
	}
	return nil
}

// An encoder writes what a decoder reads.
type encoder struct{ cryptobyte.Builder }

// artefact starts the encoding of an artefact of the kind.
func artefact(k kind) *encoder {
	var e encoder
	e.AddBytes([]byte(magic))
	e.AddUint8(uint8(k))
	return &e
}

func (e *encoder) vec8(v []byte) {
	e.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) })
}

func (e *encoder) vec16(v []byte) {
	e.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) })
}

func (e *encoder) vec32(v []byte) {
	e.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) })
}

func (e *encoder) time(t time.Time) { e.AddUint64(uint64(t.Unix())) }

func (e *encoder) key(k PublicKey) { e.vec16([]byte(k.spki)) }

// list writes n items inside a vector with a 16-bit length prefix.
func (e *encoder) list(n int, item func(e *encoder, i int)) {
	var inner encoder
	for i := range n {
		item(&inner, i)
	}
	e.vec16(inner.BytesOrPanic())
}

// utc cuts t to the whole seconds that encodings keep.
func utc(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// Identify tells what an artefact's first bytes claim it to be: "pointer",
// "ca-n-s", "n-s", "crl", "crl-delta", "audit-entry", "anchor", "crl-head", or "" for something else.
func Identify(b []byte) string {
	if len(b) <= len(magic) || string(b[:len(magic)]) != magic {
		return ""
	}
	return map[kind]string{kindPointer: "pointer", kindCANS: "ca-n-s", kindNS: "n-s", kindCRL: "crl", kindDelta: "crl-delta", kindAudit: "audit-entry", kindAnchor: "anchor", kindHead: "crl-head"}[kind(b[len(magic)])]
}

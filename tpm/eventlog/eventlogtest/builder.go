// Package eventlogtest writes logs of measured boot as firmware would, for
// tests and for simulated machines, whose chips come without firmware. Start
// with [Boot], or with [NewBuilder] to compose another log.
//
// To make a chip agree with a log, extend it with the digests of the events
// that [eventlog.Parse] finds there.
package eventlogtest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"

	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// Algorithms (TPM 2.0 Part 2, section 6.3).
const (
	algSHA1   = 0x0004
	algSHA256 = 0x000b
)

// A Builder composes a log with SHA-1 and SHA-256 digests. It writes what it
// is told, also what eventlog.Parse refuses.
type Builder struct{ log []byte }

// NewBuilder starts a log with the Spec ID event (PFP sections 10.2.1 and
// 10.4.5.1).
func NewBuilder() *Builder {
	id := []byte("Spec ID Event03\x00")
	id = append(id, 0, 0, 0, 0) // platformClass: client
	id = append(id, 0, 2)       // specVersionMinor, specVersionMajor
	id = append(id, 106, 2)     // specErrata, uintnSize
	for _, v := range [][2]uint16{{2, 0}, {algSHA1, sha1.Size}, {algSHA256, sha256.Size}} {
		id = append16(append16(id, v[0]), v[1])
	}
	id = append(id, 0) // vendorInfoSize

	b := new(Builder)
	b.uint32(0)
	b.uint32(uint32(eventlog.NoAction))
	b.log = append(b.log, make([]byte, sha1.Size)...)
	b.data(id)
	return b
}

// Add adds an event whose digests are those of its data; zeros for
// eventlog.NoAction, which measures nothing.
func (b *Builder) Add(pcr int, kind eventlog.EventType, data []byte) *Builder {
	if kind == eventlog.NoAction {
		return b.add(pcr, kind, [sha1.Size]byte{}, [sha256.Size]byte{}, data)
	}
	return b.add(pcr, kind, sha1.Sum(data), sha256.Sum256(data), data)
}

// AddDigest adds an event whose data only describe what was measured. The
// SHA-1 digest is made up.
func (b *Builder) AddDigest(pcr int, kind eventlog.EventType, digest [32]byte, data []byte) *Builder {
	return b.add(pcr, kind, sha1.Sum(digest[:]), digest, data)
}

// add writes a TCG_PCR_EVENT2 (PFP section 10.2.2).
func (b *Builder) add(pcr int, kind eventlog.EventType, d1 [sha1.Size]byte, d256 [sha256.Size]byte, data []byte) *Builder {
	b.uint32(uint32(pcr))
	b.uint32(uint32(kind))
	b.uint32(2)
	b.log = append(append16(b.log, algSHA1), d1[:]...)
	b.log = append(append16(b.log, algSHA256), d256[:]...)
	b.data(data)
	return b
}

// Bytes returns the log so far.
func (b *Builder) Bytes() []byte { return append([]byte(nil), b.log...) }

func (b *Builder) uint32(v uint32) { b.log = binary.LittleEndian.AppendUint32(b.log, v) }

func (b *Builder) data(data []byte) {
	b.uint32(uint32(len(data)))
	b.log = append(b.log, data...)
}

func append16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }

package anchor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// A Mark says how far a coordinator has come.
type Mark struct {
	Fleet   chancery.FleetID
	Pointer uint64   // sequence number of the newest pointer record
	CRL     uint64   // number of the newest list
	CA      [32]byte // SHA-256 over the current CA id
	Log     uint16   // number of its current log
	Size    uint64   // entries of that log
	Audit   uint64   // entries of the CA key's audit log
}

// HashCA returns what a mark has of a CA id.
func HashCA(id merkle.TrustAnchorID) [32]byte { return sha256.Sum256(id.Bytes()) }

const (
	magic = "CHYA" // a file of this package's
	// size of a mark's encoding: a checksum is at its end, because not every
	// place that may be chosen writes whole or not at all.
	markSize = len(magic) + 32 + 8 + 8 + 32 + 2 + 8 + 8 + 8
)

// ErrDamaged: what is in the place is no mark.
var ErrDamaged = errors.New("the anchor is damaged")

// Marshal returns the mark's one encoding.
func (m *Mark) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddBytes([]byte(magic))
	b.AddBytes(m.Fleet[:])
	b.AddUint64(m.Pointer)
	b.AddUint64(m.CRL)
	b.AddBytes(m.CA[:])
	b.AddUint16(m.Log)
	b.AddUint64(m.Size)
	b.AddUint64(m.Audit)
	sum := sha256.Sum256(b.BytesOrPanic())
	b.AddBytes(sum[:8])
	return b.BytesOrPanic()
}

// ParseMark parses what [Mark.Marshal] returns, and nothing else.
func ParseMark(b []byte) (*Mark, error) {
	m := new(Mark)
	s := cryptobyte.String(b)
	var fleet, ca []byte
	if len(b) != markSize || !s.Skip(len(magic)) || !s.ReadBytes(&fleet, 32) || !s.ReadUint64(&m.Pointer) || !s.ReadUint64(&m.CRL) ||
		!s.ReadBytes(&ca, 32) || !s.ReadUint16(&m.Log) || !s.ReadUint64(&m.Size) || !s.ReadUint64(&m.Audit) {
		return nil, ErrDamaged
	}
	m.Fleet, m.CA = chancery.FleetID(fleet), [32]byte(ca)
	if !bytes.Equal(m.Marshal(), b) {
		return nil, ErrDamaged
	}
	return m, nil
}

// A BehindError says that a database is older than what was anchored.
type BehindError struct {
	What           string // "CRL", "pointer record", "issuance log", "audit log"
	Have, Anchored uint64
	Place          string
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("the database is an older copy: it ends at %s %d, and %d is anchored in %s", e.What, e.Have, e.Anchored, e.Place)
}

// Hint says what to do.
func (e *BehindError) Hint() string {
	return "put the newest database back. If it is lost, nothing that it revoked must come back: chancery recover --crl FILE, with the newest list that any node has"
}

// behind returns an error if a database that is at have has not come as far as
// the mark.
func (m *Mark) behind(have *Mark, place string) error {
	older := func(what string, have, anchored uint64) error {
		return &BehindError{what, have, anchored, place}
	}
	switch {
	case have.Pointer < m.Pointer:
		return older("pointer record", have.Pointer, m.Pointer)
	case have.CRL < m.CRL:
		return older("CRL", have.CRL, m.CRL)
	case have.CA != m.CA: // a rollover, after which the logs begin anew
		return nil
	case have.Log < m.Log:
		return older("log number", uint64(have.Log), uint64(m.Log))
	case have.Log == m.Log && have.Size < m.Size:
		return older("issuance log entry", have.Size, m.Size)
	case have.Audit < m.Audit:
		return older("audit log entry", have.Audit, m.Audit)
	}
	return nil
}

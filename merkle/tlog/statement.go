package tlog

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/chancery-pki/chancery/merkle"
)

const (
	// cosignatureHeader starts what a CosignatureV1 key signs.
	cosignatureHeader = "cosignature/v1\n"

	timestampSize = 8
)

// A Statement is what a key says about a checkpoint. Only [NewStatement] makes
// one, so that a signer always knows what it signs, and never signs a text or a
// digest that somebody else made.
type Statement struct {
	key        *Key
	checkpoint Checkpoint
	text       string
	time       uint64
}

// NewStatement states that the log has the checkpoint, for a key to sign. A
// key of type [Ed25519] says nothing about the time, which is then 0; others
// say that the tree is the largest that they know of at that time, in seconds
// since 1970. A [Cosigner] speaks only about checkpoints without extensions
// whose origin is a log ID; its signature in a certificate, which has no time,
// is not one under a checkpoint.
func NewStatement(k *Key, c *Checkpoint, time uint64) (*Statement, error) {
	text, err := c.Text()
	if err != nil {
		return nil, err
	}
	if timed := k.kind != Ed25519; timed != (time > 0) || time > math.MaxInt64 {
		return nil, malformed("time %d under a signature of type 0x%02x", time, byte(k.kind))
	}
	s := &Statement{key: k, checkpoint: *c, text: text, time: time}
	if k.kind == Cosigner {
		if len(c.Extensions) > 0 {
			return nil, malformed("%d extension lines, which cosigner %s would not sign", len(c.Extensions), k.name)
		}
		if _, err := parseOrigin(c.Origin); err != nil {
			return nil, err
		}
		if len(c.Origin) > maxNameSize {
			return nil, malformed("origin of %d bytes, at most %d in what cosigner %s signs", len(c.Origin), maxNameSize, k.name)
		}
	}
	return s, nil
}

// Key is whose statement it is.
func (s *Statement) Key() *Key { return s.key }

// Checkpoint is what the statement is about.
func (s *Statement) Checkpoint() Checkpoint { return s.checkpoint }

// Time is when it is made, 0 if it does not say.
func (s *Statement) Time() uint64 { return s.time }

// Cosigned returns the statement of a key of type [Cosigner] as the draft has
// it, and false for other keys.
func (s *Statement) Cosigned() (merkle.CosignedMessage, bool) {
	if s.key.kind != Cosigner {
		return merkle.CosignedMessage{}, false
	}
	log, err := parseOrigin(s.checkpoint.Origin)
	if err != nil {
		panic("tlog: internal error: statement about " + s.checkpoint.Origin)
	}
	return merkle.CosignedMessage{
		Cosigner:  s.key.cosigner,
		Timestamp: s.time,
		Log:       log,
		Subtree:   merkle.Subtree{End: s.checkpoint.Size},
		Hash:      s.checkpoint.Root,
	}, true
}

// Message returns the exact bytes that are signed.
func (s *Statement) Message() []byte {
	if m, ok := s.Cosigned(); ok {
		return m.Marshal()
	}
	if s.key.kind == CosignatureV1 {
		return fmt.Appendf(nil, "%stime %d\n%s", cosignatureHeader, s.time, s.text)
	}
	return []byte(s.text)
}

// Seal makes a line for a note of a signature over [Statement.Message]: 64
// bytes of Ed25519, or ECDSA in DER. It is [ErrSignature] if the signature is
// not the key's.
func (s *Statement) Seal(signature []byte) (Signature, error) {
	if !s.holds(signature) {
		return Signature{}, fmt.Errorf("%w: %s", ErrSignature, s.key.name)
	}
	var b []byte
	if s.key.kind != Ed25519 {
		b = binary.BigEndian.AppendUint64(b, s.time)
	}
	return Signature{s.key.name, s.key.id, append(b, signature...)}, nil
}

func (s *Statement) holds(signature []byte) bool {
	message := s.Message()
	if s.key.kind != Cosigner {
		return ed25519.Verify(s.key.ed25519, message, signature)
	}
	var digest []byte
	if s.key.ecdsa.Curve == elliptic.P384() {
		d := sha512.Sum384(message)
		digest = d[:]
	} else {
		d := sha256.Sum256(message)
		digest = d[:]
	}
	return ecdsa.VerifyASN1(s.key.ecdsa, digest, signature)
}

// Verify checks that the key made the signature under the checkpoint, and
// returns its time, 0 for a key of type [Ed25519]. Every refusal is
// [ErrSignature].
func (k *Key) Verify(c *Checkpoint, signature Signature) (time uint64, err error) {
	b := signature.Bytes
	if k.kind != Ed25519 {
		if len(b) < timestampSize {
			return 0, fmt.Errorf("%w: %s: no timestamp", ErrSignature, k.name)
		}
		time, b = binary.BigEndian.Uint64(b), b[timestampSize:]
	}
	s, err := NewStatement(k, c, time)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %v", ErrSignature, k.name, err)
	}
	if !k.made(signature) || !s.holds(b) {
		return 0, fmt.Errorf("%w: %s", ErrSignature, k.name)
	}
	return time, nil
}

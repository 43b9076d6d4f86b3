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

// A Statement is what a key says about a checkpoint or about a subtree. Only
// [NewStatement] and [NewSubtreeStatement] make one, so that a signer always
// knows what it signs, and never signs a text or a digest that somebody else
// made.
type Statement struct {
	key        *Key
	checkpoint Checkpoint
	text       string
	time       uint64
	cosigned   merkle.CosignedMessage // of a Cosigner
}

// NewStatement states that the log has the checkpoint, for a key to sign. A
// key of type [Ed25519] says nothing about the time, which is then 0; others
// say that the tree is the largest that they know of at that time, in seconds
// since 1970. A [Cosigner] speaks only about checkpoints without extensions
// whose origin is a log ID; its signature in a certificate, which has no time,
// is not one under a checkpoint. A [Named] key speaks about what it has a
// [Message] for.
func NewStatement(k *Key, c *Checkpoint, time uint64) (*Statement, error) {
	text, err := c.Text()
	if err != nil {
		return nil, err
	}
	if timed := k.kind != Ed25519; timed != (time > 0) || time > math.MaxInt64 {
		return nil, malformed("time %d under a signature of type 0x%02x", time, k.encoded[0])
	}
	s := &Statement{key: k, checkpoint: *c, text: text, time: time}
	if k.kind == Cosigner {
		if len(c.Extensions) > 0 {
			return nil, malformed("%d extension lines, which cosigner %s would not sign", len(c.Extensions), k.name)
		}
		if err := s.cosign(c.Origin, merkle.Subtree{End: c.Size}, c.Root); err != nil {
			return nil, err
		}
	}
	if k.kind == Named && s.Message() == nil {
		return nil, malformed("%s does not speak about checkpoints of %.80q like this one", k.name, c.Origin)
	}
	return s, nil
}

// NewSubtreeStatement states that a log has the subtree, as a [Cosigner] says
// it in certificates: without a time (tlog-cosignature, "ML-DSA-44 signed
// message"). Keys of other types do not speak about subtrees. An empty subtree
// certifies nothing and is refused.
func NewSubtreeStatement(k *Key, origin string, subtree merkle.Subtree, hash merkle.Hash) (*Statement, error) {
	if k.kind != Cosigner {
		return nil, malformed("%s does not sign subtrees: its key is of type 0x%02x", k.name, k.encoded[0])
	}
	if !subtree.Valid() || subtree.Size() == 0 || subtree.End > MaxSize {
		return nil, malformed("%v is not a subtree", subtree)
	}
	s := &Statement{key: k}
	if err := s.cosign(origin, subtree, hash); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Statement) cosign(origin string, subtree merkle.Subtree, hash merkle.Hash) error {
	if len(origin) > maxNameSize {
		return malformed("origin of %d bytes, at most %d in what cosigner %s signs", len(origin), maxNameSize, s.key.name)
	}
	log, err := parseOrigin(origin)
	if err != nil {
		return err
	}
	s.cosigned = merkle.CosignedMessage{Cosigner: s.key.cosigner, Timestamp: s.time, Log: log, Subtree: subtree, Hash: hash}
	return nil
}

// Key is whose statement it is.
func (s *Statement) Key() *Key { return s.key }

// Checkpoint is what the statement is about, the zero value if that is a
// subtree.
func (s *Statement) Checkpoint() Checkpoint { return s.checkpoint }

// Time is when it is made, 0 if it does not say.
func (s *Statement) Time() uint64 { return s.time }

// Cosigned returns the statement of a key of type [Cosigner] as the draft has
// it, and false for other keys.
func (s *Statement) Cosigned() (merkle.CosignedMessage, bool) {
	return s.cosigned, s.key.kind == Cosigner
}

// Message returns the exact bytes that are signed.
func (s *Statement) Message() []byte {
	switch s.key.kind {
	case Cosigner:
		return s.cosigned.Marshal()
	case Named:
		c := s.checkpoint
		return s.key.message(&c, s.time)
	case CosignatureV1:
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
	if s.key.ecdsa == nil {
		return ed25519.Verify(s.key.ed25519, s.Message(), signature)
	}
	return ecdsa.VerifyASN1(s.key.ecdsa, s.key.digest(s.Message()), signature)
}

// digest hashes what an ECDSA key signs. Each curve has one hash.
func (k *Key) digest(message []byte) []byte {
	if k.ecdsa.Curve == elliptic.P384() {
		d := sha512.Sum384(message)
		return d[:]
	}
	d := sha256.Sum256(message)
	return d[:]
}

// Verify checks that the key made the signature under the checkpoint, and
// returns its time, 0 for a key of type [Ed25519]. Every refusal is
// [ErrSignature].
func (k *Key) Verify(c *Checkpoint, signature Signature) (time uint64, err error) {
	time, b, err := k.take(signature)
	if err != nil {
		return 0, err
	}
	s, err := NewStatement(k, c, time)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %v", ErrSignature, k.name, err)
	}
	if !s.holds(b) {
		return 0, fmt.Errorf("%w: %s", ErrSignature, k.name)
	}
	return time, nil
}

// VerifySubtree checks that the key made the signature over the subtree of the
// log with the origin, and returns it as it stands in a certificate. Every
// refusal is [ErrSignature].
func (k *Key) VerifySubtree(origin string, subtree merkle.Subtree, hash merkle.Hash, signature Signature) (merkle.SubtreeSignature, error) {
	time, b, err := k.take(signature)
	if err != nil {
		return merkle.SubtreeSignature{}, err
	}
	s, err := NewSubtreeStatement(k, origin, subtree, hash)
	if err != nil {
		return merkle.SubtreeSignature{}, fmt.Errorf("%w: %s: %v", ErrSignature, k.name, err)
	}
	if time != 0 || !s.holds(b) {
		return merkle.SubtreeSignature{}, fmt.Errorf("%w: %s over %v", ErrSignature, k.name, subtree)
	}
	return merkle.SubtreeSignature{Cosigner: k.cosigner, Signature: b}, nil
}

// take splits a signature line of the key's into the time and the signature.
func (k *Key) take(signature Signature) (time uint64, b []byte, err error) {
	if !k.made(signature) {
		return 0, nil, fmt.Errorf("%w: %s", ErrSignature, k.name)
	}
	b = signature.Bytes
	if k.kind != Ed25519 {
		if len(b) < timestampSize {
			return 0, nil, fmt.Errorf("%w: %s: no timestamp", ErrSignature, k.name)
		}
		time, b = binary.BigEndian.Uint64(b), b[timestampSize:]
	}
	return time, b, nil
}

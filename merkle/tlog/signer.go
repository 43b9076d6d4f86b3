package tlog

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
)

// A Signer holds one private key and signs statements with it, never digests
// or texts. CA:SK behind PKCS#11 can be one, through [Statement.Cosigned].
type Signer interface {
	// Key returns the public half.
	Key() *Key
	// Sign returns a signature over s.Message(), as [Statement.Seal] takes
	// it.
	Sign(ctx context.Context, s *Statement) ([]byte, error)
}

// Sign has the signer sign the checkpoint and returns the line for its note.
// The time is 0 for a key of type [Ed25519], else the present time in seconds
// since 1970. A signature that does not verify is [ErrSignature], and never
// leaves.
func Sign(ctx context.Context, signer Signer, c *Checkpoint, time uint64) (Signature, error) {
	s, err := NewStatement(signer.Key(), c, time)
	if err != nil {
		return Signature{}, err
	}
	return s.sign(ctx, signer)
}

func (s *Statement) sign(ctx context.Context, signer Signer) (Signature, error) {
	b, err := signer.Sign(ctx, s)
	if err != nil {
		return Signature{}, fmt.Errorf("sign as %s: %w", s.key.name, err)
	}
	return s.Seal(b)
}

// NewEd25519Signer returns a signer with a key in memory, for a log or a
// witness.
func NewEd25519Signer(name string, kind Kind, private ed25519.PrivateKey) (Signer, error) {
	if kind != Ed25519 && kind != CosignatureV1 {
		return nil, malformed("signatures of type 0x%02x are not made with Ed25519", byte(kind))
	}
	if len(private) != ed25519.PrivateKeySize {
		return nil, malformed("Ed25519 private key of %d bytes, want %d", len(private), ed25519.PrivateKeySize)
	}
	k, err := newEd25519(name, kind, private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &ed25519Signer{k, private}, nil
}

// NewECDSASigner returns a signer with a key in memory, for the public half,
// which is of type [Cosigner] or [Named].
func NewECDSASigner(k *Key, private *ecdsa.PrivateKey) (Signer, error) {
	if k.ecdsa == nil || private == nil || !k.ecdsa.Equal(&private.PublicKey) {
		return nil, malformed("the private key is not that of %s", k.name)
	}
	return &ecdsaSigner{k, private}, nil
}

type ecdsaSigner struct {
	key     *Key
	private *ecdsa.PrivateKey
}

func (s *ecdsaSigner) Key() *Key { return s.key }

func (s *ecdsaSigner) Sign(_ context.Context, st *Statement) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.private, s.key.digest(st.Message()))
}

type ed25519Signer struct {
	key     *Key
	private ed25519.PrivateKey
}

func (s *ed25519Signer) Key() *Key { return s.key }

func (s *ed25519Signer) Sign(_ context.Context, st *Statement) ([]byte, error) {
	return ed25519.Sign(s.private, st.Message()), nil
}

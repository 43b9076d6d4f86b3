package papertpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// A Key is N:SK in its paper chip. It is a [chancery.Signer].
type Key struct {
	chip      *Chip
	private   *ecdsa.PrivateKey
	public    chancery.PublicKey
	seal      *seal // nil if the key is not sealed
	approvals []tpm.Approval
}

var _ chancery.Signer = (*Key)(nil)

// LoadKey prepares the key of a file for use. A file of another chip is
// tpm.ErrForeignKey; whether the seal is open only Sign tells. Approvals that
// are added to the file later need another LoadKey.
func (c *Chip) LoadKey(file *tpm.KeyFile) (*Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	public, err := file.PublicKey()
	if err != nil {
		return nil, err
	}
	node, err := tpm.ParseNodeKey(file.Public, public)
	if err != nil {
		return nil, err
	}
	k := &Key{chip: c, public: public}
	if k.private, err = c.unwrap(file); err != nil {
		return nil, err
	}
	if node.Sealed != (file.Seal != nil) {
		return nil, fmt.Errorf("papertpm: %w: sealed key without seal or the reverse", tpm.ErrKeyFile)
	}
	if file.Seal == nil {
		return k, nil
	}
	if err := checkSealing(&file.Seal.Sealing); err != nil {
		return nil, fmt.Errorf("papertpm: %w: %w", tpm.ErrKeyFile, err)
	}
	s := seal{*file.Seal, c.authority(file.Seal.Approval, file.Seal.AK)}
	s.PCRs = slices.Clone(s.PCRs)
	if !bytes.Equal(s.policy(), node.Policy[:]) {
		return nil, fmt.Errorf("papertpm: %w: the seal is not the key's", tpm.ErrKeyFile)
	}
	k.seal = &s
	for _, a := range file.Approvals {
		a.Signature = slices.Clone(a.Signature)
		k.approvals = append(k.approvals, a)
	}
	return k, nil
}

// PublicKey returns N:PK.
func (k *Key) PublicKey() chancery.PublicKey { return k.public }

// Sign signs a statement. While the key's seal is closed the error is a
// *tpm.SealedError.
func (k *Key) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, s))
	k.chip.mu.Lock()
	defer k.chip.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := k.open(); err != nil {
		return nil, err
	}
	r, sv, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	return chancery.NewSignature(chancery.P256, r, sv)
}

// open is what the chip's policy session would find out: whether the state is
// that of the creation, or one that the approval key signed. The caller holds
// the chip's mu.
func (k *Key) open() error {
	if k.seal == nil {
		return nil
	}
	s, c := k.seal, k.chip
	epoch, err := c.readEpoch(s.authority)
	if err != nil {
		return err
	}
	digest := c.pcrDigest(s.PCRs)
	if epoch <= s.Epoch && digest == s.PCRDigest {
		return nil
	}
	for _, a := range k.approvals {
		if epoch > a.Epoch || digest != a.PCRDigest {
			continue
		}
		if err := s.Approval.Verify(chancery.FleetID{}, s.approval(a.Epoch, a.PCRDigest), a.Signature); err != nil {
			return fmt.Errorf("papertpm: verify approval: %w", err)
		}
		return nil
	}
	sealed := s.Seal
	sealed.PCRs = slices.Clone(s.PCRs)
	return &tpm.SealedError{Values: c.values(s.PCRs), Epoch: epoch, Seal: sealed}
}

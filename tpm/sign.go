package tpm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
)

// A Key is N:SK in its chip. It is a [chancery.Signer] and may be used from
// any goroutine; the chip signs one after the other.
type Key struct {
	tpm    *TPM
	file   *KeyFile // a copy, never changed
	public chancery.PublicKey
}

var _ chancery.Signer = (*Key)(nil)

// LoadKey prepares the key of a file for use and proves that this chip
// accepts it: a file of another chip, or from before the chip was cleared, is
// [ErrForeignKey]. Whether its seal is open only Sign tells. The file is
// copied; approvals that are added to it later need another LoadKey.
func (t *TPM) LoadKey(file *KeyFile) (_ *Key, err error) {
	if err := file.check(); err != nil {
		return nil, err
	}
	public, err := file.PublicKey()
	if err != nil {
		return nil, err
	}
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	h, err := t.load(file)
	if err != nil {
		return nil, err
	}
	defer t.flush(h, &err)
	return &Key{tpm: t, file: file.clone(), public: public}, nil
}

// PublicKey returns N:PK.
func (k *Key) PublicKey() chancery.PublicKey { return k.public }

// Sign signs a statement in the chip. While the key's seal is closed the
// error is a [*SealedError]. The context is looked at before the chip is
// asked; a command cannot be called back.
func (k *Key) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, s))
	end, err := k.tpm.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, sv, err := k.signDigest(digest)
	if err != nil {
		return nil, err
	}
	sig, err := chancery.NewSignature(chancery.P256, r, sv)
	if err != nil {
		return nil, fmt.Errorf("tpm: the chip's signature: %w", err)
	}
	// A signature with a computing fault in it can give the key away.
	if err := k.public.Verify(fleet, s, sig); err != nil {
		return nil, fmt.Errorf("tpm: the chip's signature: %w", err)
	}
	return sig, nil
}

// signDigest signs and starts over when PCRs changed on the way: any extend
// of a counted PCR, not only of those in the policy, ends a policy session
// (TPM_RC_PCR_CHANGED), and one of them before PolicyPCR fails it
// (TPM_RC_VALUE). The caller holds the TPM's mu.
func (k *Key) signDigest(digest [32]byte) (r, s *big.Int, err error) {
	for range attempts {
		r, s, err = k.attempt(digest)
		if !errors.Is(err, tpm2.TPMRCPCRChanged) && !errors.Is(err, tpm2.TPMRCValue) {
			return r, s, err
		}
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrUnstable, err)
}

func (k *Key) attempt(digest [32]byte) (r, s *big.Int, err error) {
	auth, err := k.authorize()
	if err != nil {
		return nil, nil, err
	}
	defer auth.end(&err)
	h, err := k.tpm.load(k.file)
	if err != nil {
		return nil, nil, err
	}
	defer k.tpm.flush(h, &err)
	rsp, err := tpm2.Sign{
		KeyHandle:  withAuth(h, nameOf(k.file.Public), auth),
		Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
		InScheme:   ownScheme(),
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(k.tpm.transport)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: sign: %w", err)
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: sign: %w", err)
	}
	return new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer), nil
}

// authorize opens the session that lets N:SK sign once. The caller ends it.
func (k *Key) authorize() (_ session, err error) {
	t, seal := k.tpm, k.file.Seal
	if seal == nil {
		return t.hmacSession(tpm2.AESEncryption(128, tpm2.EncryptIn))
	}
	index := epochIndex(seal.Approval, seal.AK)
	current, err := t.readEpoch(index)
	if err != nil {
		return session{}, err
	}
	values, err := t.readPCRs(seal.PCRs)
	if err != nil {
		return session{}, err
	}
	approval, open := k.choose(current, values.Digest())
	if !open {
		return session{}, &SealedError{Values: values, Epoch: current, Seal: *k.file.clone().Seal}
	}
	s, err := t.policySession()
	if err != nil {
		return session{}, err
	}
	if err := k.satisfy(s, index.name(), approval); err != nil {
		s.end(&err)
		return session{}, err
	}
	return s, nil
}

// choose finds what opens the seal in this state: the seal itself as an
// approval without signature (branch A), or one of the approvals (branch B).
func (k *Key) choose(epoch uint64, digest [32]byte) (Approval, bool) {
	asCreated := Approval{Epoch: k.file.Seal.Epoch, PCRDigest: k.file.Seal.PCRDigest}
	for _, a := range append([]Approval{asCreated}, k.file.Approvals...) {
		if epoch <= a.Epoch && a.PCRDigest == digest {
			return a, true
		}
	}
	return Approval{}, false
}

// satisfy runs the policy of docs/protocol.md section 4 in the session.
func (k *Key) satisfy(s session, index Name, a Approval) error {
	t, seal := k.tpm, k.file.Seal
	if err := t.policyNV(s, index, opUnsignedLE, a.Epoch); err != nil {
		return err
	}
	if err := t.policyPCR(s, seal.PCRs, a.PCRDigest); err != nil {
		return err
	}
	if a.Signature != nil {
		if err := t.policyAuthorize(s, seal.Approval, seal.approval(a.Epoch, a.PCRDigest), a.Signature); err != nil {
			return err
		}
	}
	asCreated, asApproved := seal.branches()
	return t.policyOR(s, asCreated, asApproved)
}

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
	pin    PIN
	public chancery.PublicKey
}

var _ chancery.Signer = (*Key)(nil)

// LoadKey prepares the key of a file for use and proves that this chip
// accepts it: a file of another chip, or from before the chip was cleared, is
// [ErrForeignKey]. Whether its seal is open only Sign tells. The file is
// copied; approvals that are added to it later need another LoadKey. The error
// is [ErrPINWanted] for a key that asks for a PIN.
func (t *TPM) LoadKey(file *KeyFile) (*Key, error) { return t.loadKey(file, PIN{}) }

// LoadKeyWithPIN is LoadKey for a key that asks for a PIN. Whether it is the
// right one only Sign tells: it fails with [ErrPIN] if not.
func (t *TPM) LoadKeyWithPIN(file *KeyFile, pin PIN) (*Key, error) {
	if !file.PIN {
		return nil, errors.New("tpm: load key: the key asks for no PIN")
	}
	return t.loadKey(file, pin)
}

func (t *TPM) loadKey(file *KeyFile, pin PIN) (*Key, error) {
	if err := file.check(); err != nil {
		return nil, err
	}
	if file.PIN && len(pin.auth) == 0 {
		return nil, ErrPINWanted
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
	defer t.flush(h)
	return &Key{tpm: t, file: file.clone(), pin: pin, public: public}, nil
}

// PublicKey returns N:PK.
func (k *Key) PublicKey() chancery.PublicKey { return k.public }

// Sign signs a statement in the chip. While the key's seal is closed the
// error is a [*SealedError]. The context ends the waiting, not the signing: a
// command cannot be called back, so a signature under way is finished and
// forgotten, and the next operation starts after it.
func (k *Key) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, s))
	end, err := k.tpm.beginUntil(ctx)
	if err != nil {
		return nil, err
	}
	type result struct {
		r, s *big.Int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		r, s, err := k.signDigest(digest)
		end()
		done <- result{r, s, err}
	}()
	var got result
	select {
	case got = <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if got.err != nil {
		return nil, got.err
	}
	sig, err := chancery.NewSignature(chancery.P256, got.r, got.s)
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
// (TPM_RC_VALUE). It holds the TPM's turn.
func (k *Key) signDigest(digest [32]byte) (r, s *big.Int, err error) {
	for range attempts {
		a, err := k.opening()
		if err != nil {
			return nil, nil, err
		}
		r, s, err := k.attempt(digest, a)
		changed := errors.Is(err, tpm2.TPMRCPCRChanged)
		if errors.Is(err, tpm2.TPMRCValue) {
			now, err := k.opening()
			if err != nil {
				return nil, nil, err
			}
			changed = now.PCRDigest != a.PCRDigest
		}
		if !changed {
			return r, s, err
		}
	}
	return nil, nil, ErrUnstable
}

func (k *Key) attempt(digest [32]byte, a Approval) (r, s *big.Int, err error) {
	auth, err := k.authorize(a)
	if err != nil {
		return nil, nil, err
	}
	defer auth.end()
	h, err := k.tpm.load(k.file)
	if err != nil {
		return nil, nil, err
	}
	defer k.tpm.flush(h)
	rsp, err := tpm2.Sign{
		KeyHandle:  withAuth(h, nameOf(k.file.Public), auth),
		Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
		InScheme:   ownScheme(),
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(k.tpm.transport)
	if err != nil {
		if err = fmt.Errorf("tpm: sign: %w", err); k.file.PIN {
			err = pinError(err)
		}
		return nil, nil, err
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: sign: %w", err)
	}
	return new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer), nil
}

// opening returns what opens the seal as the machine is now, see choose; its
// digest is that of the PCRs. Nothing opens a key without a seal. It looks twice
// before it says that the seal is closed.
func (k *Key) opening() (a Approval, err error) {
	t, seal := k.tpm, k.file.Seal
	if seal == nil {
		return Approval{}, nil
	}
	closed := &SealedError{Seal: *k.file.clone().Seal}
	for range 2 {
		if closed.Epoch, err = t.readEpoch(epochIndex(seal.Approval, seal.AK)); err != nil {
			return Approval{}, err
		}
		if closed.Values, err = t.readPCRs(seal.PCRs); err != nil {
			return Approval{}, err
		}
		if a, open := k.choose(closed.Epoch, closed.Values.Digest()); open {
			return a, nil
		}
	}
	return Approval{}, closed
}

// authorize opens the session that lets N:SK sign once. The caller ends it.
func (k *Key) authorize(a Approval) (session, error) {
	t, seal := k.tpm, k.file.Seal
	if seal == nil {
		return t.hmacSession(k.pin, tpm2.AESEncryption(128, tpm2.EncryptIn))
	}
	s, err := t.policySession()
	if err != nil {
		return session{}, err
	}
	if err := k.satisfy(s, epochIndex(seal.Approval, seal.AK).name(), a); err != nil {
		s.end()
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

package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CreateKey makes N:SK in the chip: ECDSA P-256 with SHA-256, fixed to the
// chip and to its storage root key, not subject to dictionary attack
// protection. With a sealing it is under the policy of a [Seal] over the PCRs
// and the epoch counter as they are now, and no password opens it; the counter
// is made if the chip has none. Without, anybody who reaches the chip signs
// with it.
func (t *TPM) CreateKey(sealing *Sealing) (*KeyFile, error) {
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if sealing == nil {
		return t.create(nil, PIN{})
	}
	if err := sealing.check(); err != nil {
		return nil, err
	}
	ak, err := t.attestationKey()
	if err != nil {
		return nil, err
	}
	epoch, err := t.ensureEpoch(sealing.Approval, ak.Name)
	if err != nil {
		return nil, err
	}
	for range attempts {
		values, err := t.readPCRs(sealing.PCRs)
		if err != nil {
			return nil, err
		}
		file, err := t.create(&Seal{Sealing: *sealing, AK: ak.Name, Epoch: epoch, PCRDigest: values.Digest()}, PIN{})
		if err != nil {
			return nil, err
		}
		// The chip's own record of the PCRs is what the coordinator computes
		// the policy from; they may have changed since they were read.
		made, err := parseCreation(file.CreationData)
		if err != nil {
			return nil, err
		}
		if made.PCRDigest == file.Seal.PCRDigest {
			return file.clone(), nil
		}
	}
	return nil, ErrUnstable
}

// CreateKeyWithPIN makes N:SK without a seal, as [TPM.CreateKey] does, that
// signs for those who know the PIN.
func (t *TPM) CreateKeyWithPIN(pin PIN) (*KeyFile, error) {
	if len(pin.auth) == 0 {
		return nil, errors.New("tpm: create key: the PIN is empty")
	}
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	return t.create(nil, pin)
}

// create sends TPM2_Create (TPM 2.0 Part 3, section 12.1). Under a session the
// chip vouches for its answer: a key with one bit wrong in its private part, or
// in its ticket, would be found out when the node cannot use it any more.
func (t *TPM) create(seal *Seal, pin PIN) (*KeyFile, error) {
	srk, err := t.storageRootKey()
	if err != nil {
		return nil, err
	}
	s, err := t.hmacSession(PIN{}, tpm2.AESEncryption(128, tpm2.EncryptIn))
	if err != nil {
		return nil, err
	}
	defer s.end()
	template := signingArea(attributesUnsealed, nil, nil, nil)
	var pcrs tpm2.TPMLPCRSelection
	if seal != nil {
		policy := seal.Policy()
		template = signingArea(attributesSealed, policy[:], nil, nil)
		pcrs = selection(seal.PCRs)
	}
	rsp, err := tpm2.Create{
		ParentHandle: withAuth(srk.handle, srk.name, s),
		InSensitive:  pin.sensitive(),
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](template),
		CreationPCR:  pcrs,
	}.Execute(t.transport)
	if err != nil {
		return nil, fmt.Errorf("tpm: create key: %w", err)
	}
	file := &KeyFile{
		Public:         rsp.OutPublic.Bytes(),
		Private:        rsp.OutPrivate.Buffer,
		CreationData:   rsp.CreationData.Bytes(),
		CreationTicket: tpm2.Marshal(rsp.CreationTicket),
		PIN:            len(pin.auth) > 0,
		Seal:           seal,
	}
	if err := file.check(); err != nil {
		return nil, fmt.Errorf("tpm: the chip made another key than asked for: %w", err)
	}
	return file, nil
}

// load loads the key of a file into the chip. The caller flushes it.
func (t *TPM) load(file *KeyFile) (tpm2.TPMHandle, error) {
	srk, err := t.storageRootKey()
	if err != nil {
		return 0, err
	}
	made, err := parseCreation(file.CreationData)
	if err != nil {
		return 0, err
	}
	// The storage root key salts our sessions, so the one that wrapped N:SK
	// at its creation, which the coordinator saw attested, is the only one
	// that will do.
	if made.Parent != srk.name {
		return 0, fmt.Errorf("%w: its parent is not this chip's storage root key", ErrForeignKey)
	}
	rsp, err := tpm2.Load{
		ParentHandle: withAuth(srk.handle, srk.name, noAuth()),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public),
	}.Execute(t.transport)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return 0, fmt.Errorf("%w: %w", ErrForeignKey, err)
	}
	if err != nil {
		return 0, fmt.Errorf("tpm: load key: %w", err)
	}
	return rsp.ObjectHandle, nil
}

package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// akHandle is in the range that the TCG's registry of reserved handles leaves
// to endorsement keys and their companions.
const akHandle = tpm2.TPMHandle(0x81010020)

// AK is a chip's attestation key: a restricted key, which signs only what the
// chip itself composed. It is a primary key of the endorsement hierarchy, so
// it is the same for the life of the chip, and its attestations show clock,
// resetCount and firmware version as they are; those of the owner hierarchy
// are blurred (TPM 2.0 Part 1, section 36.7).
type AK struct {
	Public []byte // TPMT_PUBLIC, for [ParseAttestationKey]
	Name   Name
}

// attestationHandle is the key in this chip. It is persistent at akHandle if
// there was room and the owner let us; otherwise made anew for each use.
type attestationHandle struct {
	AK
	persistent bool
}

// AK returns the attestation key. The first call on a chip makes it
// persistent if that is possible.
func (t *TPM) AK() (AK, error) {
	end, err := t.begin()
	if err != nil {
		return AK{}, err
	}
	defer end()
	ak, err := t.attestationKey()
	if err != nil {
		return AK{}, err
	}
	return AK{Public: append([]byte(nil), ak.Public...), Name: ak.Name}, nil
}

// akTemplate has a unique of its own, so that the key is nobody else's.
func akTemplate() []byte {
	unique := sha256.Sum256([]byte("chancery-v1 attestation key"))
	return signingArea(attributesAK, nil, unique[:], make([]byte, 32))
}

func (t *TPM) attestationKey() (*attestationHandle, error) {
	if t.ak != nil {
		return t.ak, nil
	}
	public, name, qualifiedName, err := t.readPublic(akHandle)
	vacant := errors.Is(err, tpm2.TPMRCHandle)
	switch {
	case err != nil && !vacant:
		return nil, err
	case err == nil && qualifiedName == qualified(endorsement, name):
		if ak, err := ParseAttestationKey(public); err == nil && ak.Name() == name {
			t.ak = &attestationHandle{AK: AK{Public: public, Name: name}, persistent: true}
			return t.ak, nil
		}
	}
	ak, err := t.makeAttestationKey(vacant)
	if err != nil {
		return nil, err
	}
	t.ak = ak
	return ak, nil
}

func (t *TPM) makeAttestationKey(vacant bool) (_ *attestationHandle, err error) {
	rsp, err := t.createPrimary(endorsement, akTemplate())
	if err != nil {
		return nil, endorsementError(fmt.Errorf("tpm: create attestation key: %w", err))
	}
	defer t.flush(rsp.ObjectHandle, &err)
	public := rsp.OutPublic.Bytes()
	if _, err := ParseAttestationKey(public); err != nil {
		return nil, err
	}
	ak := &attestationHandle{AK: AK{Public: public, Name: nameOf(public)}}
	if vacant {
		// Only speed is lost if the owner has a password or NV is full.
		ak.persistent = t.persist(rsp.ObjectHandle, rsp.Name, akHandle) == nil
	}
	return ak, nil
}

// loadAK returns an authorized handle of the attestation key, and what ends
// its use, to be deferred.
func (t *TPM) loadAK() (tpm2.AuthHandle, func(*error), error) {
	ak, err := t.attestationKey()
	if err != nil {
		return tpm2.AuthHandle{}, nil, err
	}
	if ak.persistent {
		return withAuth(akHandle, ak.Name, noAuth()), func(*error) {}, nil
	}
	rsp, err := t.createPrimary(endorsement, akTemplate())
	if err != nil {
		return tpm2.AuthHandle{}, nil, endorsementError(fmt.Errorf("tpm: create attestation key: %w", err))
	}
	done := func(err *error) { t.flush(rsp.ObjectHandle, err) }
	return withAuth(rsp.ObjectHandle, ak.Name, noAuth()), done, nil
}

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
// there is room and the owner lets us; otherwise made anew for each use.
type attestationHandle struct {
	AK
	persistent bool
	vacant     bool // nothing is at akHandle
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
	if t.ak != nil && (t.ak.persistent || !t.ak.vacant) {
		return t.ak, nil
	}
	fits := func(o object) bool {
		_, err := ParseAttestationKey(o.public)
		return err == nil && o.primary(endorsement)
	}
	o, err := t.readPublic(akHandle, fits)
	vacant := errors.Is(err, tpm2.TPMRCHandle)
	switch {
	case err != nil && !vacant:
		return nil, err
	case err == nil && fits(o):
		t.ak = &attestationHandle{AK: AK{Public: o.public, Name: nameOf(o.public)}, persistent: true}
	case t.ak == nil:
		if t.ak, err = t.makeAttestationKey(vacant); err != nil {
			return nil, err
		}
	}
	return t.ak, nil
}

func (t *TPM) makeAttestationKey(vacant bool) (*attestationHandle, error) {
	rsp, err := t.createPrimary(endorsement, akTemplate())
	if err != nil {
		return nil, endorsementError(fmt.Errorf("tpm: create attestation key: %w", err))
	}
	defer t.flush(rsp.ObjectHandle)
	public := rsp.OutPublic.Bytes()
	if _, err := ParseAttestationKey(public); err != nil {
		return nil, err
	}
	ak := &attestationHandle{AK: AK{Public: public, Name: nameOf(public)}, vacant: vacant}
	t.keep(ak, rsp.ObjectHandle)
	return ak, nil
}

// keep makes the attestation key persistent if that is possible. Only speed is
// lost if it is not, because the owner has a password, NV is full, or the chip
// refuses for now; the next use tries again.
func (t *TPM) keep(ak *attestationHandle, loaded tpm2.TPMHandle) {
	if ak.vacant {
		ak.persistent = t.persist(loaded, tpm2.TPM2BName{Buffer: ak.Name[:]}, akHandle) == nil
	}
}

// loadAK returns an authorized handle of the attestation key, and what ends
// its use, to be deferred.
func (t *TPM) loadAK() (tpm2.AuthHandle, func(), error) {
	ak, err := t.attestationKey()
	if err != nil {
		return tpm2.AuthHandle{}, nil, err
	}
	if ak.persistent {
		return withAuth(akHandle, ak.Name, noAuth()), func() {}, nil
	}
	rsp, err := t.createPrimary(endorsement, akTemplate())
	if err != nil {
		return tpm2.AuthHandle{}, nil, endorsementError(fmt.Errorf("tpm: create attestation key: %w", err))
	}
	t.keep(ak, rsp.ObjectHandle)
	return withAuth(rsp.ObjectHandle, ak.Name, noAuth()), func() { t.flush(rsp.ObjectHandle) }, nil
}

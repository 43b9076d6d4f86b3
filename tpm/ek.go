package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/google/go-tpm/tpm2"
)

// EK is a chip's endorsement key: its identity, which it received from its
// manufacturer.
type EK struct {
	Public      []byte   // TPMT_PUBLIC, for [ParseEndorsementKey]
	SPKI        []byte   // DER SubjectPublicKeyInfo of the same key
	Certificate []byte   // DER X.509, nil if the chip has none for a key it can make
	Chain       [][]byte // DER X.509, the issuers' certificates that the chip carries, if any
}

// endorsementHandle is the key in this chip.
type endorsementHandle struct {
	EK
	template *ekTemplate
	name     tpm2.TPM2BName
	at       tpm2.TPMHandle // persistent handle, 0 if made anew for each use
}

// EK returns the endorsement key: of the TCG's templates for P-256, P-384 and
// RSA-2048 the first for whose key the chip holds a certificate. If it holds
// none it is the P-256 key.
func (t *TPM) EK() (EK, error) {
	end, err := t.begin()
	if err != nil {
		return EK{}, err
	}
	defer end()
	ek, err := t.endorsementKey()
	if err != nil {
		return EK{}, err
	}
	return ek.EK, nil
}

func (t *TPM) endorsementKey() (*endorsementHandle, error) {
	if t.ek != nil {
		return t.ek, nil
	}
	for _, template := range ekTemplates {
		ek, err := t.certifiedEK(template)
		if err != nil {
			return nil, err
		}
		if ek == nil {
			continue
		}
		if ek.Chain, err = steady(t.readChain, sameChain); err != nil {
			return nil, err
		}
		t.ek = ek
		return ek, nil
	}
	ek, err := t.findEK(ekTemplates[0])
	if err != nil {
		return nil, err
	}
	t.ek = ek
	return ek, nil
}

// certifiedEK returns the chip's key under the template with its certificate,
// and nil if there is none, or if it is over another key: a vendor may have
// certified a key under a template of its own. The choice is for good, so it is
// made on what was read twice, or carries its hash with it.
func (t *TPM) certifiedEK(template *ekTemplate) (*endorsementHandle, error) {
	certificate, err := steady(func() ([]byte, error) { return t.readNV(template.certificate) }, bytes.Equal)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ek, err := t.findEK(template)
	if err != nil {
		return nil, err
	}
	if !ek.certifiedBy(certificate) {
		return nil, nil
	}
	ek.Certificate = trim(certificate)
	return ek, nil
}

// findEK returns the chip's key under the template: one that was made
// persistent, usually by the manufacturer, else one that is made anew.
func (t *TPM) findEK(template *ekTemplate) (*endorsementHandle, error) {
	persistent, err := t.handles(0x81010000)
	if err != nil {
		return nil, err
	}
	for _, h := range persistent {
		if h > 0x8101ffff {
			break
		}
		o, err := t.readPublic(h, object.whole)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(o.public, template.head) {
			return newEndorsementHandle(template, o, h)
		}
	}
	rsp, err := t.createPrimary(endorsement, template.template())
	if err != nil {
		return nil, endorsementError(fmt.Errorf("tpm: create endorsement key %s: %w", template.name, err))
	}
	defer t.flush(rsp.ObjectHandle)
	return newEndorsementHandle(template, object{public: rsp.OutPublic.Bytes(), name: rsp.Name.Buffer}, 0)
}

func newEndorsementHandle(template *ekTemplate, o object, at tpm2.TPMHandle) (*endorsementHandle, error) {
	if !o.whole() {
		return nil, fmt.Errorf("%w: the Name of endorsement key %s is not that of its public area", ErrDamaged, template.name)
	}
	key, err := ParseEndorsementKey(o.public)
	if err != nil {
		return nil, err
	}
	return &endorsementHandle{
		EK:       EK{Public: o.public, SPKI: key.spki},
		template: template,
		name:     tpm2.TPM2BName{Buffer: o.name},
		at:       at,
	}, nil
}

func (e *endorsementHandle) certifiedBy(certificate []byte) bool {
	key, err := ParseEndorsementKey(e.Public)
	if err != nil {
		return false
	}
	c, err := ParseEKCertificate(trim(certificate))
	return err == nil && c.Matches(key) == nil
}

// trim cuts the padding that NV indexes have behind a DER certificate.
func trim(b []byte) []byte {
	s := cryptobyte.String(b)
	var element cryptobyte.String
	if !s.ReadASN1Element(&element, asn1.SEQUENCE) {
		return b
	}
	return element
}

// readChain reads the issuers' certificates: the indexes from 0x01c00100 to
// 0x01c001ff hold, one behind the other, the bytes of DER certificates (TCG
// EK Credential Profile 2.5, section 2.2.1.5.2).
func (t *TPM) readChain() ([][]byte, error) {
	indexes, err := t.handles(0x01c00100)
	if err != nil {
		return nil, err
	}
	var all cryptobyte.String
	for _, index := range indexes {
		if index > 0x01c001ff || len(all) > maxNV {
			break
		}
		part, err := t.readNV(index)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	var chain [][]byte
	var element cryptobyte.String
	for all.ReadASN1Element(&element, asn1.SEQUENCE) {
		chain = append(chain, bytes.Clone(element))
	}
	return chain, nil
}

func sameChain(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// loadEK returns the endorsement key's handle, authorized with the session,
// and what ends its use, to be deferred.
func (t *TPM) loadEK(s tpm2.Session) (tpm2.AuthHandle, func(), error) {
	ek, err := t.endorsementKey()
	if err != nil {
		return tpm2.AuthHandle{}, nil, err
	}
	h, done := ek.at, func() {}
	if h == 0 {
		rsp, err := t.createPrimary(endorsement, ek.template.template())
		if err != nil {
			return tpm2.AuthHandle{}, nil, endorsementError(fmt.Errorf("tpm: create endorsement key: %w", err))
		}
		h, done = rsp.ObjectHandle, func() { t.flush(rsp.ObjectHandle) }
	}
	return tpm2.AuthHandle{Handle: h, Name: ek.name, Auth: s}, done, nil
}

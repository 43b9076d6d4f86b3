package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// An Attestation is a statement that a chip composed and its attestation key
// signed. It is verified by the methods of [AttestationKey].
type Attestation struct {
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE over it
}

// Every attestation carries qualifying data: 32 bytes from the verifier that
// make it fresh, in an enrolment the hash of the CA:N:S body.

// CertifyCreation attests that this chip made the key of the file, from what
// template, in which state (TPM 2.0 Part 3, section 18.3). The verifier needs
// the file's Public and CreationData with it. A sealed key needs no approval
// for this.
func (t *TPM) CertifyCreation(file *KeyFile, qualifying [32]byte) (_ Attestation, err error) {
	end, err := t.begin()
	if err != nil {
		return Attestation{}, err
	}
	defer end()
	ticket, err := tpm2.Unmarshal[tpm2.TPMTTKCreation](file.CreationTicket)
	if err != nil {
		return Attestation{}, fmt.Errorf("%w: creation ticket", ErrKeyFile)
	}
	// N first: a transient attestation key made before it would, with N and
	// its parent, be a third object.
	n, err := t.load(file)
	if err != nil {
		return Attestation{}, err
	}
	defer t.flush(n)
	ak, done, err := t.loadAK()
	if err != nil {
		return Attestation{}, err
	}
	defer done()
	rsp, err := tpm2.CertifyCreation{
		SignHandle:     ak,
		ObjectHandle:   named(n, nameOf(file.Public)),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
		CreationHash:   tpm2.TPM2BDigest{Buffer: file.creationHash()},
		InScheme:       ownScheme(),
		CreationTicket: *ticket,
	}.Execute(t.transport)
	if err != nil {
		return Attestation{}, fmt.Errorf("tpm: certify creation: %w", err)
	}
	return t.attestation(rsp.CertifyInfo, rsp.Signature)
}

// Quote attests the PCRs of the SHA-256 bank (TPM 2.0 Part 3, section 18.4)
// and returns their values with it.
func (t *TPM) Quote(pcrs []int, qualifying [32]byte) (_ Attestation, _ PCRValues, err error) {
	if err := checkPCRs(pcrs); err != nil {
		return Attestation{}, nil, err
	}
	end, err := t.begin()
	if err != nil {
		return Attestation{}, nil, err
	}
	defer end()
	ak, done, err := t.loadAK()
	if err != nil {
		return Attestation{}, nil, err
	}
	defer done()
	for range attempts {
		values, err := t.readPCRs(pcrs)
		if err != nil {
			return Attestation{}, nil, err
		}
		rsp, err := tpm2.Quote{
			SignHandle:     ak,
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
			InScheme:       ownScheme(),
			PCRSelect:      selection(pcrs),
		}.Execute(t.transport)
		if err != nil {
			return Attestation{}, nil, fmt.Errorf("tpm: quote: %w", err)
		}
		a, err := t.attestation(rsp.Quoted, rsp.Signature)
		if err != nil {
			return Attestation{}, nil, err
		}
		// A PCR may have changed between the reading and the quote.
		said, err := parseQuote(a.Attest)
		if err != nil {
			return Attestation{}, nil, err
		}
		if said == values.Digest() {
			return a, values, nil
		}
	}
	return Attestation{}, nil, ErrUnstable
}

// CertifyEpoch attests the value of the epoch counter (TPM 2.0 Part 3,
// section 31.16).
func (t *TPM) CertifyEpoch(qualifying [32]byte) (_ Attestation, err error) {
	end, err := t.begin()
	if err != nil {
		return Attestation{}, err
	}
	defer end()
	index, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(epochHandle)}.Execute(t.transport)
	if err != nil {
		return Attestation{}, fmt.Errorf("tpm: epoch counter: %w", err)
	}
	ak, done, err := t.loadAK()
	if err != nil {
		return Attestation{}, err
	}
	defer done()
	rsp, err := tpm2.NVCertify{
		SignHandle:     ak,
		AuthHandle:     tpm2.AuthHandle{Handle: epochHandle, Name: index.NVName, Auth: noAuth()},
		NVIndex:        tpm2.NamedHandle{Handle: epochHandle, Name: index.NVName},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
		InScheme:       ownScheme(),
		Size:           8,
	}.Execute(t.transport)
	if err != nil {
		return Attestation{}, fmt.Errorf("tpm: certify epoch counter: %w", err)
	}
	return t.attestation(rsp.CertifyInfo, rsp.Signature)
}

// Activate recovers the secret that [EndorsementKey.MakeCredential] encrypted
// (TPM 2.0 Part 3, section 12.5). One that was made for another attestation
// key or another chip is TPM_RC_INTEGRITY; with an RSA endorsement key one for
// another chip is refused before that, as what RSA cannot decrypt, TPM_RC_VALUE
// or TPM_RC_FAILURE. The secret is encrypted on its way out of the chip.
func (t *TPM) Activate(credential, encryptedSecret []byte) (secret []byte, err error) {
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	// Sessions first: the salt key takes an object's slot while one is opened.
	out, err := t.hmacSession(PIN{}, tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, err
	}
	defer out.end()
	ek, err := t.endorsementKey()
	if err != nil {
		return nil, err
	}
	auth := noAuth()
	if ek.template.policy {
		s, err := t.endorsementSession()
		if err != nil {
			return nil, err
		}
		defer s.end()
		auth = s
	}
	ekHandle, ekDone, err := t.loadEK(auth)
	if err != nil {
		return nil, err
	}
	defer ekDone()
	ak, akDone, err := t.loadAK()
	if err != nil {
		return nil, err
	}
	defer akDone()
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: ak,
		KeyHandle:      ekHandle,
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encryptedSecret},
	}.Execute(t.transport, out)
	if errors.Is(err, tpm2.TPMRCFailure) && ek.template.curve == nil {
		err = fmt.Errorf("it is not for this endorsement key, or the chip failed: %w", tpm2.TPMRCFailure)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: activate credential: %w", err)
	}
	return rsp.CertInfo.Buffer, nil
}

// endorsementSession satisfies the policy of templates L-1 and L-2.
func (t *TPM) endorsementSession() (session, error) {
	s, err := t.bareSession()
	if err != nil {
		return session{}, err
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    hierarchy(endorsement),
		PolicySession: s.Handle(),
		NonceTPM:      s.NonceTPM(),
	}.Execute(t.transport)
	if err != nil {
		err = endorsementError(fmt.Errorf("tpm: authorize endorsement key: %w", err))
		s.end()
		return session{}, err
	}
	return s, nil
}

// ownScheme lets the key's own scheme be used.
func ownScheme() tpm2.TPMTSigScheme { return tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull} }

// attestation returns what the chip attested, if it has arrived in one piece:
// for the coordinator a wrong bit is a forgery.
func (t *TPM) attestation(attest tpm2.TPM2BAttest, signature tpm2.TPMTSignature) (Attestation, error) {
	a := Attestation{Attest: attest.Bytes(), Signature: tpm2.Marshal(signature)}
	ak, err := ParseAttestationKey(t.ak.Public)
	if err != nil {
		return Attestation{}, err
	}
	if err := ak.checkSignature(a); err != nil {
		return Attestation{}, fmt.Errorf("%w: attestation: %w", ErrDamaged, err)
	}
	return a, nil
}

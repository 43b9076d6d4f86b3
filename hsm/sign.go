package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery"
)

var _ chancery.Signer = (*Key)(nil)

// Sign signs the statement (docs/protocol.md section 2) and verifies the
// signature before it returns it. The context bounds the wait for a session;
// its end does not interrupt a signature that the token is making. The errors
// are the context's, [ErrClosed], [*Error] and [*FaultError].
func (k *Key) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	var raw []byte
	digest := digestOf(k.public, fleet, s)
	theirs := bytes.Clone(digest)
	err := k.token.withSession(ctx, func(session *session) (err error) {
		raw, _, err = k.token.sign(session, k.handle, theirs)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	// The session is back in the pool: the host verifies while the token signs
	// for somebody else.
	sig, err := accept(k.public, raw, digest)
	if err != nil {
		fault := &FaultError{Label: k.label, Err: err}
		k.token.judge(fault)
		return nil, fault
	}
	return sig, nil
}

// digestOf is what a token is given to sign for the statement.
func digestOf(k chancery.PublicKey, fleet chancery.FleetID, s chancery.Statement) []byte {
	message := chancery.Message(fleet, k.Suite(), s)
	if k.Suite() == chancery.P256 {
		digest := sha256.Sum256(message)
		return digest[:]
	}
	h := k.Suite().Hash().New()
	h.Write(message)
	return h.Sum(nil)
}

// accept turns r || s, as CKM_ECDSA returns it (PKCS#11 2.40 Current
// Mechanisms section 2.3.1), into a signature over the digest, if it is one.
// The digest is not the one that the module was given, which could change it.
func accept(k chancery.PublicKey, raw, digest []byte) (chancery.Signature, error) {
	sig, err := chancery.NewSignatureRaw(k.Suite(), raw)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.ECDSA(), digest, sig.ASN1()) {
		return nil, chancery.ErrSignature
	}
	return sig, nil
}

// busyPauses are the waits before a signature is tried again that failed with
// CKR_DEVICE_ERROR: throttled devices say no in that way, and so do dead ones,
// which say it again.
var busyPauses = []time.Duration{20 * time.Millisecond, 80 * time.Millisecond}

// sign has the token sign the digest. It tries again, on the same login, what
// is known to pass: a session that the device dropped because it was idle or
// that the module left in the middle of something, and a device that is
// throttled. retries is how often it did.
func (t *Token) sign(s *session, key pkcs11.ObjectHandle, digest []byte) (raw []byte, retries int, err error) {
	for renewed := false; ; retries++ {
		raw, err = t.signRaw(s.handle, key, digest)
		e, ok := err.(*Error)
		if !ok {
			return raw, retries, err
		}
		switch e.Code {
		case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE:
			if renewed {
				return nil, retries, err
			}
			renewed = true
			t.module.CloseSession(s.handle) // if there is anything left of it
			h, openErr := t.module.openSession(t.slot)
			if openErr != nil {
				return nil, retries, err
			}
			s.handle = h
		case pkcs11.CKR_DEVICE_ERROR:
			if retries >= len(busyPauses) {
				return nil, retries, err
			}
			time.Sleep(busyPauses[retries])
		default:
			return nil, retries, err
		}
	}
}

// callSign is the signature in the token. The caller holds the session.
func (t *Token) callSign(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := t.module.SignInit(s, ecdsaMechanism, key); err != nil {
		return nil, failed("C_SignInit", err)
	}
	raw, err := t.module.Sign(s, digest)
	if err != nil {
		return nil, failed("C_Sign", err)
	}
	return raw, nil
}

var ecdsaMechanism = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}

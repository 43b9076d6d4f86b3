package hsm

import (
	"context"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery"
)

var _ chancery.Signer = (*Key)(nil)

// Sign signs the statement (docs/protocol.md section 2) and verifies the
// signature before it returns it. The context bounds the wait for a session;
// its end does not interrupt a signature that the token is making. The errors
// are the context's, [ErrClosed], [*Error] and [*FaultError].
func (k *Key) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	suite := k.public.Suite()
	h := suite.Hash().New()
	h.Write(chancery.Message(fleet, suite, s))
	digest := h.Sum(nil)

	var raw []byte
	err := k.token.withSession(ctx, func(session pkcs11.SessionHandle) (err error) {
		raw, err = k.token.signRaw(session, k.handle, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	// The session is back in the pool: the host verifies while the token signs
	// for somebody else.
	sig, err := k.accept(raw, fleet, s)
	if err != nil {
		fault := &FaultError{Label: k.label, Err: err}
		k.token.judge(fault)
		return nil, fault
	}
	return sig, nil
}

// accept turns r || s, as CKM_ECDSA returns it (PKCS#11 2.40 Current
// Mechanisms section 2.3.1), into a signature, if it is one.
func (k *Key) accept(raw []byte, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	suite := k.public.Suite()
	if len(raw) != suite.SignatureSize() {
		return nil, fmt.Errorf("%w: %d bytes, want %d", chancery.ErrSigLength, len(raw), suite.SignatureSize())
	}
	half := len(raw) / 2
	sig, err := chancery.NewSignature(suite, new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:]))
	if err != nil {
		return nil, err
	}
	return sig, k.public.Verify(fleet, s, sig)
}

// callSign is the signature in the token. The caller holds the session.
func (t *Token) callSign(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := t.module.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, key); err != nil {
		return nil, failed("C_SignInit", err)
	}
	raw, err := t.module.Sign(s, digest)
	if err != nil {
		return nil, failed("C_Sign", err)
	}
	return raw, nil
}

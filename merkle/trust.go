package merkle

import (
	"crypto/ecdsa"
	encasn1 "encoding/asn1"
	"fmt"
	"time"
)

// Verify checks that the CA certified c and that c holds at the given time:
// [CA.Check], then the inclusion proof, then the CA cosigner's signature
// ("Verifying Certificate Signatures", with the policy that the CA's own
// signature suffices). Other cosigners are ignored. Critical extensions that
// the caller will look at are named as known.
//
// Verify says nothing about what the certificate may be used for.
func (ca *CA) Verify(c *Certificate, at time.Time, known ...encasn1.ObjectIdentifier) error {
	if err := ca.Check(c, at, known...); err != nil {
		return err
	}
	hash, err := c.SubtreeHash()
	if err != nil {
		return err
	}
	signature, ok := c.Proof.Signature(ca.ID)
	if !ok {
		return fmt.Errorf("%w: %v signed nothing here", ErrNoCASignature, ca.ID)
	}
	return ca.VerifySubtree(c.Serial.Log(), c.Proof.Subtree, hash, signature)
}

// Check is the part of [CA.Verify] that takes no hashing: that c names this
// CA as its issuer, has a serial number within the CA's bounds, is valid at
// the given time as is the CA, and has no critical extensions but key usage,
// extended key usage, subject alternative name, basic constraints and the
// known ones. The errors are [ErrIssuer], [ErrSerial], [ErrNotYetValid],
// [ErrExpired] and [ErrCriticalExtension]. A verifier that remembers subtrees
// it has verified calls Check and [Certificate.SubtreeHash] itself.
func (ca *CA) Check(c *Certificate, at time.Time, known ...encasn1.ObjectIdentifier) error {
	if c.Issuer != ca.ID {
		return fmt.Errorf("%w: by %v, not by %v", ErrIssuer, c.Issuer, ca.ID)
	}
	if c.Serial.Log() == 0 {
		return serialError("%d names log 0", uint64(c.Serial))
	}
	if c.Serial < ca.MinSerial || c.Serial > ca.MaxSerial {
		return serialError("%v, the CA's are from %v to %v", c.Serial, ca.MinSerial, ca.MaxSerial)
	}
	if err := checkTime("the CA", ca.NotBefore, ca.NotAfter, at); err != nil {
		return err
	}
	if err := checkTime("the certificate", c.NotBefore, c.NotAfter, at); err != nil {
		return err
	}
	known = append([]encasn1.ObjectIdentifier{oidKeyUsage, oidExtKeyUsage, oidSubjectAltName, oidBasicConstraints}, known...)
	return checkCritical(c.Extensions, known...)
}

func checkTime(what string, notBefore, notAfter, at time.Time) error {
	if at.Before(notBefore) {
		return fmt.Errorf("%w: %s is valid from %s", ErrNotYetValid, what, notBefore.Format(time.RFC3339))
	}
	if at.After(notAfter) {
		return fmt.Errorf("%w: %s was valid until %s", ErrExpired, what, notAfter.Format(time.RFC3339))
	}
	return nil
}

// VerifySubtree checks the CA cosigner's DER signature over a subtree of one
// of its logs, as certificates carry it. A signature with s in the upper half
// of the order is as good as its twin: the draft allows both, and nothing is
// named by a signature. It is [ErrCASignature] if the signature is not the
// cosigner's.
func (ca *CA) VerifySubtree(log uint16, s Subtree, hash Hash, signature []byte) error {
	if err := ca.check(); err != nil {
		return err
	}
	kind, err := ca.cosigner()
	if err != nil {
		return err
	}
	message := CosignedMessage{
		Cosigner: ca.ID,
		Log:      LogID(ca.ID, log),
		Subtree:  s,
		Hash:     hash,
	}
	h := kind.hash.New()
	h.Write(message.Marshal())
	if !ecdsa.VerifyASN1(ca.PublicKey, h.Sum(nil), signature) {
		return fmt.Errorf("%w: %v over %v", ErrCASignature, ca.ID, s)
	}
	return nil
}

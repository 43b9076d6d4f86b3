package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// A session is open in the chip until closed. Sessions are always explicit:
// the just-in-time ones of go-tpm leak when their policy fails.
type session struct {
	tpm2.Session
	close func() error
}

// policySession opens a policy session that is salted with the storage root
// key and encrypts the first parameter. Salted, because a listener on the bus
// could otherwise use our satisfied session with a digest of his own.
func (t *TPM) policySession() (session, error) {
	srk, err := t.storageRootKey()
	if err != nil {
		return session{}, err
	}
	s, close, err := tpm2.PolicySession(t.transport, tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(srk.handle, *srk.public), tpm2.AESEncryption(128, tpm2.EncryptIn))
	return session{s, close}, sessionError(err)
}

// hmacSession opens a salted session that authorizes with the PIN, or the empty
// password, and encrypts in the direction given.
func (t *TPM) hmacSession(pin PIN, encryption tpm2.AuthOption) (session, error) {
	srk, err := t.storageRootKey()
	if err != nil {
		return session{}, err
	}
	s, close, err := tpm2.HMACSession(t.transport, tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(srk.handle, *srk.public), encryption, tpm2.Auth(pin.auth))
	return session{s, close}, sessionError(err)
}

// bareSession opens a policy session that neither is salted nor encrypts, for
// policies over public things.
func (t *TPM) bareSession() (session, error) {
	s, close, err := tpm2.PolicySession(t.transport, tpm2.TPMAlgSHA256, 16)
	return session{s, close}, sessionError(err)
}

// end closes the session, as flush removes an object. To be deferred.
func (s session) end() { s.close() }

func sessionError(err error) error {
	if err != nil {
		return fmt.Errorf("tpm: start session: %w", err)
	}
	return nil
}

// noAuth is the empty password.
func noAuth() tpm2.Session { return tpm2.PasswordAuth(nil) }

// withAuth names an object or index and authorizes its use.
func withAuth(h tpm2.TPMHandle, n Name, s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Name: tpm2.TPM2BName{Buffer: n[:]}, Auth: s}
}

func named(h tpm2.TPMHandle, n Name) tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: h, Name: tpm2.TPM2BName{Buffer: n[:]}}
}

// hierarchy authorizes the use of a hierarchy with the empty password.
func hierarchy(h tpm2.TPMHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Auth: noAuth()}
}

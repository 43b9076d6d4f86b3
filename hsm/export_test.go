package hsm

import "github.com/miekg/pkcs11"

// InterposeSign puts f between the keys and the module: f gets the session,
// the digest, and the real call. It is how tests make a module slow or wrong.
func (t *Token) InterposeSign(f func(session uint, digest []byte, call func([]byte) ([]byte, error)) ([]byte, error)) {
	t.signRaw = func(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
		return f(uint(s), digest, func(d []byte) ([]byte, error) { return t.callSign(s, key, d) })
	}
}

// MayLogin judges CKF_* flags of a token labelled "test".
func MayLogin(flags uint) error {
	return slot{info: Info{Label: "test"}, flags: flags}.mayLogin(false, false)
}

// ReadPIN reads the PIN that a URI points to.
var ReadPIN = readPIN

// Padded takes the padding off a text of CK_TOKEN_INFO.
var Padded = padded

// LatchRefused has the latch remember that a token refused the PIN.
func LatchRefused(l Latch, label, serial string) error {
	a, err := l.begin(slot{info: Info{Label: label, Serial: serial}, flags: pkcs11.CKF_USER_PIN_INITIALIZED}, false)
	if err != nil {
		return err
	}
	return a.end(failed("C_Login", pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)))
}

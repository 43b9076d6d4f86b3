package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery"
)

// A WrappedKey is a private key that left its token, encrypted for whoever has
// the wrapping key.
type WrappedKey struct {
	Label     string    `json:"label"` // CKA_LABEL
	ID        []byte    `json:"id"`    // CKA_ID
	SPKI      []byte    `json:"spki"`  // the public half
	Mechanism string    `json:"mechanism"`
	Wrapped   []byte    `json:"wrapped"` // a PrivateKeyInfo (RFC 5208) under the mechanism
	Token     Info      `json:"token"`   // where it is from
	Created   time.Time `json:"created"`
}

// mechanismKWP is CKM_AES_KEY_WRAP_PAD (RFC 5649), by the name that
// [WrappedKey.Mechanism] has for it.
const mechanismKWP = "AES-KWP"

// WrappingKeySize is the size in bytes of the AES keys that wrap.
const WrappingKeySize = 32

// Backup wraps a key that was generated wrappable under the wrapping key, which
// the security officer brings into the token as a trusted one
// (CKA_TRUSTED) and which is removed again. The PINs of both are tried once.
//
// The price of it: whoever has both PINs can do the same, and whoever has the
// result and the wrapping key has the secret key, in no token at all.
func Backup(uri URI, opts Options, name URI, soPIN, wrapping []byte) (w *WrappedKey, err error) {
	opts.Sessions, opts.Wrappable = 1, true
	t, err := openAs(uri, opts, soPIN, func(m module, h pkcs11.SessionHandle) (string, error) { return bringTrusted(m, h, wrapping) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	err = t.withSession(context.Background(), func(s *session) (err error) {
		kek, err := t.module.find(s.handle, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.trusted))
		if err != nil {
			return err
		}
		if len(kek) != 1 {
			return fmt.Errorf("token %q: the wrapping key %s that was brought in is there %d times", t.info.Label, t.trusted, len(kek))
		}
		defer func() {
			if destroyed := failed("C_DestroyObject", t.module.DestroyObject(s.handle, kek[0])); destroyed != nil {
				err = errors.Join(err, &LeftoverError{Token: t.info.Label, Label: t.trusted, Err: destroyed})
			}
		}()
		w, err = t.wrap(s.handle, kek[0], name)
		return err
	})
	return w, err
}

// A LeftoverError is a wrapping key that could not be removed from the token.
type LeftoverError struct {
	Token, Label string
	Err          error
}

func (e *LeftoverError) Error() string {
	return fmt.Sprintf("token %q: the wrapping key %s is still there: %v", e.Token, e.Label, e.Err)
}

func (e *LeftoverError) Unwrap() error { return e.Err }

// Hint tells how to remove it.
func (e *LeftoverError) Hint() string {
	return "remove it: pkcs11-tool --module MODULE --token-label LABEL --login --delete-object --type secrkey --label " + e.Label
}

func (t *Token) wrap(s pkcs11.SessionHandle, kek pkcs11.ObjectHandle, name URI) (*WrappedKey, error) {
	label := nameOf(name)
	private, err := t.one(s, pkcs11.CKO_PRIVATE_KEY, name)
	if err != nil {
		return nil, err
	}
	if err := t.checkUse(s, private, label); err != nil {
		return nil, err
	}
	public, err := t.one(s, pkcs11.CKO_PUBLIC_KEY, name)
	if err != nil {
		return nil, err
	}
	key, err := t.readPublic(s, public, label)
	if err != nil {
		return nil, err
	}
	id, _, err := t.module.attribute(s, private, pkcs11.CKA_ID)
	if err != nil {
		return nil, err
	}
	own, _, err := t.module.attribute(s, private, pkcs11.CKA_LABEL)
	if err != nil {
		return nil, err
	}
	blob, err := t.module.WrapKey(s, kwp, kek, private)
	if e, ok := failed("C_WrapKey", err).(*Error); ok && (e.Code == pkcs11.CKR_KEY_UNEXTRACTABLE || e.Code == pkcs11.CKR_KEY_NOT_WRAPPABLE) {
		return nil, &KeyRefusedError{label, "CKA_EXTRACTABLE", "it was not generated so that it can be backed up"}
	}
	if err != nil {
		return nil, failed("C_WrapKey", err)
	}
	return &WrappedKey{Label: string(own), ID: id, SPKI: key.SPKI(), Mechanism: mechanismKWP, Wrapped: blob, Token: t.info, Created: time.Now().UTC().Truncate(time.Second)}, nil
}

var kwp = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil)}

// openAs opens the token after the security officer did something in it.
func openAs(uri URI, opts Options, soPIN []byte, f func(module, pkcs11.SessionHandle) (string, error)) (*Token, error) {
	path, release, err := claim(uri)
	if err != nil {
		return nil, err
	}
	m, err := load(path, uri.InitReserved)
	if err != nil {
		release()
		return nil, err
	}
	label, err := m.asOfficer(uri, soPIN, f)
	var t *Token
	if err == nil {
		if t, err = open(m, uri, opts); err != nil {
			err = errors.Join(err, &LeftoverError{Token: uri.Token, Label: label, Err: errors.New("the user could not log in to remove it")})
		}
	}
	if err != nil {
		m.unload()
		release()
		return nil, err
	}
	t.release, t.trusted = release, label
	return t, nil
}

// asOfficer runs f with the security officer logged in, in one try.
func (m module) asOfficer(uri URI, pin []byte, f func(module, pkcs11.SessionHandle) (string, error)) (label string, err error) {
	s, err := m.slot(uri)
	if err != nil {
		return "", err
	}
	for _, flag := range []struct {
		flag uint
		name string
	}{{pkcs11.CKF_SO_PIN_LOCKED, "CKF_SO_PIN_LOCKED"}, {pkcs11.CKF_SO_PIN_FINAL_TRY, "CKF_SO_PIN_FINAL_TRY"}, {pkcs11.CKF_SO_PIN_COUNT_LOW, "CKF_SO_PIN_COUNT_LOW"}} {
		if s.flags&flag.flag != 0 {
			return "", &OfficerError{Token: s.info.Label, Name: flag.name}
		}
	}
	h, err := m.openSession(s)
	if err != nil {
		return "", err
	}
	defer m.CloseSession(h) // the officer's session must not be there when the user logs in
	if err := failed("C_Login", m.Login(h, pkcs11.CKU_SO, asString(pin))); err != nil {
		if e, ok := err.(*Error); ok && !e.transport() {
			return "", &OfficerError{Token: s.info.Label, Name: e.Name}
		}
		return "", err
	}
	label, err = f(m, h)
	return label, errors.Join(err, failed("C_Logout", m.Logout(h)))
}

// An OfficerError is a token that refuses the security officer's PIN, or one
// that is not asked because a wrong one could be one of the last.
type OfficerError struct {
	Token string
	Name  string // the code or flag
}

func (e *OfficerError) Error() string {
	return fmt.Sprintf("token %q: the security officer is refused (%s)", e.Token, e.Name)
}

// Hint tells what to do.
func (e *OfficerError) Hint() string {
	return "check the security officer's PIN; a flag of the token goes when the officer logs in with the vendor's tools"
}

// bringTrusted creates the wrapping key in the token. It is a public object,
// as SO objects are, with a secret value.
func bringTrusted(m module, h pkcs11.SessionHandle, wrapping []byte) (label string, err error) {
	nonce := make([]byte, 8)
	rand.Read(nonce)
	label = "chancery-backup-" + hex.EncodeToString(nonce)
	_, err = m.CreateObject(h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, wrapping),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_TRUSTED, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
	})
	return label, failed("C_CreateObject of the wrapping key", err)
}

// A BackupError is a backup that cannot be one.
type BackupError struct {
	Problem string
}

func (e *BackupError) Error() string { return "backup of a key: " + e.Problem }

// Hint tells what to do.
func (e *BackupError) Hint() string { return "use the file that chancery hsm backup wrote" }

// maxWrapped is far above a PrivateKeyInfo of any suite, in bytes.
const maxWrapped = 1024

// check returns the public half.
func (w *WrappedKey) check() (chancery.PublicKey, error) {
	public, err := chancery.ParsePublicKey(w.SPKI)
	n := len(w.Wrapped)
	switch {
	case err != nil:
		return public, &BackupError{err.Error()}
	case w.Mechanism != mechanismKWP:
		return public, &BackupError{fmt.Sprintf("it is wrapped by %q, want %s", w.Mechanism, mechanismKWP)}
	case w.Label == "":
		return public, &BackupError{"it has no label"}
	case n < 24 || n > maxWrapped || n%8 != 0: // RFC 5649 section 4.1
		return public, &BackupError{fmt.Sprintf("the wrapped key has %d bytes, want a multiple of 8 from 24 to %d", n, maxWrapped)}
	}
	return public, nil
}

// Restore brings a wrapped key into the token, from where it cannot leave
// again: sensitive, not extractable, for signing only. A label that is taken is
// a [*KeyExistsError]. It has the key sign a challenge, and takes it out again
// if the signature does not verify under the public half that the backup names.
func Restore(uri URI, opts Options, w *WrappedKey, wrapping []byte) (err error) {
	public, err := w.check()
	if err != nil {
		return err
	}
	if len(wrapping) != WrappingKeySize {
		return &BackupError{fmt.Sprintf("the wrapping key has %d bytes, want %d", len(wrapping), WrappingKeySize)}
	}
	opts.Sessions = 1
	t, err := Open(uri, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	var private, half pkcs11.ObjectHandle
	err = t.withSession(context.Background(), func(s *session) error {
		there, err := t.module.find(s.handle, pkcs11.NewAttribute(pkcs11.CKA_LABEL, w.Label))
		if err != nil {
			return err
		}
		if len(there) > 0 {
			return &KeyExistsError{Token: t.info.Label, Label: w.Label}
		}
		private, half, err = t.unwrap(s.handle, w, public.ECDSA(), wrapping)
		return err
	})
	if err != nil {
		return err
	}
	return t.prove(w.Label, public, private, half)
}

// prove has a restored key sign, and removes it if it is not the one.
func (t *Token) prove(label string, want chancery.PublicKey, private, half pkcs11.ObjectHandle) error {
	key, err := t.Key(label)
	if err == nil && !key.public.Equal(want) {
		err = fmt.Errorf("restored key %q is %s, want %s", label, key.public, want)
	}
	if err == nil {
		var c chancery.Challenge
		rand.Read(c.Nonce[:])
		_, err = key.Sign(context.Background(), chancery.FleetID{}, c)
	}
	if err == nil {
		return nil
	}
	// Not through withSession, which a key that signs wrongly has closed.
	s := <-t.idle
	defer func() { t.idle <- s }()
	return errors.Join(err, failed("C_DestroyObject", t.module.DestroyObject(s.handle, private)), failed("C_DestroyObject", t.module.DestroyObject(s.handle, half)))
}

// unwrap makes both halves of the key in the token.
func (t *Token) unwrap(s pkcs11.SessionHandle, w *WrappedKey, public *ecdsa.PublicKey, wrapping []byte) (private, half pkcs11.ObjectHandle, err error) {
	kek, err := t.module.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, wrapping),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
	})
	if err != nil {
		return 0, 0, failed("C_CreateObject of the wrapping key", err)
	}
	defer t.module.DestroyObject(s, kek) // a session object: it ends with the session anyway
	private, err = t.module.UnwrapKey(s, kwp, kek, w.Wrapped, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, w.Label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, w.ID),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	})
	if err != nil {
		return 0, 0, failed("C_UnwrapKey", err)
	}
	half, err = t.module.CreateObject(s, append(publicTemplate(public),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, w.Label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, w.ID)))
	if err != nil {
		return 0, 0, errors.Join(failed("C_CreateObject of the public half", err), failed("C_DestroyObject", t.module.DestroyObject(s, private)))
	}
	return private, half, nil
}

func publicTemplate(public *ecdsa.PublicKey) []*pkcs11.Attribute {
	var params []byte
	for der, curve := range curves {
		if curve == public.Curve {
			params = []byte(der)
		}
	}
	point, err := public.Bytes()
	if err != nil {
		panic("hsm: internal error: a parsed key has no encoding: " + err.Error())
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(point) })
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, params),
		pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, bytes.Clone(b.BytesOrPanic())),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false), // as in templates
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
	}
}

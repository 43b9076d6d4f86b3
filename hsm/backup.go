package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
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
// the security officer brings into the token as a trusted one (CKA_TRUSTED) and
// which is removed again, together with those that an interrupted backup left.
// Whatever can be wrong with the key or with the user's PIN is found before.
// The officer's PIN is tried once.
//
// The price of it: whoever has both PINs can do the same, and whoever has the
// result and the wrapping key has the secret key, in no token at all.
func Backup(uri URI, opts Options, name URI, soPIN, wrapping []byte) (*WrappedKey, error) {
	opts.Sessions, opts.Wrappable = 1, true
	w, err := inspect(uri, opts, name)
	if err != nil {
		return nil, err
	}
	label, err := bringTrusted(uri, soPIN, wrapping)
	if label == "" {
		return nil, err
	}
	if err == nil {
		err = takeOut(uri, opts, name, label, w)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// inspect describes the key, has it sign, and removes leftovers.
func inspect(uri URI, opts Options, name URI) (w *WrappedKey, err error) {
	t, err := Open(uri, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	key, err := t.FindKey(name)
	if err != nil {
		return nil, err
	}
	if key.attributes.Extractable != Yes {
		return nil, &KeyRefusedError{key.label, "CKA_EXTRACTABLE", "it was not generated so that it can be backed up"}
	}
	if err := key.challenge(); err != nil {
		return nil, err
	}
	var own []byte
	err = t.withSession(context.Background(), func(s *session) (err error) {
		if own, _, err = t.module.attribute(s.handle, key.handle, pkcs11.CKA_LABEL); err != nil {
			return err
		}
		return t.sweep(s.handle)
	})
	return &WrappedKey{Label: string(own), ID: key.attributes.ID, SPKI: key.public.SPKI(), Mechanism: mechanismKWP, Token: t.info, Created: time.Now().UTC().Truncate(time.Second)}, err
}

// challenge has the key prove that its public half is its own.
func (k *Key) challenge() error {
	var c chancery.Challenge
	rand.Read(c.Nonce[:])
	_, err := k.Sign(context.Background(), chancery.FleetID{}, c)
	return err
}

// takeOut wraps the key under the wrapping key with the label, and removes that.
func takeOut(uri URI, opts Options, name URI, label string, w *WrappedKey) error {
	t, err := Open(uri, opts)
	if err != nil {
		return &LeftoverError{Token: w.Token.Label, Label: label, Err: err}
	}
	err = t.withSession(context.Background(), func(s *session) error {
		err := t.wrap(s.handle, name, label, w)
		if swept := t.sweep(s.handle); swept != nil {
			return &LeftoverError{Token: w.Token.Label, Label: label, Err: errors.Join(err, swept)}
		}
		return err
	})
	return errors.Join(err, t.Close())
}

func (t *Token) wrap(s pkcs11.SessionHandle, name URI, label string, w *WrappedKey) error {
	kek, err := t.module.find(s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if err != nil {
		return err
	}
	if len(kek) != 1 {
		return fmt.Errorf("token %q: the wrapping key %s that was brought in is there %d times", t.info.Label, label, len(kek))
	}
	private, err := t.one(s, pkcs11.CKO_PRIVATE_KEY, name)
	if err != nil {
		return err
	}
	w.Wrapped, err = t.module.WrapKey(s, kwp, kek[0], private)
	return failed("C_WrapKey", err)
}

var kwp = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil)}

// trustedPrefix begins the labels of wrapping keys.
const trustedPrefix = "chancery-backup-"

// sweep removes all wrapping keys that backups brought in.
func (t *Token) sweep(s pkcs11.SessionHandle) error {
	keys, err := t.module.find(s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY))
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range keys {
		label, _, err := t.module.attribute(s, k, pkcs11.CKA_LABEL)
		if err == nil && strings.HasPrefix(string(label), trustedPrefix) {
			err = failed("C_DestroyObject", t.module.DestroyObject(s, k))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// A LeftoverError is a wrapping key that is left in the token.
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
	return "the next backup removes it, or: pkcs11-tool --module MODULE --token-label LABEL --login --delete-object --type secrkey --label " + e.Label
}

// bringTrusted has the security officer create the wrapping key in the token,
// in one try, and returns its label, which is empty if there is none. It is a
// public object, as the officer's are, with a secret value.
func bringTrusted(uri URI, pin, wrapping []byte) (label string, err error) {
	path, release, err := claim(uri)
	if err != nil {
		return "", err
	}
	defer release()
	m, err := load(path, uri.InitReserved)
	if err != nil {
		return "", err
	}
	defer func() {
		if e := m.unload(); e != nil {
			err = errors.Join(err, e)
		}
		if err != nil && label != "" {
			err = &LeftoverError{Token: uri.Token, Label: label, Err: err}
		}
	}()
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
	if err := failed("C_Login", m.Login(h, pkcs11.CKU_SO, asString(pin))); err != nil {
		if e, ok := err.(*Error); ok && !e.transport() {
			return "", &OfficerError{Token: s.info.Label, Name: e.Name}
		}
		return "", err
	}
	nonce := make([]byte, 8)
	rand.Read(nonce)
	label = trustedPrefix + hex.EncodeToString(nonce)
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
	if err != nil {
		return "", failed("C_CreateObject of the wrapping key", err)
	}
	return label, failed("C_Logout", m.Logout(h))
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

// A BackupError is a backup that cannot be one.
type BackupError struct {
	Problem string
}

func (e *BackupError) Error() string { return "backup of a key: " + e.Problem }

// Hint tells what to do.
func (e *BackupError) Hint() string { return "use the file that chancery hsm backup wrote" }

// maxWrapped is far above a PrivateKeyInfo of any suite, in bytes.
const maxWrapped = 1024

// PublicKey returns the public half, or a [*BackupError] if w is no backup that
// [Restore] takes.
func (w *WrappedKey) PublicKey() (chancery.PublicKey, error) {
	public, err := chancery.ParsePublicKey(w.SPKI)
	n := len(w.Wrapped)
	switch {
	case err != nil:
		return public, &BackupError{err.Error()}
	case w.Mechanism != mechanismKWP:
		return public, &BackupError{fmt.Sprintf("it is wrapped by %q, want %s", w.Mechanism, mechanismKWP)}
	case w.Label == "" || len(w.ID) == 0:
		return public, &BackupError{"it has no label or no CKA_ID"}
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
	public, err := w.PublicKey()
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
		for _, taken := range []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, w.Label), pkcs11.NewAttribute(pkcs11.CKA_ID, w.ID)} {
			there, err := t.module.find(s.handle, taken)
			if err != nil {
				return err
			}
			if len(there) > 0 {
				return &KeyExistsError{Token: t.info.Label, Label: w.Label}
			}
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
		err = key.challenge()
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

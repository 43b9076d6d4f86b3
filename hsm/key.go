package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery"
)

// A Key is a private key on a token, a [chancery.Signer]. It lives as long as
// its [Token].
type Key struct {
	token     *Token
	label     string
	handle    pkcs11.ObjectHandle
	public    chancery.PublicKey
	local     Answer
	wrappable bool
}

// Label returns the key's CKA_LABEL.
func (k *Key) Label() string { return k.label }

// PublicKey returns the public half, read from the token when the key was
// found. The token does not vouch for it: who knows the key from elsewhere,
// from a pointer record, compares.
func (k *Key) PublicKey() chancery.PublicKey { return k.public }

// Local tells whether the token generated the key (CKA_LOCAL), which a key
// that was imported or restored from a backup was not.
func (k *Key) Local() Answer { return k.local }

// Wrappable reports whether the key can leave the token under a key that the
// security officer trusts.
func (k *Key) Wrappable() bool { return k.wrappable }

// A KeyNotFoundError is a name that no private key of the token has.
type KeyNotFoundError struct {
	Token string
	Label string   // or the CKA_ID in hexadecimal
	Seen  []string // labels of the private keys that there are
}

func (e *KeyNotFoundError) Error() string {
	return fmt.Sprintf("token %q has no private key labelled %q", e.Token, e.Label)
}

// Hint lists the keys that there are.
func (e *KeyNotFoundError) Hint() string {
	if len(e.Seen) == 0 {
		return "the token has no private keys; generate one"
	}
	return fmt.Sprintf("the token has %q", e.Seen)
}

// A KeyRefusedError is a key that is on the token and not fit to sign for a
// fleet.
type KeyRefusedError struct {
	Label     string
	Attribute string // the PKCS#11 attribute at fault, such as CKA_EXTRACTABLE
	Reason    string
}

func (e *KeyRefusedError) Error() string {
	return fmt.Sprintf("key %q refused: %s: %s", e.Label, e.Attribute, e.Reason)
}

// Hint tells how to get a key that is fit.
func (e *KeyRefusedError) Hint() string {
	if e.Attribute == "CKA_LABEL" || e.Attribute == "CKA_ID" {
		return "remove or relabel the objects that do not belong to the key"
	}
	return "generate a new key: attributes that were wrong once cannot be put right"
}

// Key finds the key with the CKA_LABEL, as [Token.FindKey] does.
func (t *Token) Key(label string) (*Key, error) { return t.FindKey(URI{Object: label}) }

// FindKey finds the private key that has the URI's object (CKA_LABEL) and id
// (CKA_ID), and its public half: the one public key of the same name and
// CKA_ID. It accepts ECDSA keys of the project's suites that the token holds
// as sensitive and not extractable, or extractable for a trusted key if
// [Options] allow that, and that may sign and do nothing else; all others are
// a [*KeyRefusedError]. No such key is a [*KeyNotFoundError].
func (t *Token) FindKey(name URI) (*Key, error) {
	k := &Key{token: t, label: nameOf(name)}
	if k.label == "" {
		return nil, errors.New("find key: neither a label nor an id is given")
	}
	err := t.withSession(context.Background(), func(session *session) error {
		s := session.handle
		private, err := t.one(s, pkcs11.CKO_PRIVATE_KEY, name)
		if err != nil {
			return err
		}
		if k.wrappable, err = t.checkUse(s, private, k.label); err != nil {
			return err
		}
		if k.local, err = t.module.answer(s, private, pkcs11.CKA_LOCAL); err != nil {
			return err
		}
		public, err := t.one(s, pkcs11.CKO_PUBLIC_KEY, name)
		if err != nil {
			return err
		}
		if err := t.sameID(s, private, public, k.label); err != nil {
			return err
		}
		k.handle = private
		k.public, err = t.readPublic(s, public, k.label)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// nameOf is how messages call the key that a URI names.
func nameOf(u URI) string {
	if u.Object != "" {
		return u.Object
	}
	return hex.EncodeToString([]byte(u.ID))
}

// one finds the only object of the class and name.
func (t *Token) one(s pkcs11.SessionHandle, class uint, name URI) (pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}
	if name.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, name.Object))
	}
	if name.ID != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(name.ID)))
	}
	found, err := t.module.find(s, template...)
	if err != nil {
		return 0, err
	}
	label, what := nameOf(name), "private"
	if class == pkcs11.CKO_PUBLIC_KEY {
		what = "public"
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return 0, &KeyRefusedError{label, "CKA_LABEL", fmt.Sprintf("%d %s keys have it", len(found), what)}
	case class == pkcs11.CKO_PUBLIC_KEY:
		return 0, &KeyRefusedError{label, "CKA_LABEL", "the private key has no public key beside it"}
	}
	e := &KeyNotFoundError{Token: t.info.Label, Label: label}
	all, err := t.module.find(s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
	if err != nil {
		return 0, err
	}
	for _, o := range all {
		l, _, err := t.module.attribute(s, o, pkcs11.CKA_LABEL)
		if err != nil {
			return 0, err
		}
		e.Seen = append(e.Seen, string(l))
	}
	return 0, e
}

// usage is what a signing key must say of itself (PKCS#11 2.40 section 4.9).
// Where optional holds, a module that does not know the attribute cannot do
// the operation either, and passes.
var usage = []struct {
	attribute uint
	name      string
	want      bool
	optional  bool
	reason    string
}{
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, false, "the secret key can be read in the clear"},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, false, "the secret key can leave the token"},
	{pkcs11.CKA_SIGN, "CKA_SIGN", true, false, "the key may not sign"},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, true, "the key may do more than sign"},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, true, "the key may do more than sign"},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, true, "the key may do more than sign"},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false, true, "the key may do more than sign"},
	{pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE", false, true, "the token wants the PIN for every signature"},
}

func (t *Token) checkUse(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, label string) (wrappable bool, err error) {
	for _, u := range usage {
		value, known, err := t.module.attribute(s, o, u.attribute)
		if err != nil {
			return false, err
		}
		switch {
		case !known && u.optional:
		case !known:
			return false, &KeyRefusedError{label, u.name, "the module does not tell"}
		case len(value) != 1:
			return false, &KeyRefusedError{label, u.name, fmt.Sprintf("is %d bytes long, a CK_BBOOL has 1", len(value))}
		case (value[0] != 0) == u.want:
		case u.attribute == pkcs11.CKA_EXTRACTABLE && t.options.Wrappable:
			trusted, err := t.module.answer(s, o, pkcs11.CKA_WRAP_WITH_TRUSTED)
			if err != nil {
				return false, err
			}
			if trusted != Yes {
				return false, &KeyRefusedError{label, "CKA_WRAP_WITH_TRUSTED", "the secret key can leave the token under any key"}
			}
			wrappable = true
		default:
			return false, &KeyRefusedError{label, u.name, u.reason}
		}
	}
	return wrappable, nil
}

func (t *Token) sameID(s pkcs11.SessionHandle, private, public pkcs11.ObjectHandle, label string) error {
	a, _, err := t.module.attribute(s, private, pkcs11.CKA_ID)
	if err != nil {
		return err
	}
	b, _, err := t.module.attribute(s, public, pkcs11.CKA_ID)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return &KeyRefusedError{label, "CKA_ID", fmt.Sprintf("the private key has %x and the public key has %x", a, b)}
	}
	return nil
}

// curves are the values of CKA_EC_PARAMS (PKCS#11 2.40 Current Mechanisms
// section 2.3.3: DER of the curve's OID).
var curves = map[string]elliptic.Curve{
	"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07": elliptic.P256(),
	"\x06\x05\x2b\x81\x04\x00\x22":             elliptic.P384(),
}

func (t *Token) readPublic(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, label string) (chancery.PublicKey, error) {
	params, _, err := t.module.attribute(s, o, pkcs11.CKA_EC_PARAMS)
	if err != nil {
		return chancery.PublicKey{}, err
	}
	curve, ok := curves[string(params)]
	if !ok {
		return chancery.PublicKey{}, &KeyRefusedError{label, "CKA_EC_PARAMS", "not a key on P-256 or P-384"}
	}
	point, _, err := t.module.attribute(s, o, pkcs11.CKA_EC_POINT)
	if err != nil {
		return chancery.PublicKey{}, err
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, unwrapPoint(point, curve))
	if err != nil {
		return chancery.PublicKey{}, &KeyRefusedError{label, "CKA_EC_POINT", err.Error()}
	}
	return chancery.NewPublicKey(key)
}

// unwrapPoint returns the uncompressed point of a CKA_EC_POINT. The standard
// wants it in a DER OCTET STRING; some tokens leave the wrapping out, and the
// length tells which it is.
func unwrapPoint(value []byte, curve elliptic.Curve) []byte {
	if len(value) == 1+2*((curve.Params().BitSize+7)/8) {
		return value
	}
	in := cryptobyte.String(value)
	var point cryptobyte.String
	if !in.ReadASN1(&point, asn1.OCTET_STRING) || !in.Empty() {
		return nil
	}
	return point
}

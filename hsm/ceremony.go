package hsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery"
)

// A KeyExistsError is a label or a CKA_ID that is taken, see [Token.Free].
type KeyExistsError struct {
	Token string
	Label string
	ID    []byte // if it is the CKA_ID that is taken, and not the label
	Half  bool   // all that has the label is the public half of a key
}

func (e *KeyExistsError) Error() string {
	switch {
	case len(e.ID) > 0:
		return fmt.Sprintf("token %q already has a key with CKA_ID %x, under another label than %q", e.Token, e.ID, e.Label)
	case e.Half:
		return fmt.Sprintf("token %q already has the public half of a key labelled %q", e.Token, e.Label)
	}
	return fmt.Sprintf("token %q already has a key labelled %q", e.Token, e.Label)
}

// Hint tells how to go on.
func (e *KeyExistsError) Hint() string {
	if e.Half {
		return "a ceremony was interrupted while the token made it; delete the half that is there and repeat: " +
			"pkcs11-tool --module MODULE --token-label LABEL --login --delete-object --type pubkey --label " + e.Label
	}
	return "use the key that is there, or choose another name; nothing was changed"
}

// A Ceremony is a token that is open for the day its keys are made, and for
// auditors. It goes through crypto11; no other use of the module may be made in
// this process meanwhile. The caller closes it.
type Ceremony struct {
	ctx     *crypto11.Context
	slot    slot
	publics []publicObject // those that were there when it was opened
	release func()
	pin     []byte // lent to ctx
}

// OpenCeremony opens the token and logs in, once. The errors are those of
// [Open].
//
// The library cannot tell the state of the PIN, nor list keys that it does not
// know; so the module is opened twice in turn, first without login to look at
// the slot and at the public keys.
func OpenCeremony(uri URI, opts Options) (c *Ceremony, err error) {
	path, release, err := claim(uri)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if uri.InitReserved != "" {
		return nil, &URIError{Attribute: "x-init-reserved", Problem: "cannot be used in a ceremony",
			hint: "generate the keys with the vendor's tools and name them: see docs/hsm.md"}
	}
	c = &Ceremony{release: release}
	if c.slot, c.publics, err = survey(path, uri); err != nil {
		return nil, err
	}
	config := &crypto11.Config{Path: path, TokenSerial: c.slot.info.Serial, MaxSessions: 2, LoginNotSupported: !c.slot.loginRequired()}
	configure := func() error {
		c.ctx, err = crypto11.Configure(config)
		return cause("crypto11.Configure", err) // which of its calls it was, it tells in prose
	}
	if !c.slot.loginRequired() {
		return c, configure()
	}
	err = withPIN(uri, c.slot, opts, func(pin []byte) error {
		c.pin = bytes.Clone(pin)
		config.Pin = asString(c.pin)
		return configure()
	})
	if err != nil {
		clear(c.pin)
		return nil, err
	}
	return c, nil
}

// Close ends the sessions and the login, and unloads the module.
func (c *Ceremony) Close() error {
	err := cause("C_Finalize", c.ctx.Close())
	clear(c.pin)
	c.release()
	return err
}

// Info describes the token.
func (c *Ceremony) Info() Info { return c.slot.info }

// Generate makes a P-256 key pair on the token: kept by the token, sensitive,
// not extractable, good for signing only, with the label (object) of the name,
// and its CKA_ID (id), or a random one. It returns the public half. A name that
// is taken is a [*KeyExistsError]; [Token.Free] tells more, and before.
//
// A key that is wrappable is extractable instead, for a wrapping key that the
// security officer trusts (CKA_WRAP_WITH_TRUSTED): it can be backed up, and
// whoever has the officer's PIN and the user's can take it away. That cannot be
// changed later.
func (c *Ceremony) Generate(name URI, wrappable bool) (public chancery.PublicKey, err error) {
	if name.Object == "" {
		return public, errors.New("generate key: the label is empty")
	}
	label, id := name.Object, []byte(name.ID)
	byLabel := &KeyExistsError{Token: c.slot.info.Label, Label: label}
	byID := &KeyExistsError{Token: c.slot.info.Label, Label: label, ID: id}
	for _, p := range c.publics {
		switch {
		case p.label == label:
			return public, byLabel
		case len(id) > 0 && bytes.Equal(p.id, id):
			return public, byID
		}
	}
	// A key that is missing is nil without an error.
	there, err := c.ctx.FindKeyPairs(nil, []byte(label))
	if err == nil && len(there) > 0 {
		return public, byLabel
	}
	if err == nil && len(id) > 0 {
		there, err = c.ctx.FindKeyPairs(id, nil)
	}
	if err != nil {
		return public, fmt.Errorf("look for key %q: %w", label, cause("C_FindObjects", err))
	}
	if len(there) > 0 {
		return public, byID
	}
	if len(id) == 0 {
		id = make([]byte, 20)
		rand.Read(id)
	}
	half, private, err := templates(label, id, wrappable)
	if err != nil {
		return public, err
	}
	pair, err := c.ctx.GenerateECDSAKeyPairWithAttributes(half, private, elliptic.P256())
	if err != nil {
		return public, fmt.Errorf("generate key %q: %w", label, cause("C_GenerateKeyPair", err))
	}
	key, ok := pair.Public().(*ecdsa.PublicKey)
	if !ok {
		return public, fmt.Errorf("generate key %q: the token made a %T", label, pair.Public())
	}
	return chancery.NewPublicKey(key)
}

// templates are the attributes of a new key pair (PKCS#11 2.40 sections 4.8
// and 4.9). What the key must not do is said too: the defaults are the
// token's, and SoftHSM's are generous.
func templates(label string, id []byte, wrappable bool) (public, private crypto11.AttributeSet, err error) {
	public, private = crypto11.NewAttributeSet(), crypto11.NewAttributeSet()
	for _, a := range []struct {
		set       crypto11.AttributeSet
		attribute crypto11.AttributeType
		value     any
	}{
		{public, crypto11.CkaId, id},
		{public, crypto11.CkaLabel, label},
		{public, crypto11.CkaToken, true},
		// The host verifies. tpm2-pkcs11 refuses a public half that may, and
		// crypto11 would say so if nothing was said.
		{public, crypto11.CkaVerify, false},
		{public, crypto11.CkaVerifyRecover, false},
		{public, crypto11.CkaWrap, false},
		{public, crypto11.CkaDerive, false},

		{private, crypto11.CkaId, id},
		{private, crypto11.CkaLabel, label},
		{private, crypto11.CkaToken, true},
		{private, crypto11.CkaPrivate, true},
		{private, crypto11.CkaSensitive, true},
		{private, crypto11.CkaExtractable, wrappable},
		{private, crypto11.CkaSign, true},
		{private, crypto11.CkaSignRecover, false},
		{private, crypto11.CkaDecrypt, false},
		{private, crypto11.CkaUnwrap, false},
		{private, crypto11.CkaDerive, false},
	} {
		if err := a.set.Set(a.attribute, a.value); err != nil {
			return nil, nil, fmt.Errorf("key template: %w", err)
		}
	}
	if wrappable {
		err = private.Set(crypto11.CkaWrapWithTrusted, true)
	}
	return public, private, err
}

// An Answer is what a token says about an attribute of a key.
type Answer string

// The answers. Unknown is a module that does not tell, and never a yes.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// KeyInfo is a line of an inventory. A key that the token generated and never
// gave away says yes to all but Extractable; one that was restored from a
// backup says no to the last three.
type KeyInfo struct {
	Label string `json:"label"`
	ID    []byte `json:"id"`   // CKA_ID
	Type  string `json:"type"` // "EC P-256", "RSA 2048", or "key type 0x40"

	Sensitive        Answer `json:"sensitive"`
	Extractable      Answer `json:"extractable"`
	AlwaysSensitive  Answer `json:"always_sensitive"`
	NeverExtractable Answer `json:"never_extractable"`
	Local            Answer `json:"local"` // generated by the token

	// Problem says why the private half is not described; it is empty if it is.
	Problem string `json:"problem,omitempty"`
}

// Inventory lists the key pairs on the token. Pairs of which only the public
// half can be described are listed with a Problem.
func (c *Ceremony) Inventory() ([]KeyInfo, error) {
	var list []KeyInfo
	listed := map[string]bool{}
	// Kind by kind: one key of a kind that the library does not know would
	// spoil a list of everything.
	for _, kind := range []uint{pkcs11.CKK_EC, pkcs11.CKK_RSA} {
		want := crypto11.NewAttributeSet()
		if err := want.Set(crypto11.CkaKeyType, kind); err != nil {
			return nil, err
		}
		pairs, err := c.ctx.FindKeyPairsWithAttributes(want)
		if err = cause("C_FindObjects", err); dead(err) {
			return nil, err
		}
		for _, pair := range pairs {
			info, err := describe(c.ctx, pair)
			if err != nil {
				return nil, err
			}
			listed[info.Label+"\x00"+string(info.ID)] = true
			list = append(list, info)
		}
	}
	for _, p := range c.publics {
		if !listed[p.label+"\x00"+string(p.id)] {
			list = append(list, KeyInfo{Label: p.label, ID: p.id, Type: p.kind(),
				Sensitive: Unknown, Extractable: Unknown, AlwaysSensitive: Unknown, NeverExtractable: Unknown, Local: Unknown,
				Problem: "only the public half can be described: the private one is missing or of an unsupported kind"})
		}
	}
	return list, nil
}

func describe(c *crypto11.Context, pair crypto11.Signer) (KeyInfo, error) {
	info := KeyInfo{}
	switch public := pair.Public().(type) {
	case *ecdsa.PublicKey:
		info.Type = "EC " + public.Params().Name
	case *rsa.PublicKey:
		info.Type = fmt.Sprintf("RSA %d", public.N.BitLen())
	}
	label, err := c.GetAttribute(pair, crypto11.CkaLabel)
	if err != nil {
		return info, cause("C_GetAttributeValue", err)
	}
	id, err := c.GetAttribute(pair, crypto11.CkaId)
	if err != nil {
		return info, cause("C_GetAttributeValue", err)
	}
	info.Label, info.ID = string(label.Value), id.Value
	for _, a := range []struct {
		attribute crypto11.AttributeType
		answer    *Answer
	}{
		{crypto11.CkaSensitive, &info.Sensitive},
		{crypto11.CkaExtractable, &info.Extractable},
		{crypto11.CkaAlwaysSensitive, &info.AlwaysSensitive},
		{crypto11.CkaNeverExtractable, &info.NeverExtractable},
		{crypto11.CkaLocal, &info.Local},
	} {
		got, err := c.GetAttribute(pair, a.attribute)
		if err = cause("C_GetAttributeValue", err); dead(err) {
			return info, err
		}
		switch {
		case err != nil || len(got.Value) != 1:
			*a.answer = Unknown
		case got.Value[0] != 0:
			*a.answer = Yes
		default:
			*a.answer = No
		}
	}
	return info, nil
}

// publicObject is a public key as everybody sees it, without login.
type publicObject struct {
	label   string
	id      []byte
	keyType []byte // CK_KEY_TYPE, a CK_ULONG in the host's order
}

func (p publicObject) kind() string {
	if len(p.keyType) != 8 {
		return "key type unknown"
	}
	return fmt.Sprintf("key type 0x%x", binary.NativeEndian.Uint64(p.keyType))
}

// survey looks at the token without login.
func survey(path string, uri URI) (s slot, publics []publicObject, err error) {
	m, err := load(path, uri.InitReserved)
	if err != nil {
		return s, nil, err
	}
	defer func() {
		if e := m.unload(); err == nil {
			err = e
		}
	}()
	all, err := m.slots()
	if err != nil {
		return s, nil, err
	}
	if s, err = m.slot(uri); err != nil {
		return s, nil, err
	}
	// crypto11 takes the first token with the serial number.
	same := 0
	for _, other := range all {
		if other.info.Serial == s.info.Serial {
			same++
		}
	}
	if s.info.Serial == "" || same != 1 {
		return s, nil, fmt.Errorf("token %q: serial number %q is not its own alone", s.info.Label, s.info.Serial)
	}
	h, err := m.OpenSession(s.id, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return s, nil, failed("C_OpenSession", err)
	}
	objects, err := m.find(h, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY))
	if err != nil {
		return s, nil, err
	}
	for _, o := range objects {
		var p publicObject
		label, _, err := m.attribute(h, o, pkcs11.CKA_LABEL)
		if err != nil {
			return s, nil, err
		}
		p.label = string(label)
		if p.id, _, err = m.attribute(h, o, pkcs11.CKA_ID); err != nil {
			return s, nil, err
		}
		if p.keyType, _, err = m.attribute(h, o, pkcs11.CKA_KEY_TYPE); err != nil {
			return s, nil, err
		}
		publics = append(publics, p)
	}
	return s, publics, nil
}

// cause is [failed] for errors of crypto11, which are wrapped in a way of
// their own.
func cause(op string, err error) error { return failed(op, unwound(err)) }

// unwound returns the innermost error.
func unwound(err error) error {
	for {
		c, ok := err.(interface{ Cause() error })
		if !ok {
			return err
		}
		err = c.Cause()
	}
}

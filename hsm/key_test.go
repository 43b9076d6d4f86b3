package hsm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
)

func TestKeyNotFound(t *testing.T) {
	token := hsmtest.Open(t, "ca", "approval")
	_, err := token.Key("CA")
	var e *hsm.KeyNotFoundError
	if !errors.As(err, &e) || e.Label != "CA" || e.Token != hsmtest.Label || len(e.Seen) != 2 {
		t.Fatalf("error %v, want *KeyNotFoundError that has seen two", err)
	}
	if !strings.Contains(e.Hint(), `"ca"`) || !strings.Contains(e.Hint(), `"approval"`) {
		t.Errorf("hint %q does not list the keys", e.Hint())
	}
	if _, err := token.Key("ca"); err != nil {
		t.Errorf("a key that is there, after one that is not: %v", err)
	}
}

// Every way in which a key can be more than a signing key, or less than one
// that stays in the token.
func TestKeyRefused(t *testing.T) {
	uri := hsmtest.New(t)
	set := pkcs11.NewAttribute
	attributes := map[string][]*pkcs11.Attribute{
		"CKA_EXTRACTABLE":         {set(pkcs11.CKA_EXTRACTABLE, true)},
		"CKA_SENSITIVE":           {set(pkcs11.CKA_SENSITIVE, false)},
		"CKA_SIGN":                {set(pkcs11.CKA_SIGN, false)},
		"CKA_ALWAYS_AUTHENTICATE": {set(pkcs11.CKA_ALWAYS_AUTHENTICATE, true)},
	}
	want := map[string]string{}
	behind(t, uri, func(s rawSession) {
		for attribute, template := range attributes {
			s.ecPair(attribute, p256, template...)
			want[attribute] = attribute
		}
		s.ecPair("p521", p521)
		want["p521"] = "CKA_EC_PARAMS"
		s.ecPair("ed25519", ed25519)
		want["ed25519"] = "CKA_EC_PARAMS"
		s.ecPair("twice", p256)
		s.ecPair("twice", p256)
		want["twice"] = "CKA_LABEL"
		check(t, s.DestroyObject(s.h, s.ecPair("orphan", p256)))
		want["orphan"] = "CKA_LABEL"
		check(t, s.SetAttributeValue(s.h, s.ecPair("mixed", p256), []*pkcs11.Attribute{set(pkcs11.CKA_ID, []byte("other"))}))
		want["mixed"] = "CKA_ID"
		publicPoint(s, "infinity", []byte{4, 1, 0})
		want["infinity"] = "CKA_EC_POINT"
		publicPoint(s, "off curve", append([]byte{4, 65, 4}, make([]byte, 64)...))
		want["off curve"] = "CKA_EC_POINT"
		s.ecPair("good", p256)
		s.ecPair("versatile", p256, set(pkcs11.CKA_DECRYPT, true), set(pkcs11.CKA_DERIVE, true))
	})
	token := hsmtest.OpenURI(t, uri)
	for label, attribute := range want {
		_, err := token.Key(label)
		var e *hsm.KeyRefusedError
		if !errors.As(err, &e) || e.Label != label || e.Attribute != attribute || e.Hint() == "" {
			t.Errorf("key %q: error %v, want one about %s", label, err, attribute)
		}
	}
	good, err := token.Key("good")
	check(t, err)
	if also := good.Attributes().Beyond; also != nil {
		t.Errorf("a key that may sign and nothing else may also %v", also)
	}
	// What a key can do beyond signing is told; it is for people to judge.
	versatile, err := token.Key("versatile")
	check(t, err)
	if also := versatile.Attributes().Beyond; !slices.Equal(also, []string{"CKA_DECRYPT", "CKA_DERIVE"}) {
		t.Errorf("a key that may decrypt and derive may also %v", also)
	}
}

// publicPoint makes a key pair and replaces its public half by one that has
// other bytes as CKA_EC_POINT.
func publicPoint(s rawSession, label string, point []byte) {
	s.t.Helper()
	check(s.t, s.DestroyObject(s.h, s.ecPair(label, p256)))
	putPublic(s, label, point)
}

func putPublic(s rawSession, label string, point []byte) {
	s.t.Helper()
	_, err := s.CreateObject(s.h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256),
		pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, point),
	})
	check(s.t, err)
}

// Some tokens return CKA_EC_POINT without the OCTET STRING around it.
func TestKeyWithRawPoint(t *testing.T) {
	uri := hsmtest.New(t)
	behind(t, uri, func(s rawSession) {
		public := s.ecPair("ca", p256)
		got, err := s.GetAttributeValue(s.h, public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
		check(t, err)
		if len(got[0].Value) != 67 {
			t.Fatalf("SoftHSM's point has %d bytes, want 67", len(got[0].Value))
		}
		check(t, s.DestroyObject(s.h, public))
		putPublic(s, "ca", got[0].Value[2:])
	})
	key, err := hsmtest.OpenURI(t, uri).Key("ca")
	check(t, err)
	signAndVerify(t, key)
}

func TestKeyP384(t *testing.T) {
	uri := hsmtest.New(t)
	behind(t, uri, func(s rawSession) { s.ecPair("ca", p384) })
	key, err := hsmtest.OpenURI(t, uri).Key("ca")
	check(t, err)
	if suite := key.PublicKey().Suite(); suite != chancery.P384 {
		t.Fatalf("suite %v, want P-384", suite)
	}
	signAndVerify(t, key)
}

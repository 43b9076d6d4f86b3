package hsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
)

func open(t *testing.T, uri hsm.URI) *hsm.Ceremony {
	t.Helper()
	c, err := hsm.OpenCeremony(uri, hsm.Options{})
	check(t, err)
	return c
}

func TestGenerate(t *testing.T) {
	uri := hsmtest.New(t)
	ceremony := open(t, uri)
	for _, label := range []string{"ca", "approval"} {
		_, err := ceremony.Generate(hsm.URI{Object: label}, false)
		check(t, err)
	}
	if _, err := ceremony.Generate(hsm.URI{ID: "x"}, false); err == nil {
		t.Error("generated a key without a label")
	}
	list, err := ceremony.Inventory()
	check(t, err)
	check(t, ceremony.Close())
	if len(list) != 2 {
		t.Fatalf("inventory %+v, want two keys", list)
	}
	ids := map[string]bool{}
	for _, k := range list {
		if k.Type != "EC P-256" || k.Problem != "" ||
			k.Sensitive != hsm.Yes || k.Extractable != hsm.No || k.AlwaysSensitive != hsm.Yes || k.NeverExtractable != hsm.Yes || k.Local != hsm.Yes {
			t.Errorf("%+v is not what was to be generated", k)
		}
		if len(k.ID) < 16 || ids[string(k.ID)] {
			t.Errorf("key %q: CKA_ID %x is short or used twice", k.Label, k.ID)
		}
		ids[string(k.ID)] = true
	}
	token := hsmtest.OpenURI(t, uri) // what was generated is what Key accepts
	ca, approval := mustKey(t, token, "ca"), mustKey(t, token, "approval")
	if ca.PublicKey().Equal(approval.PublicKey()) {
		t.Error("two labels, one key")
	}
}

// A label that is taken stays as it is, whatever has it.
func TestGenerateKeyExists(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	behind(t, uri, func(s rawSession) {
		s.ecPair("edwards", ed25519)
		check(t, s.SetAttributeValue(s.h, s.ecPair("private only", p256), []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "renamed")}))
		putPublic(s, "public only", append([]byte{4, 65, 4}, make([]byte, 64)...))
	})
	ceremony := open(t, uri)
	for _, label := range []string{"ca", "edwards", "private only", "renamed", "public only"} {
		_, err := ceremony.Generate(hsm.URI{Object: label}, false)
		var e *hsm.KeyExistsError
		if !errors.As(err, &e) || e.Label != label || e.Token != hsmtest.Label || e.Hint() == "" {
			t.Errorf("label %q: error %v, want *KeyExistsError", label, err)
		}
	}
	check(t, ceremony.Close())
	signAndVerify(t, mustKey(t, hsmtest.OpenURI(t, uri), "ca"))
}

// The inventory tells the truth about keys that this package would not have
// made, and tells of those that it cannot judge.
func TestInventoryOfOthersKeys(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	behind(t, uri, func(s rawSession) {
		s.ecPair("loose", p384, pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false))
		s.ecPair("edwards", ed25519)
		_, _, err := s.GenerateKeyPair(s.h, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
			[]*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "rsa"), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte("rsa")),
				pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			},
			[]*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "rsa"), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte("rsa")),
				pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			})
		check(t, err)
	})
	ceremony := open(t, uri)
	list, err := ceremony.Inventory()
	check(t, err)
	check(t, ceremony.Close())
	got := map[string]hsm.KeyInfo{}
	for _, k := range list {
		got[k.Label] = k
	}
	if len(list) != 4 || len(got) != 4 {
		t.Fatalf("inventory %+v, want four keys", list)
	}
	for label, kind := range map[string]string{"ca": "EC P-256", "loose": "EC P-384", "rsa": "RSA 2048", "edwards": "key type 0x40"} {
		if got[label].Type != kind {
			t.Errorf("key %q: type %q, want %q", label, got[label].Type, kind)
		}
		if (got[label].Problem != "") != (label == "edwards") {
			t.Errorf("key %q: problem %q", label, got[label].Problem)
		}
	}
	if k := got["loose"]; k.Sensitive != hsm.No || k.Extractable != hsm.Yes || k.AlwaysSensitive != hsm.No || k.NeverExtractable != hsm.No || k.Local != hsm.Yes {
		t.Errorf("loose key: %+v", k)
	}
	if k := got["edwards"]; k.Sensitive != hsm.Unknown || k.Extractable != hsm.Unknown || !strings.Contains(k.Problem, "public half") {
		t.Errorf("key of an unsupported kind: %+v", k)
	}
}

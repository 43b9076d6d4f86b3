package hsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// officer returns the security officer's PIN of a SoftHSM token.
func officer(t *testing.T, i softhsm.Instance) []byte {
	t.Helper()
	pin, err := os.ReadFile(filepath.Join(filepath.Dir(i.Conf), "so-pin"))
	check(t, err)
	return pin
}

func wrappingKey() []byte {
	key := make([]byte, hsm.WrappingKeySize)
	rand.Read(key)
	return key
}

// secretKeys returns the labels of the secret keys on a token.
func secretKeys(t *testing.T, uri hsm.URI) (labels []string) {
	t.Helper()
	behind(t, uri, func(s rawSession) {
		check(t, s.FindObjectsInit(s.h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}))
		found, _, err := s.FindObjects(s.h, 100)
		check(t, errors.Join(err, s.FindObjectsFinal(s.h)))
		for _, o := range found {
			a, err := s.GetAttributeValue(s.h, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			check(t, err)
			labels = append(labels, string(a[0].Value))
		}
	})
	return labels
}

// A wrappable key moves to a second token and signs there; from there it does
// not move on, and what was used on the way is gone.
func TestBackup(t *testing.T) {
	i := hsmtest.Instance(t)
	second, err := softhsm.New(filepath.Dir(i.Conf), "second")
	check(t, err)
	ceremony := open(t, i.URI)
	_, err = ceremony.Generate(hsm.URI{Object: "ca"}, true)
	check(t, err)
	check(t, ceremony.Close())
	ca := hsm.URI{Object: "ca"}

	// Who does not know of the trade does not get to use such a key.
	token := hsmtest.OpenURI(t, i.URI)
	_, err = token.Key("ca")
	if e, ok := errors.AsType[*hsm.KeyRefusedError](err); !ok || e.Attribute != "CKA_EXTRACTABLE" {
		t.Errorf("error %v, want *KeyRefusedError for CKA_EXTRACTABLE", err)
	}
	check(t, token.Close())
	token, err = hsm.Open(i.URI, hsm.Options{Wrappable: true})
	check(t, err)
	original, err := token.Key("ca")
	check(t, err)
	if a := original.Attributes(); a.Extractable != hsm.Yes || a.WrapWithTrusted != hsm.Yes || a.Sensitive != hsm.Yes || a.NeverExtractable != hsm.No {
		t.Errorf("attributes %+v", a)
	}
	check(t, token.Close())

	wrapping := wrappingKey()
	w, err := hsm.Backup(i.URI, hsm.Options{}, ca, officer(t, i), wrapping)
	check(t, err)
	if w.Label != "ca" || !bytes.Equal(w.SPKI, original.PublicKey().SPKI()) || w.Token.Serial != i.URI.Serial || len(w.Wrapped) < 40 {
		t.Errorf("backup %+v", w)
	}
	if left := secretKeys(t, i.URI); left != nil {
		t.Errorf("on the first token is left %v", left)
	}

	check(t, hsm.Restore(second.URI, hsm.Options{}, w, wrapping))
	if left := secretKeys(t, second.URI); left != nil {
		t.Errorf("on the second token is left %v", left)
	}
	token = hsmtest.OpenURI(t, second.URI)
	restored := mustKey(t, token, "ca")
	if !restored.PublicKey().Equal(original.PublicKey()) {
		t.Errorf("restored %s, want %s", restored.PublicKey(), original.PublicKey())
	}
	if a := restored.Attributes(); a.Sensitive != hsm.Yes || a.Extractable != hsm.No || a.Local != hsm.No || a.NeverExtractable != hsm.No || !bytes.Equal(a.ID, w.ID) {
		t.Errorf("attributes of the restored key: %+v", a)
	}
	signAndVerify(t, restored)
	check(t, token.Close())
	_, err = hsm.Backup(second.URI, hsm.Options{}, ca, officer(t, i), wrappingKey())
	if e, ok := errors.AsType[*hsm.KeyRefusedError](err); !ok || e.Attribute != "CKA_EXTRACTABLE" {
		t.Errorf("backup of the restored key: error %v, want *KeyRefusedError", err)
	}
	if left := secretKeys(t, second.URI); left != nil {
		t.Errorf("a refused backup leaves %v", left)
	}
	err = hsm.Restore(second.URI, hsm.Options{}, w, wrapping)
	if e, ok := errors.AsType[*hsm.KeyExistsError](err); !ok || e.Label != "ca" {
		t.Errorf("restore over a key: error %v, want *KeyExistsError", err)
	}
}

// What is refused leaves both tokens as they were.
func TestBackupRefuses(t *testing.T) {
	i := hsmtest.Instance(t)
	second, err := softhsm.New(filepath.Dir(i.Conf), "second")
	check(t, err)
	ceremony := open(t, i.URI)
	_, err = ceremony.Generate(hsm.URI{Object: "ca"}, true)
	check(t, err)
	_, err = ceremony.Generate(hsm.URI{Object: "approval"}, false)
	check(t, err)
	check(t, ceremony.Close())

	_, err = hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "approval"}, officer(t, i), wrappingKey())
	if e, ok := errors.AsType[*hsm.KeyRefusedError](err); !ok || e.Attribute != "CKA_EXTRACTABLE" || !strings.Contains(e.Error(), "backed up") {
		t.Errorf("backup of a key that is not wrappable: error %v, want *KeyRefusedError", err)
	}
	_, err = hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "none"}, officer(t, i), wrappingKey())
	if _, ok := errors.AsType[*hsm.KeyNotFoundError](err); !ok {
		t.Errorf("backup of a key that is not there: error %v, want *KeyNotFoundError", err)
	}
	_, err = hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "ca"}, []byte("not the PIN"), wrappingKey())
	if e, ok := errors.AsType[*hsm.OfficerError](err); !ok || e.Name != "CKR_PIN_INCORRECT" || e.Hint() == "" || strings.Contains(err.Error(), "not the PIN") {
		t.Errorf("wrong PIN of the officer: error %v, want *OfficerError", err)
	}
	_, err = hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "ca"}, officer(t, i), wrappingKey())
	if e, ok := errors.AsType[*hsm.OfficerError](err); !ok || e.Name != "CKF_SO_PIN_COUNT_LOW" {
		t.Errorf("officer after a wrong PIN: error %v, want CKF_SO_PIN_COUNT_LOW", err)
	}
	if left := secretKeys(t, i.URI); left != nil {
		t.Errorf("on the token is left %v", left)
	}
	asOfficer(t, i) // who logs in by hand clears the flag

	wrapping := wrappingKey()
	w, err := hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "ca"}, officer(t, i), wrapping)
	check(t, err)
	other, err := hsm.Backup(i.URI, hsm.Options{}, hsm.URI{Object: "ca"}, officer(t, i), wrapping)
	check(t, err)
	key := newSPKI(t)
	for name, spoil := range map[string]func(*hsm.WrappedKey, *[]byte){
		"another wrapping key": func(_ *hsm.WrappedKey, k *[]byte) { *k = wrappingKey() },
		"a changed bit":        func(w *hsm.WrappedKey, _ *[]byte) { w.Wrapped[9] ^= 1 },
		"a part of it":         func(w *hsm.WrappedKey, _ *[]byte) { w.Wrapped = w.Wrapped[:len(w.Wrapped)-8] },
		"nothing":              func(w *hsm.WrappedKey, _ *[]byte) { w.Wrapped = nil },
		"another public half":  func(w *hsm.WrappedKey, _ *[]byte) { w.SPKI = key },
		"no public half":       func(w *hsm.WrappedKey, _ *[]byte) { w.SPKI = nil },
		"another mechanism":    func(w *hsm.WrappedKey, _ *[]byte) { w.Mechanism = "AES-CBC" },
	} {
		bad, k := *other, bytes.Clone(wrapping)
		bad.Wrapped = bytes.Clone(other.Wrapped)
		spoil(&bad, &k)
		if err := hsm.Restore(second.URI, hsm.Options{}, &bad, k); err == nil {
			t.Errorf("restored with %s", name)
		}
		if n := objects(t, second.URI); n != 0 {
			t.Fatalf("%s: %d objects are left on the token", name, n)
		}
	}
	check(t, hsm.Restore(second.URI, hsm.Options{}, w, wrapping))
}

func newSPKI(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	check(t, err)
	return spki
}

// objects counts what is on a token.
func objects(t *testing.T, uri hsm.URI) (n int) {
	t.Helper()
	behind(t, uri, func(s rawSession) {
		check(t, s.FindObjectsInit(s.h, nil))
		found, _, err := s.FindObjects(s.h, 100)
		check(t, errors.Join(err, s.FindObjectsFinal(s.h)))
		n = len(found)
	})
	return n
}

// asOfficer has the security officer log in once.
func asOfficer(t *testing.T, i softhsm.Instance) {
	t.Helper()
	behind(t, i.URI, func(s rawSession) {
		check(t, s.Logout(s.h))
		check(t, s.Login(s.h, pkcs11.CKU_SO, string(officer(t, i))))
	})
}

package hsm_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/hsm"
)

func TestParseURI(t *testing.T) {
	slot := uint(7)
	for _, test := range []struct {
		in, canonical string
		want          hsm.URI
	}{
		{"pkcs11:", "pkcs11:", hsm.URI{}},
		{"pkcs11:token=ca", "pkcs11:token=ca", hsm.URI{Token: "ca"}},
		{"pkcs11:object=k;token=The%20Token", "pkcs11:token=The%20Token;object=k", hsm.URI{Token: "The Token", Object: "k"}},
		{"pkcs11:serial=00ff;manufacturer=A,B;model=m", "pkcs11:manufacturer=A%2CB;serial=00ff;model=m", hsm.URI{Serial: "00ff", Manufacturer: "A,B", Model: "m"}},
		{"pkcs11:slot-id=007;id=%00%ff;type=private", "pkcs11:slot-id=7;id=%00%FF;type=private", hsm.URI{SlotID: &slot, ID: "\x00\xff", Type: "private"}},
		{"pkcs11:?module-name=softhsm2", "pkcs11:?module-name=softhsm2", hsm.URI{ModuleName: "softhsm2"}},
		{"pkcs11:token=a?module-path=/usr/lib/x.so&pin-source=file:/etc/p", "pkcs11:token=a?pin-source=file:/etc/p&module-path=/usr/lib/x.so",
			hsm.URI{Token: "a", PINSource: "file:/etc/p", ModulePath: "/usr/lib/x.so"}},
		{"pkcs11:?pin-source=/etc/p", "pkcs11:?pin-source=/etc/p", hsm.URI{PINSource: "/etc/p"}},
	} {
		got, err := hsm.ParseURI(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.in, got, test.want)
		}
		if got.String() != test.canonical {
			t.Errorf("%s: canonical form %s, want %s", test.in, got, test.canonical)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, test := range []struct{ in, attribute, problem string }{
		{"", "", "begin"},
		{"PKCS11:token=a", "", "begin"},
		{"file:/etc/passwd", "", "begin"},
		{"pkcs11:token", "", "without ="},
		{"pkcs11:token=a;", "", "without ="},
		{"pkcs11:token=a?", "", "without ="},
		{"pkcs11:token=", "token", "empty"},
		{"pkcs11:token=a;token=a", "token", "twice"},
		{"pkcs11:tokem=a", `"tokem"`, "not known before"},
		{"pkcs11:library-version=3", `"library-version"`, "not known"},
		{"pkcs11:pin-source=/p", `"pin-source"`, "not known before"},
		{"pkcs11:?token=a", `"token"`, "not known after"},
		{"pkcs11:?x-vendor=a", `"x-vendor"`, "not known after"},
		{"pkcs11:token=a%2", "token", "within"},
		{"pkcs11:token=a%zz", "token", "hexadecimal"},
		{"pkcs11:object=a%+1", "object", "hexadecimal"},
		{"pkcs11:token=a b", "token", "0x20"},
		{"pkcs11:token=a/b", "token", "0x2f"},
		{"pkcs11:token=a%00b", "token", "UTF-8"},
		{"pkcs11:token=%ff", "token", "UTF-8"},
		{"pkcs11:token=" + strings.Repeat("a", 33), "token", "33 bytes long, at most 32"},
		{"pkcs11:object=" + strings.Repeat("a", 4096), "", "at most 4096"},
		{"pkcs11:slot-id=-1", "slot-id", "decimal"},
		{"pkcs11:type=key", "type", "one of"},
		{"pkcs11:?module-path=libsofthsm2.so", "module-path", "absolute"},
		{"pkcs11:?module-path=/a.so&module-name=a", "module-name", "beside"},
		{"pkcs11:?pin-source=pin", "pin-source", "file:/path"},
		{"pkcs11:?pin-source=file:pin", "pin-source", "file:/path"},
		{"pkcs11:?pin-source=file://elsewhere/pin", "pin-source", "file:/path"},
		{"pkcs11:?pin-source=|/usr/bin/pin", "pin-source", "file:/path"},
	} {
		_, err := hsm.ParseURI(test.in)
		var e *hsm.URIError
		if !errors.As(err, &e) || e.Attribute != test.attribute || !strings.Contains(e.Problem, test.problem) {
			t.Errorf("%s: error %v, want one about %q that says %q", test.in, err, test.attribute, test.problem)
		}
	}
}

// A PIN that somebody wrote into a URI must not come back in the error.
func TestParseURINeverRepeatsPIN(t *testing.T) {
	for _, in := range []string{
		"pkcs11:token=a?pin-value=s3cret",
		"pkcs11:pin-value=s3cret",
		"pkcs11:token=a?s3cret",
		"pkcs11:token=a?pin-source=s3cret",
	} {
		_, err := hsm.ParseURI(in)
		var e *hsm.URIError
		if !errors.As(err, &e) {
			t.Errorf("%s: accepted, error %v", in, err)
			continue
		}
		if strings.Contains(e.Error()+e.Hint(), "s3cret") {
			t.Errorf("%s: error repeats the PIN: %v", in, e)
		}
	}
	if s := (hsm.URI{Token: "a", PINSource: "s3cret"}).String(); s != "pkcs11:token=a" {
		t.Errorf("a PIN in the wrong field is printed: %s", s)
	}
	_, err := hsm.ParseURI("pkcs11:token=a?pin-value=s3cret")
	var e *hsm.URIError
	if !errors.As(err, &e) || !strings.Contains(e.Hint(), "pin-source=file:") || !strings.Contains(e.Hint(), "systemd credential") {
		t.Errorf("pin-value: %v without a hint at pin-source", err)
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"pkcs11:", "pkcs11:token=a;object=b;id=%01?module-path=/m&pin-source=file:///p", "pkcs11:slot-id=18446744073709551615", "pkcs11:token=%C3%A9;type=cert?module-name=x|y",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := hsm.ParseURI(in)
		if err != nil {
			var e *hsm.URIError
			if !errors.As(err, &e) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		canonical := u.String()
		if len(canonical) > 4096 {
			return // escaping made it longer than the limit
		}
		again, err := hsm.ParseURI(canonical)
		if err != nil {
			t.Fatalf("%q: canonical form %q: %v", in, canonical, err)
		}
		if !reflect.DeepEqual(u, again) || again.String() != canonical {
			t.Fatalf("%q: %+v became %+v", in, u, again)
		}
	})
}

// Whatever a token calls itself, a URI can name it.
func FuzzTokenText(f *testing.F) {
	for _, seed := range []string{"", "CA", "CA   ", "CA\x00\x00", "t\xffken", "\x00\x00x", "\xc3", "a;b?c&d%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		label := hsm.Padded(text[:min(len(text), 32)])
		if len(label) > 32 {
			t.Fatalf("%q is longer than the field", label)
		}
		u, err := hsm.ParseURI(hsm.URI{Token: label}.String())
		if err != nil || u.Token != label {
			t.Fatalf("%q: comes back as %q: %v", label, u.Token, err)
		}
		data, err := json.Marshal(label)
		var back string
		if err != nil || json.Unmarshal(data, &back) != nil || back != label {
			t.Fatalf("%q: JSON makes it %q: %v", label, back, err)
		}
	})
}

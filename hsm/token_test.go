package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

func TestOpen(t *testing.T) {
	uri := hsmtest.New(t)
	token, err := hsm.Open(uri, hsm.Options{Sessions: 2})
	check(t, err)
	info := token.Info()
	if info.Label != hsmtest.Label || info.Serial != uri.Serial || info.Manufacturer != "SoftHSM project" || !info.Simulator || info.Sessions != 2 {
		t.Errorf("info %+v", info)
	}
	if info.Model == "" || info.Hardware == "" || info.Firmware == "" || info.Library == "" {
		t.Errorf("info has gaps: %+v", info)
	}
	if _, err := hsm.Open(uri, hsm.Options{}); !errors.Is(err, hsm.ErrModuleInUse) {
		t.Errorf("second open: error %v, want ErrModuleInUse", err)
	}
	if _, err := hsm.OpenCeremony(uri, hsm.Options{}); !errors.Is(err, hsm.ErrModuleInUse) {
		t.Errorf("ceremony beside an open token: error %v, want ErrModuleInUse", err)
	}
	check(t, token.Close())
	check(t, token.Close()) // has no further effect
	if _, err := token.Key("ca"); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("key of a closed token: error %v, want ErrClosed", err)
	}
	// The module is free again, by name as well as by path.
	uri.ModulePath, uri.ModuleName = "", "softhsm2"
	hsmtest.OpenURI(t, uri)
}

func TestOpenRefuses(t *testing.T) {
	i := hsmtest.Instance(t)
	uri := i.URI
	second, err := softhsm.New(filepath.Dir(i.Conf), "second")
	check(t, err)

	bogus := uint(12345)
	elsewhere, notModule, relative, nothing, unnamed := uri, uri, uri, uri, uri
	elsewhere.ModulePath = "/nonexistent/module.so"
	notModule.ModulePath = i.Conf
	relative.ModulePath = "libsofthsm2.so"
	nothing.ModulePath = ""
	unnamed.ModulePath, unnamed.ModuleName = "", "nosuchmodule"
	for _, bad := range []hsm.URI{elsewhere, notModule, relative, nothing, unnamed} {
		var e *hsm.URIError
		if _, err := hsm.Open(bad, hsm.Options{}); !errors.As(err, &e) || e.Hint() == "" && e.Problem != "is not an absolute path" {
			t.Errorf("%s: error %v, want *URIError with a hint", bad, err)
		}
	}

	for _, test := range []struct {
		uri     hsm.URI
		matches int
	}{
		{hsm.URI{Token: "other"}, 0},
		{hsm.URI{Serial: "0"}, 0},
		{hsm.URI{Token: "test", Serial: second.URI.Serial}, 0},
		{hsm.URI{Token: "test", Manufacturer: "Nobody"}, 0},
		{hsm.URI{Token: "test", Model: "None"}, 0},
		{hsm.URI{Token: "test", SlotID: &bogus}, 0},
		{hsm.URI{}, 2},
		{hsm.URI{Manufacturer: "SoftHSM project"}, 2},
	} {
		test.uri.ModulePath, test.uri.PINSource = uri.ModulePath, uri.PINSource
		_, err := hsm.Open(test.uri, hsm.Options{})
		var e *hsm.TokenError
		if !errors.As(err, &e) || e.Matches != test.matches {
			t.Errorf("%s: error %v, want %d matches", test.uri, err, test.matches)
			continue
		}
		for _, want := range []string{`"test"`, `"second"`, uri.Serial, second.URI.Serial} {
			if !strings.Contains(e.Error(), want) {
				t.Errorf("%s: error %v does not list %s", test.uri, e, want)
			}
		}
	}
	if _, err := hsm.Open(uri, hsm.Options{Sessions: -1}); err == nil {
		t.Error("open with -1 sessions succeeded")
	}
	// After all of this the module is free.
	hsmtest.OpenURI(t, second.URI)
}

func TestOpenTokenDirectoryEmpty(t *testing.T) {
	i := hsmtest.Instance(t)
	check(t, os.RemoveAll(filepath.Join(filepath.Dir(i.Conf), "tokens", onlyEntry(t, filepath.Join(filepath.Dir(i.Conf), "tokens")))))
	_, err := hsm.Open(i.URI, hsm.Options{})
	var e *hsm.TokenError
	if !errors.As(err, &e) || len(e.Seen) != 0 || !strings.Contains(e.Error(), "no tokens") {
		t.Errorf("error %v, want *TokenError that has seen none", err)
	}
}

// A wrong PIN costs one try, whatever the caller does next, and the right one
// is not tried either until a person has cleared the flag.
func TestWrongPINIsTriedOnce(t *testing.T) {
	i := hsmtest.Instance(t)
	right := i.URI
	wrong := right
	wrong.PINSource = filepath.Join(t.TempDir(), "pin")
	write(t, wrong.PINSource, "not the PIN\n", 0o600)

	logins := spy(t, &wrong.ModulePath)
	_, err := hsm.Open(wrong, hsm.Options{Sessions: 4})
	var e *hsm.PINError
	if !errors.As(err, &e) || e.Name != "CKR_PIN_INCORRECT" || e.Token != hsmtest.Label || e.Hint() == "" {
		t.Fatalf("error %v, want *PINError with CKR_PIN_INCORRECT", err)
	}
	if strings.Contains(e.Error()+e.Hint(), "not the PIN") {
		t.Errorf("error repeats the PIN: %v", e)
	}
	if n := logins(); n != 1 {
		t.Fatalf("%d logins, want 1", n)
	}
	right.ModulePath = wrong.ModulePath // the right PIN, still watched
	for range 3 {
		for what, call := range map[string]func(hsm.URI) error{
			"open":     func(u hsm.URI) error { _, err := hsm.Open(u, hsm.Options{}); return err },
			"ceremony": func(u hsm.URI) error { _, err := hsm.OpenCeremony(u, hsm.Options{}); return err },
		} {
			for _, uri := range []hsm.URI{wrong, right} {
				if err := call(uri); !errors.As(err, &e) || e.Name != "CKF_USER_PIN_COUNT_LOW" {
					t.Errorf("%s after a wrong PIN: error %v, want CKF_USER_PIN_COUNT_LOW", what, err)
				}
			}
		}
	}
	if n := logins(); n != 1 {
		t.Errorf("%d logins after further starts, want 1", n)
	}
	behind(t, i.URI, func(rawSession) {}) // the operator logs in
	token, err := hsm.Open(right, hsm.Options{Sessions: 4})
	check(t, err)
	check(t, token.Close())
	if n := logins(); n != 2 {
		t.Errorf("%d logins in all, want 2: one for all sessions", n)
	}
}

// The same for the ceremony, whose login is crypto11's.
func TestWrongPINInCeremony(t *testing.T) {
	uri := hsmtest.New(t)
	uri.PINSource = filepath.Join(t.TempDir(), "pin")
	write(t, uri.PINSource, "not the PIN\n", 0o600)
	logins := spy(t, &uri.ModulePath)
	var e *hsm.PINError
	if _, err := hsm.OpenCeremony(uri, hsm.Options{}); !errors.As(err, &e) || e.Name != "CKR_PIN_INCORRECT" {
		t.Errorf("error %v, want *PINError with CKR_PIN_INCORRECT", err)
	}
	if n := logins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// A PIN file that an editor ended with a line end holds the same PIN.
func TestPINWithNewline(t *testing.T) {
	uri := hsmtest.New(t)
	pin := userPIN(t, uri)
	for _, end := range []string{"\n", "\r\n"} {
		uri.PINSource = filepath.Join(t.TempDir(), "pin")
		write(t, uri.PINSource, pin+end, 0o600)
		token, err := hsm.Open(uri, hsm.Options{})
		check(t, err)
		check(t, token.Close())
	}
}

// spy puts OpenSC's call recorder before the module and returns a count of
// the C_Login calls so far.
func spy(t *testing.T, module *string) func() int {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so")
	check(t, err)
	if len(found) == 0 {
		t.Fatal("pkcs11-spy.so is not installed: install opensc (make deps-test)")
	}
	log := filepath.Join(t.TempDir(), "calls")
	t.Setenv("PKCS11SPY", *module)
	t.Setenv("PKCS11SPY_OUTPUT", log)
	*module = found[0]
	call := regexp.MustCompile(`(?m)^\d+: C_Login$`)
	return func() int {
		text, err := os.ReadFile(log)
		check(t, err)
		if !strings.Contains(string(text), "C_Initialize") {
			t.Fatal("the call recorder recorded nothing")
		}
		return len(call.FindAll(text, -1))
	}
}

func onlyEntry(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) != 1 {
		t.Fatalf("%s has %d entries, want 1", dir, len(entries))
	}
	return entries[0].Name()
}

func TestFindModules(t *testing.T) {
	module, err := softhsm.Locate()
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps)", err)
	}
	seen := map[string]int{}
	for _, path := range hsm.FindModules() {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		real, err := filepath.EvalSymlinks(path)
		check(t, err)
		seen[real]++
	}
	real, err := filepath.EvalSymlinks(module)
	check(t, err)
	if seen[real] != 1 {
		t.Errorf("SoftHSM listed %d times, want 1: %v", seen[real], seen)
	}
}

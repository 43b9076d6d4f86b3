package softhsm_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

func newToken(t *testing.T, dir, label string) softhsm.Instance {
	t.Helper()
	i, err := softhsm.New(dir, label)
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps)", err)
	}
	return i
}

func TestNew(t *testing.T) {
	t.Setenv("SOFTHSM2_CONF", "/nonexistent") // what New changes it puts back
	dir := filepath.Join(t.TempDir(), "a space", "new")
	i := newToken(t, dir, "trial")
	if got := os.Getenv("SOFTHSM2_CONF"); got != "/nonexistent" {
		t.Errorf("SOFTHSM2_CONF became %s", got)
	}
	if i.Env() != "SOFTHSM2_CONF="+filepath.Join(dir, "softhsm2.conf") {
		t.Errorf("environment %s", i.Env())
	}
	pins := map[string]bool{}
	for _, name := range []string{"pin", "so-pin"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		pin, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || len(pin) < 12 || pins[string(pin)] {
			t.Errorf("%s has mode %v and a PIN of %d bytes", name, info.Mode(), len(pin))
		}
		if strings.Contains(i.URI.String()+i.Env(), string(pin)) {
			t.Errorf("%s is in the uri", name)
		}
		pins[string(pin)] = true
	}

	// The URI in text is enough for a process that has the variable.
	if err := i.Setenv(); err != nil {
		t.Fatal(err)
	}
	uri, err := hsm.ParseURI(i.URI.String())
	if err != nil {
		t.Fatal(err)
	}
	ceremony, err := hsm.OpenCeremony(uri, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ceremony.Generate(hsm.URI{Object: "ca"}, false)
	if err := errors.Join(err, ceremony.Close()); err != nil {
		t.Fatal(err)
	}
	token, err := hsm.Open(uri, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	if info := token.Info(); info.Label != "trial" || !info.Simulator {
		t.Errorf("token %+v", info)
	}
	if _, err := token.Key("ca"); err != nil {
		t.Error(err)
	}
}

// Another process sees the token with the variable, and not without.
func TestEnv(t *testing.T) {
	i := newToken(t, t.TempDir(), "trial")
	list := func(env string) string {
		cmd := exec.Command("pkcs11-tool", "--module", i.URI.ModulePath, "--list-token-slots")
		cmd.Env = append(os.Environ(), env)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("pkcs11-tool: %v: %s: install opensc (make deps)", err, out)
		}
		return string(out)
	}
	if out := list(i.Env()); !strings.Contains(out, "trial") || !strings.Contains(out, i.URI.Serial) {
		t.Errorf("the token is not in %s", out)
	}
	other := newToken(t, t.TempDir(), "other")
	if out := list(other.Env()); strings.Contains(out, "trial") {
		t.Errorf("a token of another directory is in %s", out)
	}
}

func TestNewBeside(t *testing.T) {
	dir := t.TempDir()
	first, second := newToken(t, dir, "first"), newToken(t, dir, "second")
	if first.Conf != second.Conf || first.URI.PINSource != second.URI.PINSource || first.URI.Serial == second.URI.Serial {
		t.Errorf("%+v and %+v do not share a directory", first, second)
	}
	if _, err := softhsm.New(dir, "first"); err == nil || !strings.Contains(err.Error(), "label already") {
		t.Errorf("a label twice: error %v", err)
	}
	t.Setenv("SOFTHSM2_CONF", first.Conf)
	for _, i := range []softhsm.Instance{first, second} {
		token, err := hsm.Open(i.URI, hsm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if token.Info().Label != i.URI.Token {
			t.Errorf("opened %s, want %s", token.Info().Label, i.URI.Token)
		}
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct{ dir, label, says string }{
		"no label":     {t.TempDir(), "", "1 to 32"},
		"long label":   {t.TempDir(), strings.Repeat("x", 33), "1 to 32"},
		"broken label": {t.TempDir(), "\xff", "UTF-8"},
		"comment":      {filepath.Join(t.TempDir(), "a#b"), "x", "cannot name"},
		"line end":     {filepath.Join(t.TempDir(), "a\nlog.level = DEBUG"), "x", "cannot name"},
	} {
		if _, err := softhsm.New(test.dir, test.label); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.says)
		}
	}
}

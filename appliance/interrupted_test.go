package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// An init that was interrupted is completed by whoever does what the hints
// say, wherever it was: with some of the keys in the token, with half of one,
// or with some of the files written. (SoftHSM itself does not survive a kill
// in the middle of a write; a state is made by taking away from a whole one.)
func TestInitInterrupted(t *testing.T) {
	needSimulators(t)
	files := []string{"chancery.toml", "pointer", "tls.pem", "chancery.db"} // the last to be written first
	keys := []string{labelX509, labelApproval, labelNextCA, labelCA}
	type state struct {
		name           string
		files          int // how many of the files are missing
		private, whole int // of how many keys the private half, or both, are missing
	}
	states := []state{
		{"all but the configuration", 1, 0, 0}, {"before the pointer", 2, 0, 0}, {"before the TLS key", 3, 0, 0}, {"keys only", 4, 0, 0},
		{"half of the fourth key", 4, 1, 0}, {"three keys", 4, 1, 1}, {"half of the third key", 4, 2, 1}, {"half of the first key", 4, 4, 3},
		{"no key", 4, 4, 4},
	}
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			token, err := softhsm.New(filepath.Join(dir, "softhsm"), "fleet")
			if err != nil {
				t.Fatal(err)
			}
			address, err := freeAddress()
			if err != nil {
				t.Fatal(err)
			}
			o := &operator{t: t, token: token, coordinator: &coordinator{dir: filepath.Join(dir, "data"), env: []string{token.Env()}}}
			t.Cleanup(o.kill)
			init := []string{"init", "--hsm", token.URI.String(), "--url", "https://" + address, "--listen", address}
			if _, err := o.chancery(init...); err != nil {
				t.Fatal(err)
			}
			for _, f := range files[:s.files] {
				if err := os.Remove(filepath.Join(o.dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			for _, label := range keys[:s.private] {
				o.pkcs11Tool("--login", "--delete-object", "--type", "privkey", "--label", label)
			}
			for _, label := range keys[:s.whole] {
				o.pkcs11Tool("--login", "--delete-object", "--type", "pubkey", "--label", label)
			}
			o.follow(init)
			if err := errors.Join(o.start(), o.ready()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// An operator has a coordinator and a token, and does what hints say.
type operator struct {
	t     *testing.T
	token softhsm.Instance
	*coordinator
}

func (o *operator) pkcs11Tool(args ...string) {
	o.t.Helper()
	pin, err := os.ReadFile(strings.TrimPrefix(o.token.URI.PINSource, "file://"))
	if err != nil {
		o.t.Fatal(err)
	}
	cmd := exec.Command("pkcs11-tool", append([]string{"--module", o.token.URI.ModulePath, "--token-label", o.token.URI.Token, "--pin", string(pin)}, args...)...)
	cmd.Env = append(os.Environ(), o.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("pkcs11-tool: %v: %s: install opensc (make deps)", err, out)
	}
}

var (
	removal  = regexp.MustCompile(`remove (/\S+) and repeat`)
	deletion = regexp.MustCompile(`repeat: pkcs11-tool --module MODULE --token-label LABEL (--login --delete-object --type pubkey --label \S+)`)
)

// follow repeats a command and does what it says until it succeeds.
func (o *operator) follow(args []string) {
	o.t.Helper()
	var said []string
	for range 5 {
		_, err := o.chancery(args...)
		if err == nil {
			return
		}
		text := err.Error()
		said = append(said, text)
		remove, del := removal.FindStringSubmatch(text), deletion.FindStringSubmatch(text)
		switch {
		case strings.Contains(text, "repeat with --existing-keys"):
			args = append(args, "--existing-keys")
		case remove != nil:
			if err := os.Remove(remove[1]); err != nil {
				o.t.Fatal(err)
			}
		case del != nil:
			o.pkcs11Tool(strings.Fields(del[1])...)
		default:
			o.t.Fatalf("there is no way out of:\n%s", strings.Join(said, "\n"))
		}
	}
	o.t.Fatalf("the hints lead in circles:\n%s", strings.Join(said, "\n"))
}

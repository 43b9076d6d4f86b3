package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A published program is installed from its module, of that version, outside the
// repository.
type published struct {
	path    string // of the package
	version string
	tags    string
}

var (
	stepCA     = published{"github.com/smallstep/certificates/cmd/step-ca", "v0.30.2", "noyubikey"} // which needs a library of its own
	nebulaCert = published{"github.com/slackhq/nebula/cmd/nebula-cert", "v1.11.2", ""}              // the newest one for Go 1.26
)

func (p published) name() string { return filepath.Base(p.path) + " " + p.version }

// install installs the program, unless it is there, and returns its file.
func (p published) install() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "chancery-benchmarks", filepath.Base(p.path)+"@"+p.version)
	program := filepath.Join(dir, filepath.Base(p.path))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintf(os.Stderr, "installing %s ...\n", p.name())
	cmd := exec.Command("go", "install", "-tags", p.tags, p.path+"@"+p.version)
	cmd.Dir = os.TempDir() // no module's
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", p.name(), err, lastLine(out))
	}
	return program, nil
}

// buildPeer builds a program of a module in benchmarks/peers.
func buildPeer(dir, name string) (string, error) {
	program := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-C", filepath.Join("benchmarks", "peers", name), "-o", program, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, lastLine(out))
	}
	return program, nil
}

// lastLine is where the go command says what went wrong.
func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

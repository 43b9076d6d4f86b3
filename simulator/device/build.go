package device

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// source is the module in C. It has a directory to itself, because go build
// would take it for a part of this package.
//
//go:embed shim/device.c
var source string

var compilers = []string{"cc", "gcc", "clang"}

// A NoCompilerError is a machine without a C compiler.
type NoCompilerError struct{}

func (*NoCompilerError) Error() string {
	return "no C compiler (" + strings.Join(compilers, ", ") + ") is installed"
}

// Hint tells how to install one.
func (*NoCompilerError) Hint() string { return "install gcc: apt-get install gcc libc6-dev" }

func compiler() (string, error) {
	for _, name := range compilers {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", &NoCompilerError{}
}

// build compiles the module into dir, unless it is there: it is named after its
// source.
func build(dir string) (library string, err error) {
	sum := sha256.Sum256([]byte(source))
	library = filepath.Join(dir, "device-"+hex.EncodeToString(sum[:8])+".so")
	if _, err := os.Stat(library); err == nil {
		return library, nil
	}
	cc, err := compiler()
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, "build-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	from, to := filepath.Join(work, "device.c"), filepath.Join(work, "device.so")
	if err := os.WriteFile(from, []byte(source), 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command(cc, "-std=c11", "-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-o", to, from, "-ldl", "-lpthread")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	// Whoever else builds in this directory at the same time sees no half of it.
	return library, os.Rename(to, library)
}

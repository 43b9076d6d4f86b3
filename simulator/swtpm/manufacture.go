package swtpm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrName says that a name cannot be a TPM's: it becomes a directory and the
// subject of a certificate.
var ErrName = errors.New("swtpm: a name is 1 to 64 letters, digits, dots, dashes and underscores, and starts with a letter or digit")

// Manufacture makes a TPM in the new directory dir/name and returns that
// directory: SHA-256 PCR bank, endorsement keys for RSA-2048 and P-384, both
// certified, and a platform certificate. The manufacturer CA is kept in the
// directory ca and made there by the first call; see [Roots]. Calls may run
// at the same time. Nothing outside the two directories is written.
func Manufacture(dir, name, ca string) (string, error) {
	if !validName(name) {
		return "", fmt.Errorf("%w: %q", ErrName, name)
	}
	setup, err := find("swtpm_setup")
	if err != nil {
		return "", err
	}
	config, err := configure(ca)
	if err != nil {
		return "", err
	}
	state, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// Mkdir and not MkdirAll: a chip is manufactured once.
	if err := os.Mkdir(state, 0o700); err != nil {
		return "", err
	}
	out, err := exec.Command(setup, "--tpm2", "--tpmstate", state, "--config", config,
		"--create-ek-cert", "--create-platform-cert", "--lock-nvram",
		"--pcr-banks", "sha256", "--vmid", name, "--not-overwrite").CombinedOutput()
	if err != nil {
		os.RemoveAll(state)
		return "", fmt.Errorf("swtpm: swtpm_setup: %w\n%s", err, out)
	}
	return state, nil
}

// Roots returns the PEM files of the manufacturer CA kept in directory ca:
// its root and the intermediate that signs EK certificates. The chips carry
// no chain, so whoever verifies them needs both.
func Roots(ca string) []string {
	return []string{
		filepath.Join(ca, "swtpm-localca-rootca-cert.pem"),
		filepath.Join(ca, "issuercert.pem"),
	}
}

// configure writes the three configuration files of swtpm_setup into the CA's
// directory and returns the one to pass. Their contents follow from the path
// alone, and each is moved into place whole, so concurrent calls agree.
func configure(ca string) (string, error) {
	tool, err := find("swtpm_localca")
	if err != nil {
		return "", err
	}
	ca, err = filepath.Abs(ca)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(ca, 0o700); err != nil {
		return "", err
	}
	in := func(name string) string { return filepath.Join(ca, name) }
	files := map[string][]string{
		"localca.options": {
			"--platform-manufacturer Chancery",
			"--platform-version 1",
			"--platform-model simulator",
		},
		"localca.conf": {
			"statedir = " + ca,
			"signingkey = " + in("signkey.pem"),
			"issuercert = " + in("issuercert.pem"),
			"certserial = " + in("certserial"),
		},
		"setup.conf": {
			"create_certs_tool = " + tool,
			"create_certs_tool_config = " + in("localca.conf"),
			"create_certs_tool_options = " + in("localca.options"),
			"active_pcr_banks = sha256",
		},
	}
	for name, lines := range files {
		if err := place(in(name), strings.Join(lines, "\n")+"\n"); err != nil {
			return "", err
		}
	}
	return in("setup.conf"), nil
}

// place puts a file with this content at path, whole or not at all.
func place(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), path)
}

func validName(name string) bool {
	for i, c := range name {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", c)) {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 64
}

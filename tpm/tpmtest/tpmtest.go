// Package tpmtest gives a test a TPM of its own, as net/http/httptest gives it
// a server. Start with [New].
package tpmtest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
)

// A TPM is a running swtpm, fresh from the manufacturer whose certificates
// are [Roots]. Its methods Device, Restart and Kill are those of
// [swtpm.Process].
type TPM struct {
	*swtpm.Process
}

// New manufactures a TPM and powers it on until the test ends. A machine
// without swtpm fails the test.
func New(t testing.TB) *TPM {
	t.Helper()
	state, err := swtpm.Manufacture(t.TempDir(), "node", manufacturer(t))
	if err != nil {
		fatal(t, err)
	}
	p, err := swtpm.Start(state)
	if err != nil {
		fatal(t, err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("stop the TPM: %v", err)
		}
	})
	return &TPM{p}
}

// Open opens the TPM until the test ends. The test may close it before.
func (c *TPM) Open(t testing.TB) *tpm.TPM {
	t.Helper()
	chip, err := tpm.Open(c.Device())
	if err != nil {
		fatal(t, err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

// Roots returns the manufacturer's root and intermediate certificates.
func Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	for _, path := range swtpm.Roots(manufacturer(t)) {
		pem, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (manufacture a TPM first: New)", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			t.Fatalf("%s: no certificate", path)
		}
	}
	return pool
}

func fatal(t testing.TB, err error) {
	t.Helper()
	var advised interface{ Hint() string }
	if errors.As(err, &advised) {
		t.Fatalf("%v: %s", err, advised.Hint())
	}
	t.Fatal(err)
}

const caPrefix = "chancery-tpmtest-"

// makeCA makes the directory of the manufacturer CA that all TPMs of a test
// binary share, since a CA takes longer to make than a TPM. No hook tells when
// the last test of a binary has ended, so the directory's name carries the
// process, and the next binary removes those of ended ones.
var makeCA = sync.OnceValues(func() (string, error) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), caPrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), caPrefix), "-")
		pid, err := strconv.Atoi(number)
		if err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.RemoveAll(dir)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("%s%d-", caPrefix, os.Getpid()))
})

func manufacturer(t testing.TB) string {
	t.Helper()
	dir, err := makeCA()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

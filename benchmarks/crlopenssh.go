package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// crlOpenSSH compares a list with OpenSSH's key revocation list of as many
// certificates by serial number (PROTOCOL.krl), which is not signed. A program
// loads it for each certificate that it looks up.
func crlOpenSSH() (results []Result, err error) {
	const command = command + " crl-openssh"
	issued, revoked := uint64(1e7), uint64(sized(1e5, 1e4))
	what := fmt.Sprintf("%d revoked of %d", revoked, issued)
	l, c, indexes, err := scatteredList(issued, revoked)
	if err != nil {
		return nil, err
	}
	ours := c.Marshal()
	krl, err := newKRL(indexes)
	if err != nil {
		return []Result{absent("crl-openssh", err)}, nil
	}
	defer os.RemoveAll(krl.dir)
	var a, b []float64
	for range rounds {
		us, err := onThread(func() error {
			list, err := chancery.OpenCRL(l.pointer, nil, ours, l.now)
			if err == nil {
				err = list.Check(l.id, merkle.Serial(serialOf(0)), l.now, l.now)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		took, err := krl.check()
		if err != nil {
			return nil, err
		}
		a, b = append(a, us/1000), append(b, took)
	}
	ms, theirs := median(a), median(b)
	return []Result{
		Result{ID: "crl-openssh-load", What: "milliseconds of CPU to load and look up one certificate, " + what, Ours: ms, Beside: theirs, Peer: krl.version + ", ssh-keygen -Q without its start; it verifies nothing",
			Ratio: theirs / ms, Target: ">= 1", Met: theirs >= ms, Command: command}.of(a, b),
		{ID: "crl-openssh-bytes", What: "kilobytes of " + what, Ours: float64(len(ours)) / 1000, Beside: float64(krl.bytes) / 1000, Peer: krl.version + ", KRL",
			Ratio: float64(krl.bytes) / float64(len(ours)), Target: ">= 1", Met: krl.bytes >= len(ours), Command: command},
	}, nil
}

// A krl is a list and a certificate that is not in it; empty is a list of nobody.
type krl struct {
	dir, version string
	bytes        int
}

func newKRL(indexes []uint64) (k *krl, err error) {
	k = &krl{}
	if k.dir, err = os.MkdirTemp("", "benchmarks-krl-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(k.dir)
		}
	}()
	var spec bytes.Buffer
	for _, i := range indexes {
		fmt.Fprintf(&spec, "serial: %d\n", i+1)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(k.dir, "spec"), spec.Bytes(), 0o600), os.WriteFile(filepath.Join(k.dir, "none"), nil, 0o600)); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"-q", "-t", "ecdsa", "-N", "", "-f", "ca"},
		{"-q", "-t", "ecdsa", "-N", "", "-f", "node"},
		{"-q", "-s", "ca", "-I", "node", "-n", "node", "-z", "20000000", "node.pub"},
		{"-q", "-k", "-f", "krl", "-s", "ca.pub", "spec"},
		{"-q", "-k", "-f", "empty", "-s", "ca.pub", "none"},
	} {
		if err := k.run(args...); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(filepath.Join(k.dir, "krl"))
	if err != nil {
		return nil, err
	}
	k.bytes = int(info.Size())
	out, err := exec.Command("ssh", "-V").CombinedOutput()
	k.version, _, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	k.version = strings.TrimSuffix(k.version, ",")
	return k, err
}

func (k *krl) run(args ...string) error {
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Dir = k.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ssh-keygen: %w: %s", err, firstLine(out))
	}
	return nil
}

// check is how many milliseconds of CPU it takes to load the list and look one
// certificate up, beyond the same with the empty one.
func (k *krl) check() (float64, error) {
	var took [2]time.Duration
	for i, list := range []string{"krl", "empty"} {
		cmd := exec.Command("ssh-keygen", "-Q", "-f", list, "node-cert.pub")
		cmd.Dir = k.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("ssh-keygen -Q: %w: %s", err, firstLine(out))
		}
		took[i] = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	return milliseconds(took[0] - took[1]), nil
}

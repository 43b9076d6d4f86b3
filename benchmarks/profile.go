package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const profileVariable = "BENCHMARKS_PROFILE"

// buildProfiled builds the coordinator's program with testdata/profile.go in
// it: the program itself has no such thing.
func buildProfiled(dir string) (program string, err error) {
	var paths [2]string
	for i, path := range []string{"appliance/profile_benchmarks.go", "benchmarks/testdata/profile.go"} {
		if paths[i], err = filepath.Abs(path); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {paths[0]: paths[1]}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return "", err
	}
	return build(dir, "./appliance", "-overlay", overlay)
}

// profile returns what the coordinator's process spent its CPU time on while
// run ran, in parts of it. The coordinator was built by buildProfiled and
// started with the variable naming the file.
func (c *coordinator) profile(file string, run func() error) (map[string]float64, error) {
	signal := func() error { return syscall.Kill(c.process.PID(), syscall.SIGUSR1) }
	if err := signal(); err != nil {
		return nil, err
	}
	if err := run(); err != nil {
		return nil, err
	}
	if err := signal(); err != nil {
		return nil, err
	}
	if err := eventually(func() error { _, err := os.Stat(file); return err }); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "tool", "pprof", "-traces", c.program, file)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+filepath.Dir(file))
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	return classify(string(b))
}

// rooms are where time goes, by the functions that it is spent in or under. The
// function that is nearest to the leaf decides.
var rooms = []struct {
	name     string
	prefixes []string
}{
	{"signature checks", []string{"crypto/ecdsa.Verify", "crypto/rsa.Verify"}},
	{"JSON", []string{"encoding/json"}},
	{"TLS", []string{"crypto/tls", "crypto/internal/fips140/tls"}},
	{"HSM", []string{modulePath + "/hsm"}},
	{"store", []string{modulePath + "/appliance/store", "database/sql", "modernc.org/"}},
	{"attestation", []string{modulePath + "/appliance/evidence", modulePath + "/tpm", "github.com/google/go-tpm", "crypto/x509"}},
	{"ledger", []string{modulePath + "/appliance/ledger", modulePath + "/appliance/lint", modulePath + "/merkle"}},
	{"rules", []string{modulePath + "/appliance/authority", modulePath + "/appliance/policy"}},
	{"HTTP and network", []string{"net/http", "github.com/danielgtaylor/huma", modulePath + "/appliance/api", "net.", "internal/poll"}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge"}},
	{"scheduler", []string{"runtime.mcall", "runtime.schedule", "runtime.mstart", "runtime.findRunnable"}},
}

const (
	modulePath = "github.com/chancery-pki/chancery"
	elsewhere  = "everything else"
)

// classify reads the output of go tool pprof -traces: after a line of dashes
// the time and the function at the leaf, and then its callers, a line each.
func classify(traces string) (map[string]float64, error) {
	parts, sum := map[string]float64{}, 0.0
	var took time.Duration
	room := ""
	note := func() {
		if took > 0 {
			if room == "" {
				room = elsewhere
			}
			parts[room] += took.Seconds()
			sum += took.Seconds()
		}
		took, room = 0, ""
	}
	for line := range strings.Lines(traces) {
		if strings.HasPrefix(line, "---") {
			note()
			continue
		}
		fields := strings.Fields(line)
		if len(fields) > 1 && took == 0 {
			if d, err := time.ParseDuration(fields[0]); err == nil {
				took, fields = d, fields[1:]
			}
		}
		if took == 0 || room != "" || len(fields) == 0 {
			continue
		}
		for _, r := range rooms {
			for _, p := range r.prefixes {
				if room == "" && strings.HasPrefix(fields[0], p) {
					room = r.name
				}
			}
		}
	}
	note()
	if sum == 0 {
		return nil, fmt.Errorf("the profile is empty")
	}
	for name := range parts {
		parts[name] /= sum
	}
	return parts, nil
}

package state_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/tpm"
)

func open(t *testing.T) (*state.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir, path
}

func TestModes(t *testing.T) {
	dir, path := open(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	if err := dir.RaiseAlarm(state.CRLFork, []byte("held"), []byte("evidence")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(path, "crl.fork")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
}

func TestOpenToOthers(t *testing.T) {
	for _, mode := range []os.FileMode{0o701, 0o710, 0o704, 0o740, 0o702, 0o755, 0o777} {
		path := filepath.Join(t.TempDir(), "state")
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		for name, use := range map[string]func(string) (*state.Dir, error){"Open": state.Open, "Look": state.Look} {
			_, err := use(path)
			if refused, ok := errors.AsType[*state.PermissionError](err); !ok || !strings.Contains(refused.Hint(), "chmod 700") {
				t.Errorf("%s with mode %o: %v", name, mode, err)
			}
		}
		if files, _ := os.ReadDir(path); len(files) > 0 {
			t.Errorf("mode %o: files were made", mode)
		}
	}
}

func TestNotADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(path); err == nil {
		t.Error("a file was opened as a state directory")
	}
	if _, err := state.Open(filepath.Join(path, "..", "missing", "state")); err == nil {
		t.Error("parents were made")
	}
	if _, err := state.Look(path + "-missing"); !errors.Is(err, state.ErrNotEnrolled) {
		t.Errorf("missing: %v", err)
	}
}

// One process writes; others may look meanwhile.
func TestLock(t *testing.T) {
	dir, path := open(t)
	if _, err := state.Open(path); !errors.Is(err, state.ErrLocked) {
		t.Errorf("second: %v, want %v", err, state.ErrLocked)
	}
	beside, err := state.Look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	if err := beside.RaiseAlarm(state.PointerFork, nil, nil); err == nil {
		t.Error("who looks has written")
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := state.Open(path)
	if err != nil {
		t.Errorf("after the first was closed: %v", err)
	} else {
		again.Close()
	}
}

// A symbolic link in the directory does not lead out of it.
func TestLinksStayInside(t *testing.T) {
	dir, path := open(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"crl", "crl.fork.held.tmp", "crl.fork.tmp"} {
		if err := os.Symlink(outside, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := dir.CRL(); err == nil {
		t.Errorf("read %q from outside", b)
	}
	if err := dir.RaiseAlarm(state.CRLFork, []byte("held"), []byte("evidence")); err == nil {
		t.Error("wrote through a link")
	}
	if b, _ := os.ReadFile(outside); string(b) != "mine" {
		t.Errorf("outside is now %q", b)
	}
}

func TestNouns(t *testing.T) {
	dir, path := open(t)
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := f.Enroll(fleet.Request{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	nc, trust := nodes[0].NC, f.Trust()

	if _, err := dir.Certificate(); !errors.Is(err, state.ErrNotEnrolled) || dir.Enrolled() {
		t.Errorf("empty: %v", err)
	}
	for name, missing := range map[string]func() error{
		"pointer":    func() error { _, err := dir.Pointer(); return err },
		"node.key":   func() error { _, err := dir.Key(); return err },
		"crl":        func() error { _, err := dir.CRL(); return err },
		"agent.toml": func() error { _, err := dir.Config(); return err },
		"intake":     func() error { _, err := dir.Intake(); return err },
	} {
		if err := missing(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}

	config := &state.Config{Name: "edge-1", Fleet: f.ID().Pin(), TPM: "/dev/tpmrm0", PCRs: []int{0, 7}, Listen: ":7443"}
	ns := &chancery.NS{Fleet: f.ID(), NodeKey: nc.NodeKey, CANSHash: nc.NS.CANSHash, Created: nc.NS.Created, Name: nc.Name, Signature: nc.NS.Signature}
	intake := &state.Intake{Fleet: f.ID().Pin(), ID: "00", NS: ns.Marshal(), PCRs: []int{7}, TPM: "x", Opened: time.Unix(1, 0).UTC()}
	err = errors.Join(dir.SavePointer(trust.Pointer), dir.SaveCRL(trust.CRL), dir.SaveConfig(config), dir.SaveIntake(intake), dir.SaveCertificate(nc))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := dir.Pointer(); err != nil || p.Hash() != trust.Pointer.Hash() {
		t.Errorf("pointer: %v", err)
	}
	if b, err := dir.CRL(); err != nil || string(b) != string(trust.CRL.Marshal()) {
		t.Errorf("CRL: %v", err)
	}
	if c, err := dir.Certificate(); err != nil || string(c.Raw()) != string(nc.Raw()) || !dir.Enrolled() {
		t.Errorf("N:C: %v", err)
	}
	if c, err := dir.Config(); err != nil || !reflect.DeepEqual(c, config) {
		t.Errorf("configuration: %+v, %v", c, err)
	}
	if i, err := dir.Intake(); err != nil || !reflect.DeepEqual(i, intake) {
		t.Errorf("intake: %+v, %v", i, err)
	}
	if err := errors.Join(dir.RemoveIntake(), dir.RemoveIntake()); err != nil {
		t.Error(err)
	}

	// Whatever is not what was written is an error that names the file.
	for _, name := range []string{"pointer", "node.key", "nc.der", "agent.toml", "intake.json"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, read := range map[string]func() error{
		"pointer":     func() error { _, err := dir.Pointer(); return err },
		"node.key":    func() error { _, err := dir.Key(); return err },
		"nc.der":      func() error { _, err := dir.Certificate(); return err },
		"agent.toml":  func() error { _, err := dir.Config(); return err },
		"intake.json": func() error { _, err := dir.Intake(); return err },
	} {
		if err := read(); err == nil || !strings.Contains(err.Error(), filepath.Join(path, name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := dir.Key(); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("key: %v", err)
	}
}

// What a crash leaves in the middle of a write is not read, and does not
// disturb the next one.
func TestLeftOver(t *testing.T) {
	dir, path := open(t)
	if err := os.WriteFile(filepath.Join(path, "addresses.json.tmp"), []byte(strings.Repeat("half", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := dir.Address("edge-2"); a != "" {
		t.Errorf("address %q", a)
	}
	if err := dir.SaveAddress("edge-2", "10.0.0.2:7443"); err != nil {
		t.Fatal(err)
	}
	if a := dir.Address("edge-2"); a != "10.0.0.2:7443" {
		t.Errorf("address %q", a)
	}
}

// The hints are bounded: a coordinator cannot fill the disk with names.
func TestAddressesAreBounded(t *testing.T) {
	dir, path := open(t)
	b := strings.Builder{}
	for i := range 1024 {
		fmt.Fprintf(&b, `,"n%d":"a"`, i)
	}
	if err := os.WriteFile(filepath.Join(path, "addresses.json"), []byte("{"+b.String()[1:]+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dir.SaveAddress("edge-2", "x:1"); err != nil {
		t.Fatal(err)
	}
	if dir.Address("edge-2") != "x:1" || dir.Address("n1") != "" {
		t.Error("the file grows")
	}
}

// The first contradiction is the one that is kept, with what it contradicts,
// until it is cleared.
func TestAlarm(t *testing.T) {
	dir, path := open(t)
	if a := dir.Alarms(); len(a) > 0 {
		t.Errorf("alarms %v", a)
	}
	raise := func(held, other string) {
		t.Helper()
		if err := dir.RaiseAlarm(state.CRLFork, []byte(held), []byte(other)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(held, other string) {
		t.Helper()
		if a := dir.Alarms(); len(a) != 1 || a[0] != state.CRLFork {
			t.Errorf("alarms %v", a)
		}
		if h, o, err := dir.Evidence(state.CRLFork); err != nil || string(h) != held || string(o) != other {
			t.Errorf("kept %q and %q, %v", h, o, err)
		}
	}
	raise("held", "first")
	raise("held later", "second")
	want("held", "first")
	if beside, err := state.Look(path); err != nil {
		t.Fatal(err)
	} else if err := errors.Join(beside.ClearAlarm(state.CRLFork)); err == nil {
		t.Error("who looks has cleared it")
	}
	want("held", "first")

	// What is held is there before the alarm stands, and may be tidied up.
	if err := os.Remove(filepath.Join(path, "crl.fork.held")); err != nil {
		t.Fatal(err)
	}
	want("", "first")
	for range 2 {
		if err := dir.ClearAlarm(state.CRLFork); err != nil || len(dir.Alarms()) > 0 {
			t.Errorf("cleared: %v, %v", dir.Alarms(), err)
		}
	}
	raise("held later", "second")
	want("held later", "second")
}

func TestConfigIsStrict(t *testing.T) {
	_, path := open(t)
	pin := chancery.FleetID{1}.Pin()
	good := "name = 'edge-1'\nfleet = '" + pin + "'\ntpm = '/dev/tpmrm0'\npcrs = [7]\n"
	for _, test := range []struct {
		name, text string
		ok         bool
	}{
		{"good", good, true},
		{"unknown key", good + "lisen = ':1'\n", false},
		{"no name", strings.Replace(good, "name", "#", 1), false},
		{"bad name", strings.Replace(good, "edge-1", "Edge 1", 1), false},
		{"bad pin", strings.Replace(good, pin, "chpin1-x", 1), false},
		{"a grace", good + "crl_grace = '24h'\n", true},
		{"a grace that is too long", good + "crl_grace = '24h1s'\n", false},
		{"a grace that is negative", good + "crl_grace = '-1s'\n", false},
		{"a grace that is none", good + "crl_grace = 'long'\n", false},
		{"wrong type", strings.Replace(good, "[7]", "7", 1), false},
	} {
		if err := os.WriteFile(filepath.Join(path, "agent.toml"), []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		dir, err := state.Look(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := dir.Config()
		dir.Close()
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.ok && c.Listen != state.DefaultListen {
			t.Errorf("listen %q", c.Listen)
		}
	}
}

// What a node asks of its peers' witnesses is clear before it meets any.
func TestPolicy(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := merkle.ParseTrustAnchorID("32473.9")
	if err != nil {
		t.Fatal(err)
	}
	cosigner, err := tlog.NewCosignerKey(id, &private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := tlog.NewWitnessKey("witness.example/w1", make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		config state.Config
		quorum int // -1 is an error
	}{
		{"none", state.Config{}, 0},
		{"one", state.Config{Witnesses: []string{cosigner.String()}}, 1},
		{"one, in so many words", state.Config{Witnesses: []string{cosigner.String()}, Quorum: 1}, 1},
		{"two of one", state.Config{Witnesses: []string{cosigner.String()}, Quorum: 2}, -1},
		{"fewer than none", state.Config{Quorum: -1}, -1},
		{"a key for checkpoints", state.Config{Witnesses: []string{plain.String()}}, -1},
		{"no key", state.Config{Witnesses: []string{"x"}}, -1},
	} {
		p, err := test.config.Policy()
		if (err != nil) != (test.quorum < 0) || err == nil && (p.Quorum != test.quorum || len(p.Witnesses) != len(test.config.Witnesses)) {
			t.Errorf("%s: %+v, %v", test.name, p, err)
		}
	}
}

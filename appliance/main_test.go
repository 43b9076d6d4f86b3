package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/softhsm"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// The tests of this package are of the program, from outside. The test binary
// is chancery itself when it is called so; it is in PATH under that name.
func TestMain(m *testing.M) {
	hsm.SignerProcess() // the test binary is chancery, and so a signer process too
	secondopinion.Process()
	testscript.Main(suite{m}, map[string]func(){"chancery": main})
}

// A suite is the run of all tests.
type suite struct{ *testing.M }

// Run removes what the tests have built together.
func (s suite) Run() int {
	// With -race chancery is instrumented too: it ends at a race, and not a
	// second late otherwise.
	os.Setenv("GORACE", "halt_on_error=1 atexit_sleep_ms=0")
	defer func() { os.RemoveAll(builtIn) }()
	return s.M.Run()
}

// builtIn is the directory that build made, if it was called.
var builtIn string

// build builds both programs as they are shipped, once, and returns the
// directory that they are in.
var build = sync.OnceValues(func() (dir string, err error) {
	if builtIn, err = os.MkdirTemp("", "chancery-test-programs-"); err != nil {
		return "", err
	}
	for program, pkg := range map[string]string{"chancery": ".", "chancery-agent": "../agent"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(builtIn, program), pkg)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return builtIn, nil
})

// needSimulators fails a test on a machine without SoftHSM and swtpm.
func needSimulators(t *testing.T) {
	t.Helper()
	_, err := softhsm.Locate()
	if err = errors.Join(err, swtpm.Locate()); err != nil {
		t.Fatalf("%v: install softhsm2, swtpm and swtpm-tools (make deps)", err)
	}
}

// freeAddress returns a loopback address that nobody listens on, and that no
// other test was given: the kernel gives a port again before its turn to be
// used has come.
func freeAddress() (string, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer l.Close()
		if _, taken := given.LoadOrStore(l.Addr().String(), true); !taken {
			return l.Addr().String(), nil
		}
	}
}

var given sync.Map // addresses

// ask is app.call for tests.
func ask(dir, method, path string, in, out any) error {
	a := &app{data: dataDir(dir)}
	return a.call(context.Background(), method, path, in, out)
}

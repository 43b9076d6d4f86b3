package p11kit_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/internal/p11"
	"github.com/chancery-pki/chancery/simulator/p11kit"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

const gone = pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)

// dyingVariable makes this program start a server of its own in the directory
// that it holds, connect to it, tell the server's processes and wait for its
// own end. The value after the directory, 1 or 0, says whether the server is
// suspended then.
const dyingVariable = "P11KIT_TEST_DYING"

func TestMain(m *testing.M) {
	value := os.Getenv(dyingVariable)
	if value == "" {
		os.Exit(m.Run())
	}
	if err := dying(value[1:], value[0] == '1'); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func dying(dir string, suspended bool) error {
	i, err := softhsm.New(dir, "behind")
	if err != nil {
		return err
	}
	s, err := p11kit.New(dir, i.URI, map[string]string{"SOFTHSM2_CONF": i.Conf})
	if err != nil {
		return err
	}
	for name, value := range s.Env() {
		os.Setenv(name, value)
	}
	if _, err := load(s.URI); err != nil {
		return err
	}
	if suspended {
		if err := s.Suspend(); err != nil {
			return err
		}
	}
	pids, err := s.Processes()
	if err != nil {
		return err
	}
	fmt.Println(pids)
	time.Sleep(time.Minute)
	return errors.New("nobody killed this process")
}

// A module is the client. It can be initialised more than once.
type module struct{ *p11.Module }

func load(uri hsm.URI) (module, error) {
	m := module{&p11.Module{Ctx: pkcs11.New(uri.ModulePath)}}
	return m, m.connect(uri)
}

func (m module) connect(uri hsm.URI) error {
	if err := m.Initialize(); err != nil {
		return err
	}
	slots, err := m.GetSlotList(true)
	if err != nil {
		return err
	}
	// The server shows the one token that it was started for.
	if len(slots) != 1 {
		return fmt.Errorf("%d slots, want 1", len(slots))
	}
	info, err := m.GetTokenInfo(slots[0])
	if err != nil {
		return err
	}
	if info.Label != uri.Token || info.SerialNumber != uri.Serial {
		return fmt.Errorf("token %q with serial number %s, want %q with %s", info.Label, info.SerialNumber, uri.Token, uri.Serial)
	}
	if err := m.Open(slots[0]); err != nil {
		return err
	}
	pin, err := p11.PIN(uri)
	if err != nil {
		return err
	}
	return m.Login(m.Session, pkcs11.CKU_USER, pin)
}

func (m module) generate(label string) error {
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}
	_, _, err := m.GenerateKeyPair(m.Session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
	return err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newServer starts a server for a fresh SoftHSM token.
func newServer(t *testing.T) *p11kit.Server {
	t.Helper()
	i, err := softhsm.New(t.TempDir(), "behind")
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps-test)", err)
	}
	s, err := p11kit.New(filepath.Join(t.TempDir(), "a space"), i.URI, map[string]string{"SOFTHSM2_CONF": i.Conf})
	if err != nil {
		t.Fatalf("%v: install p11-kit p11-kit-modules (make deps-test)", err)
	}
	t.Cleanup(func() { check(t, s.Stop()) })
	t.Setenv("SOFTHSM2_CONF", "/nonexistent") // the client does without
	for name, value := range s.Env() {
		t.Setenv(name, value)
	}
	return s
}

// connect loads the client and makes a key.
func connect(t *testing.T, s *p11kit.Server) module {
	t.Helper()
	uri, err := hsm.ParseURI(s.URI.String())
	check(t, err)
	m, err := load(uri)
	check(t, err)
	check(t, m.generate("ca"))
	check(t, m.SignAndVerify("ca"))
	return m
}

// A key is on the token behind, and so outlives client and server.
func TestServer(t *testing.T) {
	s := newServer(t)
	m := connect(t, s)
	pids, err := s.Processes()
	if err != nil || len(pids) != 2 {
		t.Errorf("with one connection the server is processes %v, want 2: %v", pids, err)
	}
	check(t, m.Finalize())
	check(t, m.connect(s.URI))
	check(t, m.SignAndVerify("ca"))
	check(t, m.Finalize())
	m.Destroy()

	check(t, s.Restart())
	m, err = load(s.URI)
	check(t, err)
	check(t, m.SignAndVerify("ca"))
	check(t, m.Finalize())
	m.Destroy()
}

func TestKill(t *testing.T) {
	s := newServer(t)
	env := fmt.Sprint(s.Env())
	m := connect(t, s)
	defer m.Destroy()
	private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
	check(t, err)

	s.Kill()
	if pids, err := s.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("Kill left processes %v: %v", pids, err)
	}
	if _, err := m.SignDigest(private, make([]byte, 32)); err != gone {
		t.Errorf("signature without server: %v, want %v", err, gone)
	}
	check(t, s.Restart())
	if got := fmt.Sprint(s.Env()); got != env {
		t.Errorf("a restarted server has %s, want %s", got, env)
	}
	if _, err := m.SignDigest(private, make([]byte, 32)); err != gone {
		t.Errorf("signature after a restart: %v, want %v still", err, gone)
	}
	m.Finalize()
	check(t, m.connect(s.URI))
	check(t, m.SignAndVerify("ca"))
	check(t, m.Finalize())
}

// A call to a suspended server returns when it goes on, or is killed.
func TestSuspend(t *testing.T) {
	s := newServer(t)
	m := connect(t, s)
	defer m.Destroy()
	private, err := m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
	check(t, err)
	for name, test := range map[string]struct {
		end  func() error
		want error
	}{
		"resume": {s.Resume, nil},
		"kill":   {func() error { s.Kill(); return nil }, gone},
	} {
		check(t, s.Suspend())
		result := make(chan error, 1)
		go func() {
			_, err := m.SignDigest(private, make([]byte, 32))
			result <- err
		}()
		select {
		case err := <-result:
			t.Fatalf("%s: a suspended server answered: %v", name, err)
		case <-time.After(300 * time.Millisecond):
		}
		check(t, test.end())
		if err := <-result; err != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		m.Finalize()
		check(t, s.Restart())
		check(t, m.connect(s.URI))
		private, err = m.Find(pkcs11.CKO_PRIVATE_KEY, "ca")
		check(t, err)
	}
	check(t, m.Finalize())
}

// A suspended server can be restarted and stopped; one that does not run can
// be neither suspended nor resumed.
func TestStop(t *testing.T) {
	s := newServer(t)
	check(t, s.Suspend())
	check(t, s.Restart())
	m := connect(t, s)
	check(t, m.Finalize())
	m.Destroy()
	check(t, s.Suspend())
	socket := strings.TrimPrefix(s.Env()["P11_KIT_SERVER_ADDRESS"], "unix:path=")
	check(t, s.Stop())
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stop left %s behind", filepath.Dir(socket))
	}
	if pids, err := s.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("Stop left processes %v: %v", pids, err)
	}
	for name, f := range map[string]func() error{"suspend": s.Suspend, "resume": s.Resume, "restart": s.Restart} {
		if err := f(); err == nil {
			t.Errorf("%s of a stopped server is no error", name)
		}
	}
	check(t, s.Stop())
}

// Nothing of a server outlives its owner, killed without warning, not even
// processes that stand still.
func TestOrphans(t *testing.T) {
	newServer(t) // fails if there is none to be had
	for _, suspended := range []string{"0", "1"} {
		cmd := exec.Command(os.Args[0])
		// It will not be asked to clean up.
		cmd.Env = append(os.Environ(), dyingVariable+"="+suspended+t.TempDir(), "TMPDIR="+t.TempDir())
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			cmd.Wait()
			t.Fatal(err)
		}
		var pids []int
		for _, field := range strings.Fields(strings.Trim(line, "[]\n")) {
			var pid int
			_, err := fmt.Sscan(field, &pid)
			check(t, err)
			pids = append(pids, pid)
		}
		if len(pids) != 2 {
			t.Errorf("the server is processes %q, want 2", line)
		}
		check(t, cmd.Process.Signal(syscall.SIGKILL))
		cmd.Wait()
		deadline := time.Now().Add(5 * time.Second)
		for _, pid := range pids {
			for lives(pid) {
				if time.Now().After(deadline) {
					t.Fatalf("suspended %s: process %d of %v outlives its owner", suspended, pid, pids)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
}

func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestNewRefuses(t *testing.T) {
	i, err := softhsm.New(t.TempDir(), "behind")
	if err != nil {
		t.Fatalf("%v: install softhsm2 (make deps-test)", err)
	}
	for name, test := range map[string]struct {
		dir  string
		uri  hsm.URI
		says string
	}{
		"no module":  {t.TempDir(), hsm.URI{Token: "behind"}, "module-path"},
		"parameters": {t.TempDir(), hsm.URI{ModulePath: i.URI.ModulePath, InitReserved: "x"}, "x-init-reserved"},
		"file":       {"p11kit_test.go", i.URI, "not a directory"},
	} {
		if _, err := p11kit.New(test.dir, test.uri, nil); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.says)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := p11kit.New(t.TempDir(), hsm.URI{}, nil)
	var missing *p11kit.NotInstalledError
	if !errors.As(err, &missing) || missing.Hint() != "install p11-kit: apt-get install p11-kit" {
		t.Errorf("New without p11-kit: %v", err)
	}
}

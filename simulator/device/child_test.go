package device_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// The test binary is also the program that crashes, hangs and is killed.
const childVariable = "DEVICE_TEST_CHILD"

// buildDir is where the tests make their devices, to compile the module once.
var buildDir string

func TestMain(m *testing.M) {
	if role := os.Getenv(childVariable); role != "" {
		if err := child(role); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "device-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is reports whether the error is the CK_RV.
func is(err error, code uint) bool { return errors.Is(err, pkcs11.Error(code)) }

const tokenLabel, keyLabel = "device", "ca"

// newDevice makes a fresh token with a key, behind a device of the model, and
// sets the environment of this process and its children.
func newDevice(t *testing.T, m device.Model) *device.Device {
	t.Helper()
	d, err := device.New(buildDir, newToken(t), m)
	check(t, err)
	t.Cleanup(func() { check(t, d.Close()) })
	for name, value := range d.Env() {
		t.Setenv(name, value)
	}
	return d
}

// newToken returns the module with the token. Its key is made without a device,
// so that counts and limits begin with the test.
func newToken(t *testing.T) string {
	t.Helper()
	i, err := softhsm.New(t.TempDir(), tokenLabel)
	var missing *softhsm.NotInstalledError
	if errors.As(err, &missing) {
		t.Fatalf("%v: install softhsm2 (make deps)", err)
	}
	check(t, err)
	t.Setenv("SOFTHSM2_CONF", i.Conf)
	p, err := load(i.URI.ModulePath)
	check(t, err)
	defer p.unload()
	h, err := p.login()
	check(t, err)
	p256, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	check(t, err)
	_, _, err = p.GenerateKeyPair(h, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, keyLabel),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256),
		},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, keyLabel),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		})
	check(t, err)
	return i.URI.ModulePath
}

// program is what the tests and their children do with a module. It does no
// more than it is told: each call is one of PKCS#11.
type program struct {
	*pkcs11.Ctx
	slot uint
}

func load(module string) (*program, error) {
	p := &program{Ctx: pkcs11.New(module)}
	if p.Ctx == nil {
		return nil, fmt.Errorf("cannot load %s", module)
	}
	if err := p.Initialize(); err != nil {
		p.Destroy()
		return nil, fmt.Errorf("C_Initialize: %w", err)
	}
	var err error
	if p.slot, err = p.findSlot(); err != nil {
		p.unload()
	}
	return p, err
}

// newProgram opens the device until the test ends, or until unload.
func newProgram(t *testing.T, d *device.Device) *program {
	t.Helper()
	p, err := load(d.Module())
	check(t, err)
	t.Cleanup(p.unload)
	return p
}

// unload may be called again. PKCS#11 has one program with a module at a time.
func (p *program) unload() {
	if p.Ctx != nil {
		p.Finalize()
		p.Destroy()
		p.Ctx = nil
	}
}

func (p *program) findSlot() (uint, error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	for _, slot := range slots {
		if info, err := p.GetTokenInfo(slot); err != nil {
			return 0, err
		} else if info.Label == tokenLabel {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("no token %s", tokenLabel)
}

func (p *program) session() (pkcs11.SessionHandle, error) {
	return p.OpenSession(p.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
}

func (p *program) sessions(n int) error {
	for range n {
		if _, err := p.session(); err != nil {
			return err
		}
	}
	return nil
}

// login opens a session and logs in.
func (p *program) login() (pkcs11.SessionHandle, error) {
	h, err := p.session()
	if err != nil {
		return 0, err
	}
	pin, err := os.ReadFile(filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "pin"))
	if err != nil {
		return 0, err
	}
	return h, p.Login(h, pkcs11.CKU_USER, string(pin))
}

func (p *program) find(h pkcs11.SessionHandle, class uint) (pkcs11.ObjectHandle, error) {
	if err := p.FindObjectsInit(h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, keyLabel),
	}); err != nil {
		return 0, err
	}
	found, _, err := p.FindObjects(h, 2)
	if e := p.FindObjectsFinal(h); err == nil {
		err = e
	}
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d keys", len(found))
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// signer is a session with the key.
type signer struct {
	*program
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
}

func (p *program) signer() (*signer, error) {
	h, err := p.login()
	if err != nil {
		return nil, err
	}
	key, err := p.find(h, pkcs11.CKO_PRIVATE_KEY)
	return &signer{p, h, key}, err
}

// newSigner opens the device until the test ends.
func newSigner(t *testing.T, d *device.Device) *signer {
	t.Helper()
	s, err := newProgram(t, d).signer()
	check(t, err)
	return s
}

// beside is the same key in a further session.
func (s *signer) beside(t *testing.T) *signer {
	t.Helper()
	h, err := s.program.session()
	check(t, err)
	return &signer{s.program, h, s.key}
}

var digest = sha256.Sum256([]byte("digest"))

func (s *signer) sign() ([]byte, error) {
	if err := s.SignInit(s.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, s.key); err != nil {
		return nil, fmt.Errorf("C_SignInit: %w", err)
	}
	return s.Sign(s.session, digest[:])
}

// verifies reports whether r || s is a signature of the key, as crypto/ecdsa
// sees it.
func (s *signer) verifies(t *testing.T, sig []byte) bool {
	t.Helper()
	object, err := s.find(s.session, pkcs11.CKO_PUBLIC_KEY)
	check(t, err)
	a, err := s.GetAttributeValue(s.session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	check(t, err)
	var point []byte // in an OCTET STRING
	_, err = asn1.Unmarshal(a[0].Value, &point)
	check(t, err)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	check(t, err)
	half := len(sig) / 2
	return len(sig) == 64 && ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
}

// child is a process that uses the device. It says "ready", waits for a line,
// does its work and says "done".
//
//	sign N   makes N signatures
//	hold N   opens N sessions before it is ready
//	open N   opens N sessions
func child(role string) error {
	verb, number, _ := strings.Cut(role, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	p, err := load(os.Getenv("DEVICE_TEST_LIBRARY"))
	if err != nil {
		return err
	}
	work := func() error { return nil }
	switch verb {
	case "sign":
		s, err := p.signer()
		if err != nil {
			return err
		}
		work = func() error {
			for range n {
				if _, err := s.sign(); err != nil {
					return err
				}
			}
			return nil
		}
	case "open":
		work = func() error { return p.sessions(n) }
	case "hold":
		if err := p.sessions(n); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no child %q", verb)
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

// process is a running child.
type process struct {
	*exec.Cmd
	in     io.Writer
	out    *bufio.Reader
	stderr bytes.Buffer // to be read after Wait
}

// start runs a child until it is ready.
func start(t *testing.T, d *device.Device, role string) *process {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	p := &process{Cmd: exec.CommandContext(t.Context(), self)}
	p.Env = append(os.Environ(), childVariable+"="+role, "DEVICE_TEST_LIBRARY="+d.Module())
	p.Stderr = &p.stderr
	p.in, err = p.StdinPipe()
	check(t, err)
	out, err := p.StdoutPipe()
	check(t, err)
	p.out = bufio.NewReader(out)
	check(t, p.Start())
	t.Cleanup(func() {
		if p.ProcessState == nil {
			p.kill(t)
		}
	})
	p.says(t, "ready")
	return p
}

func (p *process) says(t *testing.T, want string) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil || line != want+"\n" {
		p.Process.Kill()
		p.Wait()
		t.Fatalf("the child says %q, not %q: %v: %s", line, want, err, p.stderr.String())
	}
}

// work has the child begin its work.
func (p *process) work(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(p.in, "\n")
	check(t, err)
}

// kill is kill -9.
func (p *process) kill(t *testing.T) {
	t.Helper()
	check(t, p.Process.Kill())
	p.Wait() // that it was killed is no news
}

package eventlog_test

import (
	"crypto/sha256"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

// PCR 0 starts where a chip that was started the same way has it start.
func TestStartupAgreesWithChip(t *testing.T) {
	const code = "what hardware measures first"
	log := eventlogtest.NewBuilder
	hardware := func(b *eventlogtest.Builder) *eventlogtest.Builder {
		return b.AddDigest(0, eventlog.EFIHCRTMEvent, sha256.Sum256([]byte(code)), []byte("HCRTM"))
	}
	for name, c := range map[string]struct {
		before []string // what is done to the chip before TPM2_Startup: options of swtpm_ioctl
		log    *eventlogtest.Builder
	}{
		"not told":               {nil, log()},
		"locality 0":             {nil, log().StartupLocality(0)},
		"locality 3":             {[]string{"-l3"}, log().StartupLocality(3)},
		"H-CRTM":                 {[]string{"-h" + code}, hardware(log())},
		"H-CRTM, locality 4":     {[]string{"-h" + code}, hardware(log().StartupLocality(4))},
		"H-CRTM, locality 3":     {[]string{"-l3", "-h" + code}, hardware(log().StartupLocality(3))},
		"H-CRTM of another type": {[]string{"-h" + code}, log().StartupLocality(4).Add(0, eventlog.SCRTMContents, []byte(code))},
	} {
		t.Run(name, func(t *testing.T) {
			chip := start(t, c.before)
			version := sha256.Sum256([]byte("version"))
			if err := chip.ExtendPCR(0, version); err != nil {
				t.Fatal(err)
			}
			values, err := chip.PCRValues([]int{0, 1, 16, 17, 18, 19, 20, 21, 22, 23})
			if err != nil {
				t.Fatal(err)
			}
			l := parse(t, c.log.Add(0, eventlog.SCRTMVersion, []byte("version")).Bytes())
			if err := l.Verify(values); err != nil {
				t.Error(err)
			}
		})
	}
}

// start powers a new chip on, does these things to it, and sends
// TPM2_Startup.
func start(t *testing.T, before []string) *tpm.TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "eventlog-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	life, err := child.Start(exec.Command("swtpm", "socket", "--tpm2",
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--tpmstate", "dir="+dir, "--flags", "not-need-init"))
	if err != nil {
		t.Fatalf("%v: apt-get install swtpm swtpm-tools (make deps)", err)
	}
	t.Cleanup(life.Kill)

	conn, err := net.Dial("unix", socket)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		conn, err = net.Dial("unix", socket)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range before {
		if out, err := exec.Command("swtpm_ioctl", "--unix", socket+".ctrl", option[:2], option[2:]).CombinedOutput(); err != nil {
			t.Fatalf("swtpm_ioctl %s: %v\n%s", option, err, out)
		}
	}
	command := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0} // TPM2_Startup(TPM_SU_CLEAR)
	answer := make([]byte, 10)
	if _, err := conn.Write(command); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(answer); err != nil || string(answer[6:]) != "\x00\x00\x00\x00" {
		t.Fatalf("TPM2_Startup: %x, %v", answer, err)
	}
	conn.Close()

	chip, err := tpm.Open("swtpm:" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

package eventlog_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

// The program tpm2_eventlog of tpm2-tools finds the same values, events and
// names in a log.
//
// Version 5.4, which Debian 12 has, extends PCRs with EV_NO_ACTION and does
// not know how PCR 0 started (tpm2-tools issues 3224 and 3256), so that these
// logs have no such events; TestStartupAgreesWithChip has.
func TestSecondOpinion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	rapid.Check(t, func(t *rapid.T) {
		b := eventlogtest.NewBuilder()
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			addAny(t, b)
		}
		compare(t, path, b.Bytes())
	})
	compare(t, path, eventlogtest.Boot("1.0", "loader", true).Bytes())
}

// addAny adds an event of a PCR that starts with zeros for tpm2_eventlog too.
func addAny(t *rapid.T, b *eventlogtest.Builder) {
	pcr := rapid.OneOf(rapid.IntRange(0, 16), rapid.Just(23)).Draw(t, "pcr")
	text := []byte(rapid.StringMatching(`[a-z][a-z ]{0,20}`).Draw(t, "data"))
	digest := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
	switch kind := rapid.SampledFrom([]eventlog.EventType{
		eventlog.PostCode, eventlog.Separator, eventlog.Action, eventlog.SCRTMVersion, eventlog.OmitBootDeviceEvents,
		eventlog.EFIVariableDriverConfig, eventlog.EFIVariableAuthority, eventlog.EFIAction, eventlog.EFIPlatformFirmwareBlob,
		eventlog.EFIBootServicesApplication, eventlog.EFIBootServicesDriver, 0x09, 0x11, 0x80000005,
	}).Draw(t, "type"); kind {
	case eventlog.EFIVariableDriverConfig, eventlog.EFIVariableAuthority:
		b.Add(pcr, kind, eventlog.Variable{GUID: [16]byte(digest[:16]), Name: string(text), Value: digest[:]}.Marshal())
	case eventlog.EFIPlatformFirmwareBlob:
		b.AddDigest(pcr, kind, digest, make([]byte, 16))
	case eventlog.EFIBootServicesApplication, eventlog.EFIBootServicesDriver, 0x80000005:
		b.AddDigest(pcr, kind, digest, make([]byte, 32))
	case eventlog.PostCode, 0x09, 0x11:
		b.AddDigest(pcr, kind, digest, text)
	default:
		b.Add(pcr, kind, text)
	}
}

var (
	yamlEvent = regexp.MustCompile(`(?m)^  PCRIndex: (\d+)\n  EventType: (\w+)$`)
	yamlValue = regexp.MustCompile(`(?m)^    (\d+) *: 0x([0-9a-f]{64})$`)
)

func compare(t rapid.TB, path string, log []byte) {
	t.Helper()
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tpm2_eventlog", path).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog: %v (apt-get install tpm2-tools, make deps-test)", err)
	}
	l, err := eventlog.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	events, values, _ := strings.Cut(string(out), "\npcrs:\n")
	found := yamlEvent.FindAllStringSubmatch(events, -1)
	if len(found) != 1+len(l.Events) {
		t.Fatalf("tpm2_eventlog has %d events, want the first and %d", len(found), len(l.Events))
	}
	touched := map[int]bool{}
	for i, e := range l.Events {
		touched[e.PCR] = true
		if his, ours := strings.Join(found[i+1][1:], " "), fmt.Sprint(e.PCR, " ", e.Type); his != ours {
			t.Errorf("event %d: tpm2_eventlog has %s, we %s", i+1, his, ours)
		}
	}
	_, values, _ = strings.Cut(values, "  sha256:\n")
	replayed := l.Replay()
	agreed := 0
	for _, m := range yamlValue.FindAllStringSubmatch(values, -1) {
		var pcr int
		fmt.Sscan(m[1], &pcr)
		if ours := hex.EncodeToString(replayed[pcr][:]); m[2] != ours {
			t.Errorf("PCR %d: tpm2_eventlog has %s, we %s", pcr, m[2], ours)
		}
		agreed++
	}
	if agreed != len(touched) {
		t.Errorf("tpm2_eventlog has values of %d PCRs, want %d", agreed, len(touched))
	}
}

package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"reflect"
	"testing"

	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

func secureBoot(value ...byte) []byte {
	return eventlog.Variable{GUID: eventlog.GlobalVariable, Name: "SecureBoot", Value: value}.Marshal()
}

func TestSecureBoot(t *testing.T) {
	const config = eventlog.EFIVariableDriverConfig
	log := eventlogtest.NewBuilder
	foreign := eventlog.Variable{Name: "SecureBoot", Value: []byte{1}}.Marshal()
	other := eventlog.Variable{GUID: eventlog.GlobalVariable, Name: "SecureBoo", Value: []byte{1}}.Marshal()
	for name, c := range map[string]struct {
		log            *eventlogtest.Builder
		enabled, known bool
	}{
		"enabled":                   {log().SecureBoot(true), true, true},
		"disabled":                  {log().SecureBoot(false), false, true},
		"in a boot":                 {eventlogtest.Boot("1.0", "loader", true), true, true},
		"no variable":               {log().Add(7, config, secureBoot()).Separator(7), false, true},
		"other separator":           {log().Add(7, config, secureBoot(1)).Add(7, eventlog.Separator, []byte{255, 255, 255, 255}), true, true},
		"authority and action":      {log().Add(7, eventlog.EFIAction, []byte("DMA Protection Disabled")).Add(7, config, secureBoot(1)).Add(7, eventlog.EFIVariableAuthority, foreign).Separator(7), true, true},
		"among other PCRs":          {log().AddDigest(4, config, [32]byte{}, nil).SecureBoot(true), true, true},
		"unmeasured event before":   {log().Add(7, eventlog.NoAction, []byte("x")).SecureBoot(true), true, true},
		"shim measures loosely":     {log().SecureBoot(true).AddDigest(7, eventlog.EFIVariableAuthority, sha256.Sum256(foreign), append(foreign, 0)), true, true},
		"empty log":                 {log(), false, false},
		"no separator":              {log().Add(7, config, secureBoot(1)), false, false},
		"separator of an error":     {log().Add(7, config, secureBoot(1)).AddDigest(7, eventlog.Separator, sha256.Sum256([]byte{1, 0, 0, 0}), []byte("error")), false, false},
		"separator first":           {log().Separator(7).SecureBoot(true), false, false},
		"in another PCR":            {log().Add(6, config, secureBoot(1)).Separator(7), false, false},
		"of another GUID":           {log().Add(7, config, foreign).Separator(7), false, false},
		"of another name":           {log().Add(7, config, other).Separator(7), false, false},
		"not measured":              {log().Add(7, eventlog.NoAction, secureBoot(1)).Separator(7), false, false},
		"data without their digest": {log().AddDigest(7, config, sha256.Sum256(secureBoot(0)), secureBoot(1)).Separator(7), false, false},
		"value 2":                   {log().Add(7, config, secureBoot(2)).Separator(7), false, false},
		"value of 2 bytes":          {log().Add(7, config, secureBoot(1, 0)).Separator(7), false, false},
		"a byte too many":           {log().Add(7, config, append(secureBoot(1), 0)).Separator(7), false, false},
		"twice":                     {log().Add(7, config, secureBoot(0)).Add(7, config, secureBoot(1)).Separator(7), false, false},
		"debugger":                  {log().Add(7, eventlog.EFIAction, []byte("UEFI Debug Mode")).SecureBoot(true), false, false},
	} {
		enabled, known := parse(t, c.log.Bytes()).SecureBoot()
		if enabled != c.enabled || known != c.known {
			t.Errorf("%s: enabled %v, known %v; want %v, %v", name, enabled, known, c.enabled, c.known)
		}
	}
}

// A machine booted without Secure Boot. Its owner extends PCR 7 further and
// renames and describes events at will, but cannot change their digests. The
// log replays, and does not say that Secure Boot was enabled.
func TestSecureBootCannotBeClaimed(t *testing.T) {
	for name, lie := range map[string]func(e *eventlog.Event){
		"the truth":        func(*eventlog.Event) {},
		"renamed":          func(e *eventlog.Event) { e.Type = eventlog.IPL },
		"reserved type":    func(e *eventlog.Event) { e.Type = 2 },
		"other data":       func(e *eventlog.Event) { e.Data = nil },
		"renamed and data": func(e *eventlog.Event) { e.Type, e.Data = eventlog.EFIBootServicesDriver, make([]byte, 32) },
		"the wanted data":  func(e *eventlog.Event) { e.Data = bytes.Replace(e.Data, []byte("t\x00\x00"), []byte("t\x00\x01"), 1) },
	} {
		l := parse(t, eventlogtest.NewBuilder().SecureBoot(false).SecureBoot(true).Bytes())
		replayed := l.Replay()
		for i := range len(l.Events) / 2 {
			lie(&l.Events[i])
		}
		if err := l.Verify(map[int][32]byte{7: replayed[7]}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if enabled, _ := l.SecureBoot(); enabled {
			t.Errorf("%s: enabled", name)
		}
	}
}

func TestVariable(t *testing.T) {
	v := eventlog.Variable{GUID: [16]byte{1}, Name: "Bööt🔑", Value: []byte("value")}
	b := v.Marshal()
	if got, ok := eventlog.ParseVariable(b); !ok || !reflect.DeepEqual(got, v) {
		t.Errorf("%v, %v", got, ok)
	}
	for n := range len(b) {
		if _, ok := eventlog.ParseVariable(b[:n]); ok {
			t.Errorf("%d of %d bytes are a variable", n, len(b))
		}
	}
	if _, ok := eventlog.ParseVariable(append(b, 0)); ok {
		t.Error("a variable with a byte more")
	}
	for _, lengths := range [][2]uint64{{1 << 63, 6}, {1 << 63, 0}, {1<<63 + 1, 0}, {1<<64 - 1, 1<<64 - 1}, {0, 1 << 63}, {3, 1<<64 - 6}} {
		if _, ok := eventlog.ParseVariable(le(make([]byte, 16), lengths, "abcdef")); ok {
			t.Errorf("a variable with lengths %x", lengths)
		}
	}
}

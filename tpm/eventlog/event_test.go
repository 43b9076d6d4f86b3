package eventlog_test

import (
	"crypto/sha256"
	"testing"

	"github.com/chancery-pki/chancery/tpm/eventlog"
)

func TestEventTypeString(t *testing.T) {
	for kind, want := range map[eventlog.EventType]string{
		eventlog.Separator:    "EV_SEPARATOR",
		0x80000006:            "EV_EFI_GPT_EVENT",
		0x14:                  "0x00000014",
		0xfffffffe:            "0xfffffffe",
		eventlog.SCRTMVersion: "EV_S_CRTM_VERSION",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestVerified(t *testing.T) {
	data := []byte("data")
	of := sha256.Sum256(data)
	for name, c := range map[string]struct {
		event eventlog.Event
		want  bool
	}{
		"action":             {eventlog.Event{PCR: 4, Type: eventlog.EFIAction, Digest: of, Data: data}, true},
		"other data":         {eventlog.Event{PCR: 4, Type: eventlog.EFIAction, Digest: of, Data: data[1:]}, false},
		"other digest":       {eventlog.Event{PCR: 4, Type: eventlog.EFIAction, Data: data}, false},
		"a description":      {eventlog.Event{PCR: 4, Type: eventlog.EFIBootServicesApplication, Digest: of, Data: data}, false},
		"not measured":       {eventlog.Event{PCR: 4, Type: eventlog.NoAction, Digest: of, Data: data}, false},
		"of a boot loader":   {eventlog.Event{PCR: 8, Type: eventlog.IPL, Digest: of, Data: data}, false},
		"without a name":     {eventlog.Event{PCR: 8, Type: 0x14, Digest: of, Data: data}, false},
		"value of Boot####":  {eventlog.Event{PCR: 1, Type: eventlog.EFIVariableBoot, Digest: of, Data: data}, false},
		"variable Boot####":  {eventlog.Event{PCR: 1, Type: eventlog.EFIVariableBoot2, Digest: of, Data: data}, true},
		"separator, no data": {eventlog.Event{PCR: 1, Type: eventlog.Separator, Digest: sha256.Sum256(nil)}, true},
	} {
		if got := c.event.Verified(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

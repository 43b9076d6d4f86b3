package eventlog_test

import (
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"

	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(header(0, 8, []byte("version")))
	f.Add(sha256Only())
	f.Add(header(0, 3, specID(0x0004, 20, 0x000b, 32, 0x000c, 48, 0x000d, 64, 0x0012, 32)))
	f.Add(eventlogtest.Boot("1.0", "loader", true).Bytes())
	f.Add(eventlogtest.NewBuilder().StartupLocality(3).Add(0, eventlog.EFIHCRTMEvent, []byte("HCRTM")).SecureBoot(false).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := eventlog.Parse(b)
		if err != nil {
			if l != nil || !errors.Is(err, eventlog.ErrMalformed) && !errors.Is(err, eventlog.ErrTooLarge) && !errors.Is(err, eventlog.ErrNoSHA256) {
				t.Errorf("%v, %v", l, err)
			}
			return
		}
		if _, err := eventlog.Parse(append(b[:len(b):len(b)], 0)); err == nil {
			t.Error("a log with a byte more")
		}
		if _, err := eventlog.Parse(b[:len(b)-1]); err == nil {
			t.Error("a log with a byte less")
		}

		values := map[int][32]byte{}
		for pcr, value := range l.Replay() {
			values[pcr] = value
		}
		if err := l.Verify(values); err != nil {
			t.Error(err)
		}
		for _, e := range l.Events {
			if e.PCR < 0 || e.PCR >= eventlog.PCRs || e.Type.String() == "" {
				t.Errorf("PCR %d, type %v", e.PCR, e.Type)
			}
			if e.Verified() && (e.Digest != sha256.Sum256(e.Data) || !e.Extends()) {
				t.Error("verified with the digest of other data")
			}
			if v, ok := eventlog.ParseVariable(e.Data); ok {
				// Names that are not UTF-16 do not survive.
				if w, ok := eventlog.ParseVariable(v.Marshal()); !ok || !reflect.DeepEqual(v, w) {
					t.Errorf("variable %v is written as %v", v, w)
				}
			}
		}
		if enabled, known := l.SecureBoot(); enabled && !known {
			t.Error("Secure Boot is enabled and not known")
		}
	})
}

// BenchmarkReplay is of a log at the limits, as the sender of a log may
// choose it.
func BenchmarkReplay(b *testing.B) {
	log := sha256Only()
	for range 16384 {
		log = append(log, event(7, 0x80000007, nil)...)
	}
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	for b.Loop() {
		l, err := eventlog.Parse(log)
		if err != nil {
			b.Fatal(err)
		}
		l.Replay()
		l.SecureBoot()
	}
}

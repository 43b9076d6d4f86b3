package anchor_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var logger = slog.New(slog.DiscardHandler)

// at is a mark of a coordinator that has done so much.
func at(n uint64) *anchor.Mark {
	return &anchor.Mark{Fleet: [32]byte{1}, Pointer: n, CRL: n, CA: [32]byte{2}, Log: uint16(n), Size: n, Audit: n}
}

// places are those of a machine, all empty.
func places(t *testing.T) map[string]string {
	return map[string]string{"file": filepath.Join(t.TempDir(), "anchor"), "tpm": "tpm:" + tpmtest.New(t).Device()}
}

// A database is taken that has come as far as the mark, and no other, over every
// number in it.
func TestOpen(t *testing.T) {
	for kind, name := range places(t) {
		open := func(have *anchor.Mark, known bool) error {
			k, err := anchor.Open(anchor.At(name), have, known, logger)
			if err == nil {
				k.Close()
			}
			return err
		}
		if _, ok := errors.AsType[*anchor.MissingError](open(at(5), true)); !ok {
			t.Errorf("%s: a mark that is gone is not missed", kind)
		}
		for _, n := range []uint64{5, 5, 6} { // the first, again, further
			if err := open(at(n), n > 5); err != nil {
				t.Fatalf("%s: at %d: %v", kind, n, err)
			}
		}
		for _, test := range []struct {
			says   string
			change func(m *anchor.Mark)
		}{
			{"pointer record 5, and 6", func(m *anchor.Mark) { m.Pointer-- }},
			{"CRL 5, and 6", func(m *anchor.Mark) { m.CRL-- }},
			{"log number 5, and 6", func(m *anchor.Mark) { m.Log-- }},
			{"issuance log entry 5, and 6", func(m *anchor.Mark) { m.Size-- }},
			{"audit log entry 5, and 6", func(m *anchor.Mark) { m.Audit-- }},
			{"CRL 5, and 6", func(m *anchor.Mark) { *m = *at(9); m.CRL = 5 }},       // further in all else
			{"CRL 5, and 6", func(m *anchor.Mark) { m.CA, m.CRL = [32]byte{3}, 5 }}, // and after a rollover
		} {
			have := at(6)
			test.change(have)
			behind, ok := errors.AsType[*anchor.BehindError](open(have, true))
			if !ok || !strings.Contains(behind.Error(), test.says) || !strings.Contains(behind.Hint(), "chancery recover") {
				t.Errorf("%s: %s: %v", kind, test.says, behind)
			}
		}
		stranger := at(9)
		stranger.Fleet[0] = 7
		if _, ok := errors.AsType[*anchor.ForeignError](open(stranger, true)); !ok {
			t.Errorf("%s: another fleet's mark was taken", kind)
		}
		// Refusals change nothing: the mark is still of 6.
		if m, err := anchor.At(name).Load(); err != nil || *m != *at(6) {
			t.Errorf("%s: the mark is %+v, %v", kind, m, err)
		}
		// The logs of another CA key begin anew.
		rolled := at(7)
		rolled.CA, rolled.Log, rolled.Size, rolled.Audit = [32]byte{3}, 1, 0, 0
		if err := open(rolled, true); err != nil {
			t.Errorf("%s: after a rollover: %v", kind, err)
		}
	}
}

// What is noted is saved: in a file before Note returns, in a TPM at the end at
// the latest, and there not with each mark.
func TestNote(t *testing.T) {
	for kind, name := range places(t) {
		k, err := anchor.Open(anchor.At(name), at(1), false, logger)
		if err != nil {
			t.Fatal(err)
		}
		for n := uint64(2); n < 20; n++ {
			k.Note(at(n))
			m, err := anchor.At(name).Load()
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]uint64{"file": n, "tpm": 1}[kind]
			if *m != *at(want) {
				t.Fatalf("%s: after %d: %+v", kind, n, m)
			}
		}
		k.Close()
		if m, err := anchor.At(name).Load(); err != nil || *m != *at(19) {
			t.Errorf("%s: in the end: %+v, %v", kind, m, err)
		}
		if p := k.Problem(); p != "" {
			t.Errorf("%s: %s", kind, p)
		}
	}
}

// A place that cannot be written is told of, and holds nobody up for long; one
// that works again ends it.
func TestPlaceFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := anchor.Open(anchor.At(filepath.Join(dir, "anchor")), at(1), false, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	k.Note(at(2))
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
	if p := k.Problem(); !strings.Contains(p, dir) {
		t.Errorf("problem %q", p)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	k.Note(at(3))
	if p := k.Problem(); p != "" {
		t.Errorf("problem %q", p)
	}
}

// A place that hangs holds a list up for a few seconds, not for ever.
func TestPlaceHangs(t *testing.T) {
	h := &hanging{release: make(chan struct{})}
	k, err := anchor.Open(h, at(1), false, logger)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	k.Note(at(2))
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("Note returned after %s", took)
	}
	if p := k.Problem(); !strings.Contains(p, "does not answer") {
		t.Errorf("problem %q", p)
	}
	close(h.release)
	k.Note(at(3))
	k.Close()
	if p := k.Problem(); p != "" || *h.saved != *at(3) {
		t.Errorf("problem %q, saved %+v", p, h.saved)
	}
}

// hanging is a place on a file system that goes away after the first save.
type hanging struct {
	release chan struct{}
	saved   *anchor.Mark
}

func (h *hanging) Load() (*anchor.Mark, error) { return nil, os.ErrNotExist }
func (h *hanging) Every() time.Duration        { return 0 }
func (h *hanging) String() string              { return "away" }
func (h *hanging) Save(m *anchor.Mark) error {
	if h.saved != nil {
		<-h.release
	}
	h.saved = m
	return nil
}

// What cannot be read is an error and no reason to begin anew.
func TestUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchor")
	good := at(3).Marshal()
	for name, b := range map[string][]byte{"empty": {}, "junk": []byte("junk"), "longer": append(bytes.Clone(good), 0), "shorter": good[:len(good)-1]} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := anchor.Open(anchor.At(path), at(9), false, logger); !errors.Is(err, anchor.ErrDamaged) {
			t.Errorf("%s: %v, want %v", name, err, anchor.ErrDamaged)
		}
	}
	process := tpmtest.New(t)
	owner := process.Open(t)
	if _, err := anchor.Open(anchor.At("tpm:"+process.Device()), at(9), false, logger); !errors.Is(err, tpm.ErrBusy) {
		t.Errorf("a chip in use: %v, want %v", err, tpm.ErrBusy)
	}
	if err := owner.SetRecord(make([]byte, tpm.RecordSize)); err != nil {
		t.Fatal(err)
	}
	owner.Close()
	if _, err := anchor.Open(anchor.At("tpm:"+process.Device()), at(9), false, logger); !errors.Is(err, anchor.ErrDamaged) {
		t.Errorf("an empty record: %v, want %v", err, anchor.ErrDamaged)
	}
}

// Every bit of a mark counts.
func TestMark(t *testing.T) {
	b := at(3).Marshal()
	if m, err := anchor.ParseMark(b); err != nil || *m != *at(3) {
		t.Fatalf("%+v, %v", m, err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := anchor.ParseMark(b); !errors.Is(err, anchor.ErrDamaged) {
			t.Errorf("bit %d: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

package eventlog_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestReplay(t *testing.T) {
	values := parse(t, eventlogtest.NewBuilder().
		StartupLocality(3).
		Add(0, eventlog.PostCode, []byte("a")).
		Add(9, eventlog.IPL, []byte("b")).
		Add(9, eventlog.NoAction, []byte("not measured")).
		Add(9, eventlog.IPL, []byte("c")).
		Bytes()).Replay()

	zero := make([]byte, 32)
	after := func(value []byte, data string) []byte {
		digest := sha256.Sum256([]byte(data))
		sum := sha256.Sum256(append(append([]byte(nil), value...), digest[:]...))
		return sum[:]
	}
	want := map[int][]byte{
		0: after(append(make([]byte, 31), 3), "a"),
		1: zero,
		9: after(after(zero, "b"), "c"),
	}
	for pcr, w := range want {
		if string(values[pcr][:]) != string(w) {
			t.Errorf("PCR %d is %x, want %x", pcr, values[pcr], w)
		}
	}
}

// A chip that is extended with the digests of a log has the values that the
// log replays to, whatever the order of PCRs.
func TestReplayAgreesWithChip(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	var every []int
	for pcr := range eventlog.PCRs {
		every = append(every, pcr)
	}
	b := eventlogtest.NewBuilder()
	extended := 0
	for range 20 {
		for range random.IntN(10) {
			pcr := random.IntN(18) // those that locality 0 may extend
			if pcr == 17 {
				pcr = 23
			}
			data := fmt.Append(nil, "event ", extended)
			if random.IntN(2) == 0 {
				b.Add(pcr, eventlog.EventType(4+random.Uint32N(8)), data)
			} else {
				b.AddDigest(pcr, eventlog.EFIBootServicesApplication, sha256.Sum256(data), nil)
			}
			if random.IntN(4) == 0 {
				b.Add(pcr, eventlog.NoAction, data)
			}
		}
		l := parse(t, b.Bytes())
		n := 0
		for _, e := range l.Events {
			if !e.Extends() {
				continue
			}
			if n++; n <= extended {
				continue
			}
			if err := chip.ExtendPCR(e.PCR, e.Digest); err != nil {
				t.Fatal(err)
			}
		}
		extended = n
		values, err := chip.PCRValues(every)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Verify(values); err != nil {
			t.Fatalf("after %d events: %v", extended, err)
		}
	}
}

// Every change of an event that extends is noticed in the value of its PCR.
func TestVerifyNoticesChanges(t *testing.T) {
	values := tpm.PCRValues{}
	boot := eventlogtest.Boot("1.0", "loader", true).Bytes()
	for pcr, v := range parse(t, boot).Replay() {
		values[pcr] = v
	}
	for i := range parse(t, boot).Events {
		for name, change := range map[string]func(l *eventlog.Log){
			"digest":     func(l *eventlog.Log) { l.Events[i].Digest[7] ^= 1 },
			"PCR":        func(l *eventlog.Log) { l.Events[i].PCR = 8 },
			"left out":   func(l *eventlog.Log) { l.Events = append(l.Events[:i], l.Events[i+1:]...) },
			"twice":      func(l *eventlog.Log) { l.Events = append(l.Events, l.Events[i]) },
			"not action": func(l *eventlog.Log) { l.Events[i].Type = eventlog.NoAction },
		} {
			l := parse(t, boot)
			change(l)
			var mismatch *eventlog.MismatchError
			if err := l.Verify(values); !errors.As(err, &mismatch) {
				t.Errorf("event %d, %s: %v", i, name, err)
			}
		}
	}
}

func TestVerify(t *testing.T) {
	l := parse(t, eventlogtest.NewBuilder().Separator(7).Separator(3).Bytes())
	replayed := l.Replay()
	if err := l.Verify(tpm.PCRValues{7: replayed[7], 15: replayed[15]}); err != nil {
		t.Error(err)
	}

	err := l.Verify(map[int][32]byte{7: {1}, 3: {2}, 0: replayed[0]})
	var mismatch *eventlog.MismatchError
	if !errors.As(err, &mismatch) || *mismatch != (eventlog.MismatchError{PCR: 3, Replayed: replayed[3], Value: [32]byte{2}}) {
		t.Fatalf("%v, want PCR 3", err)
	}
	for _, part := range []string{"PCR 3", fmt.Sprintf("%x", replayed[3]), fmt.Sprintf("%x", [32]byte{2})} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not tell %s", err, part)
		}
	}

	for _, values := range []map[int][32]byte{nil, {}, {24: {}}, {-1: {}, 7: replayed[7]}} {
		if err := l.Verify(values); !errors.Is(err, eventlog.ErrPCR) {
			t.Errorf("%v: %v, want ErrPCR", values, err)
		}
	}
}

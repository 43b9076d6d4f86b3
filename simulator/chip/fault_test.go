package chip_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
)

// await returns when the command was sent so many times.
func await(t testing.TB, c *chip.Chip, code tpm2.TPMCC, calls uint64) {
	t.Helper()
	for c.Calls(code) < calls {
		time.Sleep(time.Millisecond)
	}
}

// results asks n times for random bytes and tells what became of it. An owner
// that is cut off connects again.
func results(t *testing.T, c *chip.Chip, n int) string {
	t.Helper()
	var all []string
	w := connect(t, c.Device())
	for range n {
		err := w.random()
		var rc tpm2.TPMRC
		switch {
		case err == nil:
			all = append(all, "ok")
		case errors.Is(err, io.EOF):
			all = append(all, "cut")
			w.Close()
			w = connect(t, c.Device())
		case errors.As(err, &rc):
			all = append(all, fmt.Sprintf("%x", uint32(rc)))
		default:
			all = append(all, "wrong")
		}
	}
	w.Close()
	return strings.Join(all, " ")
}

// Faults count the commands from their injection on.
func TestFaults(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	refuse := func(rc tpm2.TPMRC, skip, times int) chip.Fault {
		return chip.Fault{Command: tpm2.TPMCCGetRandom, Kind: chip.Return, Code: rc, Skip: skip, Times: times}
	}
	of := func(kind chip.Kind, skip, times int) chip.Fault {
		return chip.Fault{Kind: kind, Skip: skip, Times: times}
	}
	for name, test := range map[string]struct {
		faults []chip.Fault
		want   string
	}{
		"none":         {nil, "ok ok ok ok ok"},
		"code":         {[]chip.Fault{refuse(tpm2.TPMRCLockout, 0, 0)}, "921 921 921 921 921"},
		"some":         {[]chip.Fault{refuse(tpm2.TPMRCNVRate, 1, 2)}, "ok 920 920 ok ok"},
		"another's":    {[]chip.Fault{{Command: tpm2.TPMCCSign, Kind: chip.CutBefore}}, "ok ok ok ok ok"},
		"first's code": {[]chip.Fault{refuse(tpm2.TPMRCMemory, 0, 2), refuse(tpm2.TPMRCRetry, 1, 2)}, "904 904 922 ok ok"},
		"cut before":   {[]chip.Fault{of(chip.CutBefore, 1, 1)}, "ok cut ok ok ok"},
		"cut after":    {[]chip.Fault{of(chip.CutAfter, 1, 2)}, "ok cut cut ok ok"},
		"cut, not told": {[]chip.Fault{of(chip.CutBefore, 0, 1), refuse(tpm2.TPMRCMemory, 0, 2)},
			"cut 904 ok ok ok"},
		// The first bit of the response code's least byte, of its size, and of a
		// refusal.
		"corrupt code": {[]chip.Fault{{Kind: chip.Corrupt, Bit: 8*9 + 7, Times: 1}}, "1 ok ok ok ok"},
		"corrupt size": {[]chip.Fault{{Kind: chip.Corrupt, Bit: 8*11 + 7, Times: 1}}, "wrong ok ok ok ok"},
		"corrupt refusal": {[]chip.Fault{refuse(tpm2.TPMRCRetry, 0, 1), {Kind: chip.Corrupt, Bit: -1, Times: 1}},
			"923 ok ok ok ok"},
		"slow": {[]chip.Fault{{Kind: chip.Slow, Delay: time.Millisecond}}, "ok ok ok ok ok"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range test.faults {
				check(t, c.Inject(f))
			}
			if got := results(t, c, 5); got != test.want {
				t.Errorf("commands %q, want %q", got, test.want)
			}
			c.Clear()
			if got := results(t, c, 1); got != "ok" {
				t.Errorf("after the faults were cleared: %s", got)
			}
		})
	}
}

// What was cut before is not done, what was cut after is.
func TestCut(t *testing.T) {
	behind := blank(t)
	c := newChip(t, behind, chip.Model{})
	for kind, objects := range map[chip.Kind]int{chip.CutBefore: 0, chip.CutAfter: 1} {
		check(t, c.Inject(chip.Fault{Command: tpm2.TPMCCCreatePrimary, Kind: kind, Times: 1}))
		w := connect(t, c.Device())
		create := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}
		if _, err := create.Execute(w); err == nil {
			t.Errorf("%v: an owner who was cut off has an answer", kind)
		}
		again := connect(t, behind.Device())
		left := again.handles(t)
		if len(left) != objects {
			t.Errorf("%v: %d objects in the chip, want %d", kind, len(left), objects)
		}
		for _, h := range left {
			must(tpm2.FlushContext{FlushHandle: h}.Execute(again))(t)
		}
		again.Close()
	}
}

// A command hangs until the fault is cleared, and then goes on.
func TestHang(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	check(t, c.Inject(chip.Fault{Command: tpm2.TPMCCGetRandom, Kind: chip.Hang, Skip: 1, Times: 1}))
	w := connect(t, c.Device())
	check(t, w.random())
	answered := make(chan error, 1)
	go func() { answered <- w.random() }()
	await(t, c, tpm2.TPMCCGetRandom, 2)
	time.Sleep(10 * time.Millisecond)
	if len(answered) > 0 {
		t.Error("a command that hangs is answered")
	}
	c.Clear()
	check(t, <-answered)
	check(t, w.random())

	// An owner who does not wait for it leaves the chip to others.
	check(t, c.Inject(chip.Fault{Command: tpm2.TPMCCGetRandom, Kind: chip.Hang, Times: 1}))
	go func() { answered <- w.random() }()
	await(t, c, tpm2.TPMCCGetRandom, 4)
	check(t, w.Close())
	<-answered
	check(t, connect(t, c.Device()).random())
}

// A slow chip is asked later: by then its owner's time may be over.
func TestSlow(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	check(t, c.Inject(chip.Fault{Kind: chip.Slow, Delay: 50 * time.Millisecond, Times: 1}))
	w := connect(t, c.Device())
	begin := time.Now()
	check(t, w.random())
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("an answer that is 50ms late came after %v", took)
	}
	check(t, c.Inject(chip.Fault{Kind: chip.Slow, Delay: time.Hour}))
	check(t, w.SetDeadline(time.Now().Add(time.Millisecond)))
	if err := w.random(); err == nil {
		t.Error("an answer that is an hour late came at once")
	}
	w.Close()
	c.Clear()
	check(t, connect(t, c.Device()).random())
}

func TestFaultCheck(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	for _, f := range []chip.Fault{
		{Kind: -1},
		{Kind: chip.Slow + 1},
		{Kind: chip.Return},
		{Kind: chip.Hang, Code: tpm2.TPMRCRetry},
		{Kind: chip.Slow},
		{Kind: chip.Slow, Delay: -1},
		{Kind: chip.Hang, Delay: 1},
		{Kind: chip.Hang, Bit: 1},
		{Kind: chip.Hang, Skip: -1},
		{Kind: chip.Hang, Times: -1},
		{Kind: chip.Hang, Times: math.MaxInt32 + 1},
	} {
		if err := c.Inject(f); err == nil {
			t.Errorf("%+v is a fault", f)
		}
	}
	if got := results(t, c, 1); got != "ok" {
		t.Errorf("faults that are none: %s", got)
	}
	if chip.CutAfter.String() != "cut after" || chip.Kind(-1).String() != "Kind(-1)" {
		t.Error("kinds have other names")
	}
}

// A busy chip refuses some commands, the same ones each time, and none that has
// a fault already.
func TestBusy(t *testing.T) {
	behind := blank(t)
	m := chip.Model{Busy: 0.5, Seed: 1}
	first := results(t, newChip(t, behind, m), 40)
	if n := strings.Count(first, "922"); n < 10 || n > 30 {
		t.Errorf("a chip that is busy half the time refused %d of 40: %s", n, first)
	}
	if again := results(t, newChip(t, behind, m), 40); again != first {
		t.Errorf("the same seed gave\n%s\nand\n%s", first, again)
	}
	m.Seed = 2
	if other := results(t, newChip(t, behind, m), 40); other == first {
		t.Error("another seed gives the same")
	}
	c := newChip(t, behind, m)
	check(t, c.Inject(chip.Fault{Kind: chip.Return, Code: tpm2.TPMRCTesting, Times: 20}))
	if got := results(t, c, 20); strings.Contains(got, "922") {
		t.Errorf("commands with a fault: %s", got)
	}
	if calm := results(t, newChip(t, behind, m.Calm()), 40); strings.Contains(calm, "922") {
		t.Errorf("a calm chip is busy: %s", calm)
	}
	t.Setenv("SIM_CALM", "1")
	if calm := results(t, newChip(t, behind, m), 40); strings.Contains(calm, "922") {
		t.Errorf("a chip is busy under SIM_CALM: %s", calm)
	}
}

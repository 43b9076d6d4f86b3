package chip

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A Kind is what a fault does to a command.
type Kind int

// Kinds of faults.
const (
	// Return answers with Fault.Code without asking the chip.
	Return Kind = iota

	// Hang does not answer, until [Chip.Clear]; then the command goes on.
	Hang

	// CutBefore ends the owner's connection before the chip has the command.
	CutBefore

	// CutAfter ends it when the chip has done what it was told, and before the
	// owner has the answer: so it is if the owner is killed meanwhile.
	CutAfter

	// Corrupt changes the bit Fault.Bit of the answer.
	Corrupt

	// Slow waits for Fault.Delay before the chip has the command.
	Slow
)

func (k Kind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return kinds[k]
}

var kinds = []string{"return", "hang", "cut before", "cut after", "corrupt", "slow"}

// A Fault is what is wrong with a command. It counts the commands of all owners
// from the moment it is injected; one that is sent again counts again.
//
// A command may have several faults, each with its own count. One that several
// of them hit is late first, then hangs, then is cut off, then gets the code of
// the fault injected first in place of the chip's answer. A command that a fault
// hits is not refused as busy.
type Fault struct {
	Command tpm2.TPMCC    // 0: any
	Skip    int           // commands that it lets pass first
	Times   int           // commands that it then hits; 0: all, until it is cleared
	Kind    Kind          // what it does
	Code    tpm2.TPMRC    // of Return: the response code, not 0
	Bit     int           // of Corrupt: from the first bit of the answer; negative: from its end, the last is -1
	Delay   time.Duration // of Slow
}

func (f Fault) check() error {
	switch {
	case f.Kind < 0 || int(f.Kind) >= len(kinds):
		return fmt.Errorf("chip: no fault is of kind %d", int(f.Kind))
	case f.Skip < 0 || f.Times < 0 || f.Skip > math.MaxInt32 || f.Times > math.MaxInt32:
		return fmt.Errorf("chip: skip %d and times %d must be 0 to %d", f.Skip, f.Times, math.MaxInt32)
	case (f.Kind == Return) != (f.Code != 0):
		return fmt.Errorf("chip: fault %q with code 0x%x: a code, not 0, belongs to %q and to no other", f.Kind, uint32(f.Code), Return)
	case (f.Kind == Slow) != (f.Delay > 0):
		return fmt.Errorf("chip: fault %q with delay %v: a delay, above 0, belongs to %q and to no other", f.Kind, f.Delay, Slow)
	case f.Kind != Corrupt && f.Bit != 0:
		return fmt.Errorf("chip: fault %q with bit %d: a bit belongs to %q", f.Kind, f.Bit, Corrupt)
	}
	return nil
}

// injected is a fault in force.
type injected struct {
	Fault
	seen int // commands, those of Skip included
}

// hits counts the command and reports whether the fault is for it.
func (f *injected) hits(command tpm2.TPMCC) bool {
	if f.Command != 0 && f.Command != command {
		return false
	}
	f.seen++
	return f.seen > f.Skip
}

// spent reports whether it will hit no more.
func (f *injected) spent() bool { return f.Times > 0 && f.seen >= f.Skip+f.Times }

// Inject puts a fault in force.
func (c *Chip) Inject(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &injected{Fault: f})
	return nil
}

// Clear ends all faults, also for the commands that hang.
func (c *Chip) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
	close(c.cleared)
	c.cleared = make(chan struct{})
}

// A verdict is what is to become of one command.
type verdict struct {
	delay     time.Duration
	hang      <-chan struct{} // nil: it does not
	cutBefore bool
	cutAfter  bool
	refuse    tpm2.TPMRC // 0: ask the chip
	flip      []int      // bits of the answer
	pace      float64    // factor of the latency
}

// judge counts a command and gives the verdict over it.
func (c *Chip) judge(command tpm2.TPMCC) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[command]++
	v, hit := verdict{pace: 1}, false
	for _, f := range c.faults {
		if !f.hits(command) {
			continue
		}
		hit = true
		switch f.Kind {
		case Return:
			if v.refuse == 0 {
				v.refuse = f.Code
			}
		case Hang:
			v.hang = c.cleared
		case CutBefore:
			v.cutBefore = true
		case CutAfter:
			v.cutAfter = true
		case Corrupt:
			v.flip = append(v.flip, f.Bit)
		case Slow:
			v.delay += f.Delay
		}
	}
	c.faults = slices.DeleteFunc(c.faults, (*injected).spent)
	// Both are drawn for every command, so that a fault does not change what
	// comes after it.
	busy := c.random.Float64() < c.model.Busy
	v.pace += c.model.Jitter * (2*c.random.Float64() - 1)
	if busy && !hit {
		v.refuse = tpm2.TPMRCRetry
	}
	return v
}

package load

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// DefaultName is the pattern of names unless another one is given.
const DefaultName = "load-%06d"

// Options say who enrols, and how.
type Options struct {
	URL   string          // of the coordinator
	Token chancery.Token  // for as many nodes, of such names; it has the pin
	Maker *papertpm.Maker // one that the coordinator knows

	Nodes       int
	Connections int // at a time
	// PerConnection is how many enrolments one connection serves, one after
	// the other. Default 1, as with nodes in the field.
	PerConnection int

	EK     papertpm.Kind // of the chips
	Sealed bool          // seal each N:SK to tpm.DefaultPCRs and an epoch
	Name   string        // pattern for package fmt with one number; default DefaultName
	Quote  []int         // PCRs, beside those that the coordinator asks for; default tpm.DefaultPCRs
	// Renewals is how often each node renews once all have enrolled, each time
	// over a new connection under its last N:C.
	Renewals int

	// Lazy makes each chip when its node enrols and forgets it afterwards,
	// instead of all of them before the clock starts. It takes less memory, and
	// CPU time that is counted.
	Lazy bool
	// NoCRL leaves out that each node fetches the CRL after its N:C.
	NoCRL bool
	// Retry is how long a node goes on trying while the coordinator is away, or
	// asks it to come again. Zero: such an answer is a failure.
	Retry time.Duration
	// Coordinator is the coordinator's process on this machine, whose CPU time
	// is to be told too. Optional.
	Coordinator int

	// Progress, if not nil, is called a few times a second, by one goroutine
	// at a time.
	Progress func(Progress)
}

// A Progress is how far a run is.
type Progress struct {
	Phase             string // "chips", "enrolments" or "renewals"
	Done, Failed, All int    // Done are those that succeeded
	Elapsed           time.Duration
	Last              string // code of the last failure
}

// PerSecond returns the mean rate.
func (p Progress) PerSecond() float64 { return rate(p.Done, p.Elapsed) }

// ErrOptions marks options that cannot be run.
var ErrOptions = errors.New("load")

// complete fills in defaults and finds what cannot be.
func (o *Options) complete() error {
	if o.PerConnection == 0 {
		o.PerConnection = 1
	}
	if o.Name == "" {
		o.Name = DefaultName
	}
	if len(o.Quote) == 0 {
		o.Quote = tpm.DefaultPCRs
	}
	o.Quote = slices.Compact(slices.Sorted(slices.Values(o.Quote)))
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrOptions, fmt.Errorf(format, args...))
	}
	switch {
	case o.Nodes < 1:
		return bad("%d nodes, at least 1", o.Nodes)
	case o.Connections < 1:
		return bad("%d connections, at least 1", o.Connections)
	case o.PerConnection < 0:
		return bad("%d enrolments on a connection, at least 1", o.PerConnection)
	case o.Renewals < 0:
		return bad("%d renewals, at least 0", o.Renewals)
	case o.Retry < 0:
		return bad("retry for %s, at least 0", o.Retry)
	case o.Maker == nil:
		return bad("chips need a maker")
	case o.Renewals > 0 && o.Lazy:
		return bad("nodes that renew keep their chips, so they cannot be made and forgotten one by one")
	}
	if o.Coordinator != 0 {
		if _, err := processCPU(o.Coordinator); err != nil {
			return bad("the coordinator's process: %w", err)
		}
	}
	for _, pcr := range o.Quote {
		if pcr < 0 || pcr > 23 {
			return bad("there is no PCR %d to quote", pcr)
		}
	}
	first, last := o.name(0), o.name(max(o.Nodes-1, 1))
	if strings.Contains(first, "%!") || first == last {
		return bad("the pattern %q has to have one number, as in %q", o.Name, DefaultName)
	}
	for _, name := range []string{first, last} {
		if err := chancery.ValidateName(name); err != nil {
			return bad("the pattern %q: %w", o.Name, err)
		}
	}
	return nil
}

// name returns the name of the node of an index; names count from 1.
func (o *Options) name(index int) string { return fmt.Sprintf(o.Name, index+1) }

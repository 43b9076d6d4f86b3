package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

func TestLatency(t *testing.T) {
	if l := latency(nil); l != (Latency{}) {
		t.Errorf("of nothing: %+v", l)
	}
	if l := latency([]time.Duration{7 * time.Millisecond}); l != (Latency{1, 7, 7, 7, 7}) {
		t.Errorf("of one: %+v", l)
	}
	var samples []time.Duration
	for i := range 200 {
		samples = append(samples, time.Duration(200-i)*time.Millisecond)
	}
	if l := latency(samples); l != (Latency{200, 100, 180, 198, 200}) {
		t.Errorf("of 1 to 200: %+v", l)
	}
	if r := rate(10, 0); r != 0 {
		t.Errorf("in no time %v", r)
	}
}

func TestOptions(t *testing.T) {
	maker, err := papertpm.NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Maker: maker, Nodes: 3, Connections: 2, Quote: []int{7, 0, 7}}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	if o.PerConnection != 1 || o.name(0) != "load-000001" || !slices.Equal(o.Quote, []int{0, 7}) {
		t.Errorf("%+v", o)
	}
	for what, spoil := range map[string]func(*Options){
		"no nodes":         func(o *Options) { o.Nodes = 0 },
		"no connections":   func(o *Options) { o.Connections = 0 },
		"no maker":         func(o *Options) { o.Maker = nil },
		"negative":         func(o *Options) { o.PerConnection = -1 },
		"less than none":   func(o *Options) { o.Renewals = -1 },
		"into the past":    func(o *Options) { o.Retry = -1 },
		"lazy renewals":    func(o *Options) { o.Lazy, o.Renewals = true, 1 },
		"PCR 24":           func(o *Options) { o.Quote = []int{24} },
		"one name for all": func(o *Options) { o.Name = "load" },
		"two numbers":      func(o *Options) { o.Name = "%d-%d" },
		"text":             func(o *Options) { o.Name = "load-%s" },
		"no name":          func(o *Options) { o.Name = "Load %d" },
		"no process":       func(o *Options) { o.Coordinator = 1 << 30 },
	} {
		bad := o
		spoil(&bad)
		if err := bad.complete(); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Each error is counted under a code, and only what will pass is tried again.
func TestFailures(t *testing.T) {
	problem := func(status int, code string) error {
		return fmt.Errorf("the coordinator says: %w", &chancery.Problem{Status: status, Code: code, Detail: "no", Hint: "do"})
	}
	for _, test := range []struct {
		err   error
		code  string
		again bool
	}{
		{problem(403, "token-used"), "token-used", false},
		{problem(503, "no-token"), "no-token", true},
		{problem(429, "invalid"), "http-429", true},
		{problem(502, ""), "http-502", false},
		{away(problem(403, "held")), "held", false},
		{away(io.EOF), "network", true},
		{away(context.DeadlineExceeded), "timeout", true},
		{away(context.Canceled), "interrupted", true},
		{away(chancery.ErrNotOurCoordinator), "not-our-coordinator", false},
		{away(fmt.Errorf("answer: %w", chancery.ErrMalformed)), "malformed", false},
		{&join.RefusedError{Reason: "no"}, "refused", false},
		{unlike("crl", "CRL: %w", chancery.ErrCRLRollback), "crl", false},
		{unlike("certificate", "%w", &chancery.RefusedError{Check: chancery.CheckNC, Reason: chancery.ErrMalformed}), "certificate", false},
		{tpm.ErrForeignKey, "chip", false},
	} {
		if f := failure(test.err); f.Code != test.code || f.First == "" || transient(test.err) != test.again {
			t.Errorf("%v: %+v, tried again: %t", test.err, f, transient(test.err))
		}
	}
	if f := failure(problem(403, "token-used")); f.Hint != "do" {
		t.Errorf("hint %q", f.Hint)
	}
	if away(nil) != nil {
		t.Error("no error is one")
	}
}

// The CPU time of a process is that of its descendants too.
func TestProcessCPU(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	own := ownCPU()
	for n := 0; ownCPU()-own < 0.1; n++ { // burns time
	}
	after, err := processCPU(os.Getpid())
	if err != nil || after-before < 0.05 {
		t.Errorf("%.2f s used 100 ms later, %.2f s before: %v", after, before, err)
	}
	if parent, err := processCPU(os.Getppid()); err != nil || parent < after-0.05 {
		t.Errorf("the parent used %.2f s, this process %.2f s: %v", parent, after, err)
	}
	if _, _, err := parseStat([]byte("12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 3 4 5 6 20")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "12 (x) S", "12 (x) S one 1 1 1 1 1 1 1 1 1 1 1 1 1", "12 (x) S 1 1 1 1 1 1 1 1 1 1 -1 1 1 1"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
}

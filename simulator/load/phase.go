package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// What is timed.
const (
	connect  = iota // TCP and TLS
	answered        // initial connection to CA:N:S
	decided         // N:S to the verdict
	list            // the CRL
	whole
	kinds
)

// A Phase is what came of all enrolments, or of all renewals.
type Phase struct {
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Retried   int `json:"retried" doc:"attempts that were made again, because the coordinator was away or asked for it"`

	Seconds         float64  `json:"seconds" doc:"on the clock, from the first to the last"`
	PerSecond       float64  `json:"per_second" doc:"that succeeded"`
	ClientCPU       float64  `json:"client_cpu_seconds" doc:"of the process that the load generator runs in, kernel included"`
	CoordinatorCPU  *float64 `json:"coordinator_cpu_seconds,omitempty" doc:"of the coordinator's process and its signer processes, if it was named and lives"`
	ClientCPUEach   float64  `json:"client_cpu_ms_each" doc:"the same for each that succeeded, milliseconds"`
	CoordinatorEach *float64 `json:"coordinator_cpu_ms_each,omitempty"`
	ConnectionsMade int      `json:"connections_made"`
	Connect         Latency  `json:"connect" doc:"TCP and TLS"`
	Answer          Latency  `json:"ca_n_s" doc:"initial connection to CA:N:S"`
	Verdict         Latency  `json:"verdict" doc:"submission of N:S to the verdict"`
	CRL             Latency  `json:"crl" doc:"the CRL, fetched and verified"`
	Whole           Latency  `json:"whole" doc:"all of it, from the connection to a certificate that was verified, attempts that were made again included"`
}

// A phase is one under way.
type phase struct {
	name    string
	all     int
	start   time.Time
	done    atomic.Int64
	failed  atomic.Int64
	retried atomic.Int64

	// mu guards samples; held for an append only.
	mu      sync.Mutex
	samples [kinds][]time.Duration

	ownCPU float64 // at the start
	coCPU  float64
	coErr  error
}

// took notes how long something took that began at start.
func (p *phase) took(what int, start time.Time) {
	d := time.Since(start)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.samples[what] = append(p.samples[what], d)
}

// begin starts the clocks.
func (r *run) begin(name string, all int) *phase {
	p := &phase{name: name, all: all}
	if r.Coordinator != 0 {
		p.coCPU, p.coErr = processCPU(r.Coordinator)
	}
	p.ownCPU, p.start = ownCPU(), time.Now()
	return p
}

// end stops the clocks.
func (r *run) end(p *phase) *Phase {
	elapsed, cpu := time.Since(p.start), ownCPU()-p.ownCPU
	done := int(p.done.Load())
	each := func(seconds float64) float64 { return 1000 * seconds / float64(max(done, 1)) }
	s := &Phase{
		Succeeded: done, Failed: int(p.failed.Load()), Retried: int(p.retried.Load()),
		Seconds: elapsed.Seconds(), PerSecond: rate(done, elapsed), ClientCPU: cpu, ClientCPUEach: each(cpu),
		ConnectionsMade: len(p.samples[connect]),
		Connect:         latency(p.samples[connect]), Answer: latency(p.samples[answered]), Verdict: latency(p.samples[decided]),
		CRL: latency(p.samples[list]), Whole: latency(p.samples[whole]),
	}
	if r.Coordinator != 0 && p.coErr == nil {
		// One that was started anew has used less than before, or is not there.
		if now, err := processCPU(r.Coordinator); err == nil && now >= p.coCPU {
			s.CoordinatorCPU, s.CoordinatorEach = new(now-p.coCPU), new(each(now-p.coCPU))
		}
	}
	return s
}

// watch reports progress until stop is called.
func (r *run) watch(p *phase) (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	report := func() {
		last, _ := r.last.Load().(string)
		r.Progress(Progress{Phase: p.name, Done: int(p.done.Load()), Failed: int(p.failed.Load()), All: p.all, Elapsed: time.Since(p.start), Last: last})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-ctx.Done():
				report()
				return
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

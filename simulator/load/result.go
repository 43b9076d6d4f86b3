package load

import (
	"fmt"
	"io"
	"time"
)

// A Result is what came of a run. In JSON it is a contract: members may be
// added, and those that are there keep their meaning.
type Result struct {
	URL     string    `json:"url"`
	Fleet   string    `json:"fleet" doc:"the pin"`
	Started time.Time `json:"started"`

	Nodes         int    `json:"nodes" doc:"that were to enrol"`
	Connections   int    `json:"connections" doc:"at a time"`
	PerConnection int    `json:"per_connection" doc:"enrolments that one connection served"`
	EK            string `json:"ek" doc:"kind of the chips' endorsement keys"`
	Sealed        bool   `json:"sealed" doc:"N:SK is sealed to a boot state"`
	Quote         []int  `json:"quote" doc:"PCRs"`
	Lazy          bool   `json:"lazy" doc:"chips were made while the clock ran"`

	ChipSeconds float64 `json:"chip_seconds" doc:"what it took to make chips and keys before the clock started; 0 if lazy"`
	Enrolments  Phase   `json:"enrolments"`
	Renewals    *Phase  `json:"renewals,omitempty"`

	Serials  int       `json:"serials" doc:"distinct serial numbers of certificates that were verified"`
	Revoked  int       `json:"revoked" doc:"how many of them the CRL of the end names"`
	CRL      uint64    `json:"crl" doc:"number of that list; 0 if it was not fetched"`
	Failures []Failure `json:"failures,omitempty" doc:"the most frequent first"`
}

// Failed reports how many enrolments and renewals failed, and how many checks
// at the end.
func (r *Result) Failed() (n int) {
	for _, f := range r.Failures {
		n += f.Count
	}
	return n
}

// Text prints the result for people.
func (r *Result) Text(w io.Writer) {
	sealed := "not sealed"
	if r.Sealed {
		sealed = "sealed"
	}
	fmt.Fprintf(w, "SIMULATOR: nodes on paper chips, EK %s, N:SK %s, PCR %v quoted\n", r.EK, sealed, r.Quote)
	r.Enrolments.text(w, "enrolments", r)
	if r.Renewals != nil {
		r.Renewals.text(w, "renewals", r)
	}
	fmt.Fprintf(w, "\n%d certificates verified, each with a serial number of its own", r.Serials)
	if r.CRL != 0 {
		fmt.Fprintf(w, "; %d of them in CRL number %d", r.Revoked, r.CRL)
	}
	fmt.Fprintln(w)
	for _, f := range r.Failures {
		fmt.Fprintf(w, "failed %d × %s: %s\n", f.Count, f.Code, f.First)
	}
}

func (p *Phase) text(w io.Writer, what string, r *Result) {
	fmt.Fprintf(w, "\n%d %s in %.2f s: %.1f a second, %d connections at a time, %d made", p.Succeeded, what, p.Seconds, p.PerSecond, r.Connections, p.ConnectionsMade)
	if p.Failed > 0 {
		fmt.Fprintf(w, "; %d failed", p.Failed)
	}
	if p.Retried > 0 {
		fmt.Fprintf(w, "; %d attempts made again", p.Retried)
	}
	fmt.Fprintf(w, "\n  CPU          %8.2f s here, %.2f ms each\n", p.ClientCPU, p.ClientCPUEach)
	if p.CoordinatorCPU != nil {
		fmt.Fprintf(w, "               %8.2f s coordinator, %.2f ms each\n", *p.CoordinatorCPU, *p.CoordinatorEach)
	}
	fmt.Fprintf(w, "  milliseconds %8s %8s %8s %8s\n", "p50", "p90", "p99", "max")
	for _, l := range []struct {
		name string
		Latency
	}{{"TCP and TLS", p.Connect}, {"to CA:N:S", p.Answer}, {"N:S to N:C", p.Verdict}, {"CRL", p.CRL}, {"all of it", p.Whole}} {
		if l.Count > 0 {
			fmt.Fprintf(w, "  %-12s %8.1f %8.1f %8.1f %8.1f\n", l.name, l.P50, l.P90, l.P99, l.Max)
		}
	}
}

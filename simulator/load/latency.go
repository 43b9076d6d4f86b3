package load

import (
	"slices"
	"time"
)

// A Latency is how long something took, in milliseconds.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// latency sorts the samples. A percentile is the smallest sample that is not
// below that share of them.
func latency(samples []time.Duration) Latency {
	n := len(samples)
	if n == 0 {
		return Latency{}
	}
	slices.Sort(samples)
	at := func(percent int) float64 { return ms(samples[(n*percent+99)/100-1]) }
	return Latency{Count: n, P50: at(50), P90: at(90), P99: at(99), Max: ms(samples[n-1])}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rate is how many there are in a second.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

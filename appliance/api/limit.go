package api

import (
	"net"
	"net/http"
	"sync"

	"golang.org/x/time/rate"
)

// A limiter bounds how often each network address may start an enrolment: it
// is the gate before anything that costs a signature check.
type limiter struct {
	every rate.Limit
	burst int

	mu      sync.Mutex // guards buckets; held for a map access only
	buckets map[string]*rate.Limiter
}

// maxBuckets bounds the memory that strangers can make the limiter use. When
// it is full all addresses start anew, which is no worse than having as many
// addresses.
const maxBuckets = 1 << 14

// newLimiter allows perSecond on average and as many as ten seconds' worth at
// once. Zero allows everything.
func newLimiter(perSecond float64) *limiter {
	l := &limiter{every: rate.Limit(perSecond), burst: max(1, int(10*perSecond)), buckets: map[string]*rate.Limiter{}}
	if perSecond == 0 {
		l.every = rate.Inf
	}
	return l
}

func (l *limiter) allow(r *http.Request) bool {
	if l.every == rate.Inf {
		return true
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	l.mu.Lock()
	b := l.buckets[host]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			clear(l.buckets)
		}
		b = rate.NewLimiter(l.every, l.burst)
		l.buckets[host] = b
	}
	l.mu.Unlock()
	return b.Allow()
}

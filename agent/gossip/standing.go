package gossip

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// An address may come often for a moment, since many nodes may have one.
	every = 2 * time.Second
	burst = 8
	// tolerated is how often somebody may break off before he is shunned, which
	// who sends what is wrong is at once; and shunned for how long.
	tolerated = 3
	shunTime  = 10 * time.Minute
	// maxStandings bounds what is remembered of strangers.
	maxStandings = 1024
)

// standings are what is known of others, by network address. The zero value
// knows nobody.
type standings struct {
	mu sync.Mutex // guards of
	of map[string]*standing
}

type standing struct {
	rate    *rate.Limiter
	strikes int
	since   time.Time // of the last strike
	seen    time.Time
}

// host is under which address somebody who comes is remembered: a machine has
// a network of IPv6 for itself.
func host(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip, bits := at.Addr().Unmap(), 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return a.String()
	}
	return prefix.String()
}

// get returns the standing of an address. The caller holds mu.
func (s *standings) get(who string, now time.Time) *standing {
	if s.of == nil {
		s.of = map[string]*standing{}
	}
	st := s.of[who]
	if st == nil {
		if len(s.of) >= maxStandings {
			s.forgetOne()
		}
		st = &standing{rate: rate.NewLimiter(rate.Every(every), burst)}
		s.of[who] = st
	}
	st.seen = now
	if st.strikes > 0 && now.Sub(st.since).Abs() >= shunTime {
		st.strikes = 0
	}
	return st
}

// forgetOne makes room: for whoever was not seen for longest.
func (s *standings) forgetOne() {
	var oldest string
	for who, st := range s.of {
		if oldest == "" || st.seen.Before(s.of[oldest].seen) {
			oldest = who
		}
	}
	delete(s.of, oldest)
}

// shuns reports whether an address is not talked to at present.
func (s *standings) shuns(who string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(who, now).strikes >= tolerated
}

// admits reports whether somebody who comes is listened to.
func (s *standings) admits(who string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.get(who, now)
	switch {
	case st.strikes >= tolerated:
		return ErrShunned
	case !st.rate.AllowN(now, 1):
		return ErrBusy
	}
	return nil
}

// strike notes what somebody did: he sent what is wrong, or he broke off.
func (s *standings) strike(who string, now time.Time, wrong bool) (shunned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.get(who, now)
	st.strikes++
	if wrong {
		st.strikes = max(st.strikes, tolerated)
	}
	st.since = now
	return st.strikes >= tolerated
}

package run

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// Topics of problems. A topic has one problem at a time.
const (
	topicChip        = "tpm"
	topicKey         = "key"
	topicRenewal     = "renewal"
	topicCRL         = "crl"
	topicPointer     = "pointer"
	topicCoordinator = "coordinator"
	topicAddress     = "address"
	topicAttest      = "attest"
	topicAnchor      = "anchor"
)

// health holds what does not work at present. The zero value is healthy.
type health struct {
	// mu guards problems.
	mu       sync.Mutex
	problems map[string]string
}

// set replaces the topic's problem, "" for none, and reports whether that is
// news.
func (h *health) set(topic, problem string) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.problems == nil {
		h.problems = map[string]string{}
	}
	news = h.problems[topic] != problem
	if problem == "" {
		delete(h.problems, topic)
	} else {
		h.problems[topic] = problem
	}
	return news
}

// has reports whether the topic has a problem.
func (h *health) has(topic string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.problems[topic] != ""
}

// all returns the topics with their problems.
func (h *health) all() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.problems)
}

// fail makes err the topic's problem and logs it, unless it is the one that
// stands already or the agent is being stopped.
func (a *agent) fail(topic string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if a.health.set(topic, err.Error()) {
		a.Logger.Warn("problem", "with", topic, "error", err)
	}
}

// succeed ends the topic's problem.
func (a *agent) succeed(topic string) {
	if a.health.set(topic, "") {
		a.Logger.Info("resolved", "problem with", topic)
	}
}

// A pause grows with each failure in a row, so that a coordinator that comes
// back is not met by all of its nodes at once.
type pause struct {
	failures int
	longest  time.Duration
}

// next returns how long to wait now: a second, doubled for every earlier
// failure, of which up to half is taken off at random.
func (p *pause) next() time.Duration {
	d := p.longest
	if p.failures < 16 {
		d = min(d, time.Second<<p.failures)
	}
	p.failures++
	return d - rand.N(d/2)
}

func (p *pause) reset() { p.failures = 0 }

package run

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/gossip"
	"github.com/chancery-pki/chancery/agent/mesh"
)

const (
	// gossipEvery is how often peers are asked while the coordinator is away, of
	// which up to half is taken off at random.
	gossipEvery = 40 * time.Second
	// gossipPeers is how many peers are asked at a time.
	gossipPeers = 3
	// gossipLeast is the least time between two exchanges with one address,
	// however often it refuses this node.
	gossipLeast = 10 * time.Second
	// maxMet bounds the addresses that are remembered besides those on disk.
	maxMet = 64
)

// openGossip makes the agent's end of the exchanges between peers.
func (a *agent) openGossip() (err error) {
	a.gossip, err = gossip.New(gossip.Config{
		Trust: a.verifier.Trust, TakePointer: a.takePointer, TakeCRL: a.takeCRL, Now: a.clock, Logger: a.Logger,
	})
	return err
}

// keepGossip asks peers for newer lists while the coordinator has none for
// this node.
func (a *agent) keepGossip(ctx context.Context) {
	every := a.gossipEvery
	if every == 0 {
		every = gossipEvery
	}
	for sleep(ctx, every-rand.N(every/2)) {
		if a.isAlone() {
			a.askPeers(ctx)
		}
	}
}

// isAlone reports whether the coordinator does not answer, or has no list that
// is fresh.
func (a *agent) isAlone() bool {
	crl := a.verifier.Trust().CRL
	return a.health.has(topicCoordinator) || crl == nil || crl.Fresh(a.clock()) != nil
}

// newerCRL fetches what is newer than the list held: from the coordinator, or
// from peers if that is away.
func (a *agent) newerCRL(ctx context.Context) error {
	err := a.fetchCRL(ctx)
	if err != nil && a.askPeers(ctx) {
		return nil
	}
	return err
}

// askPeers has an exchange with some peers and reports whether anything moved.
func (a *agent) askPeers(ctx context.Context) (moved bool) {
	addresses := append(a.met.addresses(), a.dir.Addresses()...)
	if configured := a.addresses.Load(); configured != nil {
		addresses = slices.AppendSeq(addresses, maps.Values(*configured))
	}
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	results := make([]bool, min(gossipPeers, len(addresses)))
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { results[i] = a.exchange(ctx, addresses[i]) })
	}
	all.Wait()
	return slices.Contains(results, true)
}

func (a *agent) exchange(ctx context.Context, address string) (moved bool) {
	moved, err := a.gossip.Exchange(ctx, address)
	a.Logger.Debug("asked a peer for newer lists", "address", address, "moved", moved, "error", err)
	return moved
}

// dial opens a session. If one of the two nodes lacks what the other one has,
// which is how it looks when either refuses, it is exchanged, and the second
// attempt is the last.
func (a *agent) dial(ctx context.Context, address, name string) (*mesh.Session, error) {
	s, err := a.mesh.Dial(ctx, "tcp", address, name)
	if err != nil && a.mayBeBehind(err) && a.met.due(address, a.Now()) && a.exchange(ctx, address) {
		s, err = a.mesh.Dial(ctx, "tcp", address, name)
	}
	if err == nil {
		a.met.note(address, a.Now())
	}
	return s, err
}

// mayBeBehind reports whether a session failed for what an exchange may mend.
// Why the peer refuses it does not say.
func (a *agent) mayBeBehind(err error) bool {
	if _, ok := errors.AsType[*mesh.RefusedByPeerError](err); ok {
		return true
	}
	for _, e := range []error{
		chancery.ErrNewerThanCRL, chancery.ErrCRLStale, chancery.ErrCRLMissing, chancery.ErrCRLFloor, chancery.ErrUnknownCA, chancery.ErrUnknownLog,
	} {
		if errors.Is(err, e) {
			return a.isAlone()
		}
	}
	return false
}

// met remembers where peers were found. The zero value remembers nobody.
type met struct {
	mu    sync.Mutex // guards the fields
	at    map[string]time.Time
	asked map[string]time.Time
}

// note remembers that somebody was found at an address.
func (m *met) note(address string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	remember(&m.at, address, now)
}

// due reports whether it is time for another exchange with an address, and
// takes it that there is one.
func (m *met) due(address string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, ok := m.asked[address]; ok && now.Sub(last).Abs() < gossipLeast {
		return false
	}
	remember(&m.asked, address, now)
	return true
}

func (m *met) addresses() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.at))
}

// remember sets the time of an address, in place of the oldest if there is no
// room.
func remember(m *map[string]time.Time, address string, now time.Time) {
	if *m == nil {
		*m = map[string]time.Time{}
	}
	if _, ok := (*m)[address]; !ok && len(*m) >= maxMet {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(*m)), func(a, b string) int { return (*m)[a].Compare((*m)[b]) })
		delete(*m, oldest)
	}
	(*m)[address] = now
}

package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// A TokenConfig says how a [Pool] is to use one token.
type TokenConfig struct {
	URI URI
	// Environment is set for the signer process, beyond that of this one.
	Environment map[string]string
	// Sessions is how many signatures may be in the token at a time; 0 means
	// 4. `chancery hsm bench` tells what is good.
	Sessions int
	// Deadline is how long the token may be silent while it has something to
	// sign; 0 means 5 s. Then its signer process is killed; likewise when one
	// signature takes that long, and several times what others take.
	Deadline time.Duration
	// KeepAlive is how long a session may be idle before it is used for a
	// challenge; 0 means 8 s. Known devices drop sessions after 15 s and more.
	KeepAlive time.Duration
	// Keys are the names of those of [PoolConfig.Keys] that the token is used
	// for; none means all.
	Keys []string
	// Wrappable is as in [Options].
	Wrappable bool
}

// A PinnedKey is a key that is known from elsewhere, from a pointer record. A
// token that has another one under the name is refused.
type PinnedKey struct {
	Name   string             // for callers and messages, such as "ca"
	Key    URI                // object and id, as in [Token.FindKey]
	Public chancery.PublicKey // if it is no key, the one that a token proves first
}

// A PoolConfig says what to sign with. All fields are required.
type PoolConfig struct {
	Tokens []TokenConfig
	Keys   []PinnedKey
	// Fleet is the one that challenges are signed in.
	Fleet  chancery.FleetID
	Latch  Latch
	Logger *slog.Logger
}

const (
	defaultDeadline  = 5 * time.Second
	defaultKeepAlive = 8 * time.Second
	// connectTime bounds everything from the start of a signer process to its
	// last challenge. Network HSMs take seconds.
	connectTime = 15 * time.Second
	// A signer process with fewer sessions than wanted looks for more each time
	// that growFactor times KeepAlive have passed, which is a minute or so.
	growFactor = 8
	// A token that has not answered for minLate, nor for lateFactor times its
	// usual, is late: what it has is given to others too, if there are any.
	minLate    = 300 * time.Millisecond
	lateFactor = 3
)

// A Pool signs with keys that one token holds, or several, each in a signer
// process of its own. Whatever happens to a token or to its module, a request
// waits until some token has signed it, or its context ends.
type Pool struct {
	config  PoolConfig
	members []*member
	opened  chan struct{} // closed when OpenPool succeeded
	closing chan struct{}
	close   sync.Once
	stopped sync.WaitGroup // the members' goroutines
	first   chan outcome   // of each member's first try; has room for all

	// mu guards the keys' public halves, the state of members and processes,
	// and the requests. It is never held while anything waits.
	mu      sync.Mutex
	public  []chancery.PublicKey // by index in config.Keys
	waiting []*request           // that no token has, oldest first
}

// OpenPool starts a signer process for each token and returns when every key
// has a token that proved that it holds it. If that cannot be, because all
// that hold it failed at their first try, the error says how each did; the
// types are those of [Open], and [*WrongKeyError]. Tokens that failed while
// others did not are tried again in the background.
func OpenPool(ctx context.Context, c PoolConfig) (*Pool, error) {
	p := &Pool{config: c, opened: make(chan struct{}), closing: make(chan struct{}), first: make(chan outcome, len(c.Tokens))}
	if c.Latch == "" {
		return nil, errors.New("pool: no latch: it would try a wrong PIN again and again")
	}
	if len(c.Tokens) == 0 || len(c.Keys) == 0 || len(c.Keys) > 255 {
		return nil, fmt.Errorf("pool: %d tokens and %d keys, want at least one of each", len(c.Tokens), len(c.Keys))
	}
	for _, k := range c.Keys {
		p.public = append(p.public, k.Public)
	}
	for _, t := range c.Tokens {
		m, err := newMember(p, t)
		if err != nil {
			return nil, err
		}
		p.members = append(p.members, m)
	}
	for i, k := range c.Keys {
		if !slices.ContainsFunc(p.members, func(m *member) bool { return m.serves(i) }) {
			return nil, fmt.Errorf("pool: no token is configured to hold the key %q", k.Name)
		}
	}
	for _, m := range p.members {
		p.stopped.Go(m.run)
	}
	if err := p.ready(ctx); err != nil {
		p.Close()
		return nil, err
	}
	close(p.opened)
	return p, nil
}

// An outcome is how a member's first try to connect ended.
type outcome struct {
	member *member
	err    error
}

// ready waits until each key is served, or cannot be.
func (p *Pool) ready(ctx context.Context) error {
	var failures []error
	served := make([]bool, len(p.config.Keys))
	for range p.members {
		select {
		case o := <-p.first:
			if o.err != nil {
				failures = append(failures, o.err)
				continue
			}
			for _, i := range o.member.keys {
				served[i] = true
			}
			if !slices.Contains(served, false) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(failures...)
}

// Settle waits until each token has been tried once: what [Pool.Status] says
// of it is then more than that it is being connected.
func (p *Pool) Settle(ctx context.Context) error {
	for _, m := range p.members {
		select {
		case <-m.settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close ends the signer processes. Requests that wait, and later ones, get
// [ErrClosed].
func (p *Pool) Close() error {
	p.close.Do(func() { close(p.closing) })
	p.stopped.Wait()
	return nil
}

// A PoolKey is one of the pool's keys, a [chancery.Signer].
type PoolKey struct {
	pool   *Pool
	index  int
	public chancery.PublicKey
}

// Key returns the key with the name.
func (p *Pool) Key(name string) (*PoolKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, k := range p.config.Keys {
		if k.Name == name {
			return &PoolKey{pool: p, index: i, public: p.public[i]}, nil
		}
	}
	return nil, fmt.Errorf("pool: no key is called %q", name)
}

// PublicKey returns the public half.
func (k *PoolKey) PublicKey() chancery.PublicKey { return k.public }

// Sign signs the statement (docs/protocol.md section 2) with whichever token
// is soonest done, and verifies the signature before it returns it. It waits
// for tokens to come back for as long as the context lasts; what a token had
// when it failed is signed by the next one, the same message. The errors are
// the context's and [ErrClosed].
func (k *PoolKey) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	digest := digestOf(k.public, fleet, s)
	for {
		a, err := k.pool.sign(ctx, k.index, digest)
		if err != nil {
			return nil, fmt.Errorf("sign with key %q: %w", k.pool.config.Keys[k.index].Name, err)
		}
		sig, err := accept(k.public, a.raw, digest)
		if err == nil {
			return sig, nil
		}
		a.by.fault(&FaultError{Label: k.pool.config.Keys[k.index].Name, Err: err})
	}
}

// A request is a digest that waits for its signature. Pool.mu guards what
// changes.
type request struct {
	key     int
	digest  []byte
	answer  chan answer // has room for one
	done    bool        // it has its answer, or nobody waits for it
	holders []*process  // that have it: one, or more if some are late
	own     *process    // only this one is asked: it is a challenge
}

type answer struct {
	raw []byte
	err error    // why there is none; of challenges only
	by  *process // who signed
}

func (p *Pool) sign(ctx context.Context, key int, digest []byte) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	r := &request{key: key, digest: digest, answer: make(chan answer, 1)}
	p.mu.Lock()
	to := p.soonest(r)
	if to == nil {
		p.waiting = append(p.waiting, r)
	} else {
		to.add(r)
	}
	p.mu.Unlock()
	to.flush()
	select {
	case a := <-r.answer:
		return a, nil
	case <-ctx.Done():
		p.abandon(r)
		return answer{}, ctx.Err()
	case <-p.closing:
		p.abandon(r)
		return answer{}, ErrClosed
	}
}

func (p *Pool) abandon(r *request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.done = true
	p.waiting = slices.DeleteFunc(p.waiting, func(w *request) bool { return w == r })
}

// soonest returns the process that would have the request done first, of those
// that have room and have it not yet; those that are late come last. The caller
// holds mu.
func (p *Pool) soonest(r *request) *process {
	var best *process
	var least time.Duration
	for _, m := range p.members {
		q := m.process
		if q == nil || !m.serves(r.key) || q.full() || slices.Contains(r.holders, q) {
			continue
		}
		delay := q.delay()
		if q.late {
			delay += time.Hour
		}
		if best == nil || delay < least {
			best, least = q, delay
		}
	}
	return best
}

// advance hands out what can be: requests that wait, and those that only late
// processes have. The caller holds mu, and flushes the processes when it no
// longer does.
func (p *Pool) advance() (to []*process) {
	give := func(r *request, q *process) {
		q.add(r)
		if !slices.Contains(to, q) {
			to = append(to, q)
		}
	}
	var still []*request
	for i, r := range p.waiting {
		if !p.room() {
			still = append(still, p.waiting[i:]...)
			break
		}
		if q := p.soonest(r); q != nil {
			give(r, q)
		} else { // no token of this key
			still = append(still, r)
		}
	}
	p.waiting = still
	late := func(q *process) bool { return q.late }
	for _, m := range p.members {
		if m.process == nil || !m.process.late {
			continue
		}
		for _, f := range m.process.flight {
			if f.done || f.own != nil || slices.ContainsFunc(f.holders, func(q *process) bool { return !late(q) }) {
				continue
			}
			if q := p.soonest(f.request); q != nil && !q.late {
				give(f.request, q)
			}
		}
	}
	return to
}

// room reports whether any process could take a request. The caller holds mu.
func (p *Pool) room() bool {
	return slices.ContainsFunc(p.members, func(m *member) bool { return m.process != nil && !m.process.full() })
}

func flush(to []*process) {
	for _, q := range to {
		q.flush()
	}
}

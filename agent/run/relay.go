package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery/agent/forward"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A RelayRequest asks the agent to relay for as long as the request lasts. One
// of the two is set.
type RelayRequest struct {
	Forward *state.Relay `json:"forward,omitempty"`
	Expose  *state.Relay `json:"expose,omitempty"`
}

// A RelayEvent is one thing that happened: first that it listens, last that it
// has ended.
type RelayEvent struct {
	Event   string `json:"event"` // EventListening or EventEnd
	Relay   string `json:"relay,omitempty"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// EventListening: from now on connections are taken.
const EventListening = "listening"

// relays are what the agent relays.
type relays struct {
	// mu guards the fields; it is not held while a relay runs or stops.
	mu         sync.Mutex
	all        map[*forward.Relay]bool
	configured map[string]*configured // by what it is and where it listens
}

// configured is a relay of the configuration.
type configured struct {
	spec  state.Relay
	relay *forward.Relay
	stop  context.CancelFunc
	done  chan struct{}
}

// newRelay listens for a relay.
func (a *agent) newRelay(r *RelayRequest) (*forward.Relay, error) {
	switch {
	case r.Forward != nil && r.Expose == nil:
		return a.newForward(r.Forward)
	case r.Expose != nil && r.Forward == nil:
		return a.newExpose(r.Expose)
	}
	return nil, errors.New("want a forward or an expose")
}

func (a *agent) newForward(r *state.Relay) (*forward.Relay, error) {
	if err := r.CheckForward(); err != nil {
		return nil, err
	}
	name, port, err := r.Node()
	if err != nil {
		return nil, err
	}
	l, err := forward.Listen(r.Listen)
	if err != nil {
		return nil, err
	}
	relay, err := forward.NewForward(l, a.dialler(), name, port, r.Limits(), a.Logger)
	if err != nil {
		l.Close()
	}
	return relay, err
}

// dialler returns what opens the sessions of a forward. Where it found the node
// last it looks first, and nobody is asked as long as the node is there.
func (a *agent) dialler() forward.Dialer {
	var last atomic.Pointer[string]
	return func(ctx context.Context, name, port string) (*mesh.Session, error) {
		held := last.Load()
		var failed error
		if held != nil && a.configured(name) == "" {
			s, err := a.dial(ctx, *held, name)
			if err == nil {
				return s, nil
			}
			failed = err
			// The next one asks first: what does not answer may take all the time
			// that there is.
			last.CompareAndSwap(held, nil)
		}
		address, err := a.resolve(ctx, name)
		if err != nil {
			return nil, errors.Join(failed, err)
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		address = net.JoinHostPort(host, port)
		if failed != nil && address == *held {
			return nil, failed
		}
		s, err := a.dial(ctx, address, name)
		if err == nil {
			last.Store(&address)
		}
		return s, err
	}
}

func (a *agent) newExpose(r *state.Relay) (*forward.Relay, error) {
	if err := r.CheckExpose(); err != nil {
		return nil, err
	}
	rules, err := forward.ParseRules(r.Allow)
	if err != nil {
		return nil, err
	}
	l, err := a.mesh.Listen("tcp", r.Listen)
	if err != nil {
		return nil, err
	}
	relay, err := forward.NewExpose(l, r.To, rules, r.ProxyProtocol, r.Limits(), a.Logger)
	if err != nil {
		l.Close()
	}
	return relay, err
}

// runRelay runs a relay until ctx ends.
func (a *agent) runRelay(ctx context.Context, r *forward.Relay) error {
	a.relays.mu.Lock()
	if a.relays.all == nil {
		a.relays.all = map[*forward.Relay]bool{}
	}
	a.relays.all[r] = true
	a.relays.mu.Unlock()
	a.Logger.Info("relaying", "relay", r.String())
	err := r.Run(ctx)
	a.relays.mu.Lock()
	delete(a.relays.all, r)
	a.relays.mu.Unlock()
	return err
}

// relay runs a relay for a client of the socket.
func (a *agent) relay(ctx context.Context, request *RelayRequest, tell func(RelayEvent)) {
	end := RelayEvent{Event: EventEnd}
	r, err := a.newRelay(request)
	if err == nil {
		tell(RelayEvent{Event: EventListening, Relay: r.String(), Address: forward.Describe(r.Addr())})
		err = a.runRelay(ctx, r)
	}
	if err != nil {
		end.Error, end.Hint = err.Error(), cli.HintOf(err)
	}
	tell(end)
}

const topicRelay = "relay"

// keepRelays runs the relays of the configuration until ctx ends.
func (a *agent) keepRelays(ctx context.Context) {
	if _, err := a.reload(ctx); err != nil {
		a.fail(topicRelay, err)
	}
	for {
		select {
		case answer := <-a.reloads:
			changed, err := a.reload(ctx)
			answer <- reloaded{changed, err}
		case <-ctx.Done():
			a.relays.mu.Lock()
			all := a.relays.configured
			a.relays.configured = nil
			a.relays.mu.Unlock()
			for _, c := range all {
				<-c.done
			}
			return
		}
	}
}

// reloaded is the answer to who asks for the configuration to be read again.
type reloaded struct {
	changed []string
	err     error
}

// reload reads the configuration and has the relays be as it says: new ones are
// started, those that are gone are stopped, new rules count at once, also for
// what is open. Addresses and the rules for programs are
// taken over too. It tells what it did. A relay that cannot be started is a
// problem and no error; a file that cannot be read changes nothing.
func (a *agent) reload(ctx context.Context) (changed []string, err error) {
	config, err := a.dir.Config()
	if err != nil {
		return nil, err
	}
	a.addresses.Store(&config.Addresses)
	a.rules.Store(&config.Programs)
	a.changes.tell()
	want := map[string]RelayRequest{}
	for i := range config.Forward {
		want["forward "+config.Forward[i].Listen] = RelayRequest{Forward: &config.Forward[i]}
	}
	for i := range config.Expose {
		want["expose "+config.Expose[i].Listen] = RelayRequest{Expose: &config.Expose[i]}
	}
	a.relays.mu.Lock()
	have := a.relays.configured
	a.relays.mu.Unlock()
	next := map[string]*configured{}
	for key, c := range have {
		w, ok := want[key]
		if spec := w.spec(); ok && sameButRules(&c.spec, spec) {
			if !slices.Equal(c.spec.Allow, spec.Allow) {
				rules, err := forward.ParseRules(spec.Allow)
				if err != nil {
					return changed, err
				}
				changed = append(changed, fmt.Sprintf("%s: new rules, %d connections cut", c.relay, c.relay.SetRules(rules)))
				c.spec = *spec
			}
			next[key] = c
			continue
		}
		c.stop()
		c.relay.Close() // now: another one may listen there
		changed = append(changed, c.relay.String()+": stopped")
	}
	var failed []error
	for key, w := range want {
		if next[key] != nil {
			continue
		}
		r, err := a.newRelay(&w)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", key, err))
			continue
		}
		c := &configured{spec: *w.spec(), relay: r, done: make(chan struct{})}
		var life context.Context
		life, c.stop = context.WithCancel(ctx)
		go func() {
			defer close(c.done)
			if err := a.runRelay(life, r); err != nil {
				a.fail(topicRelay, err)
			}
		}()
		next[key] = c
		changed = append(changed, r.String()+": started")
	}
	a.relays.mu.Lock()
	a.relays.configured = next
	a.relays.mu.Unlock()
	if err := errors.Join(failed...); err != nil {
		a.fail(topicRelay, err)
	} else {
		a.succeed(topicRelay)
	}
	slices.Sort(changed)
	return changed, nil
}

func (r *RelayRequest) spec() *state.Relay {
	if r.Forward != nil {
		return r.Forward
	}
	return r.Expose
}

func sameButRules(a, b *state.Relay) bool {
	x, y := *a, *b
	x.Allow, y.Allow = nil, nil
	return reflect.DeepEqual(x, y)
}

// askReload has the relay loop read the configuration.
func (a *agent) askReload(ctx context.Context) ([]string, error) {
	answer := make(chan reloaded, 1)
	select {
	case a.reloads <- answer:
		r := <-answer
		return r.changed, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A Relayed describes a connection that the agent relays.
type Relayed struct {
	Relay   string    `json:"relay"`
	Peer    string    `json:"peer"`
	Serial  string    `json:"serial"`
	Program string    `json:"program"` // its address
	Opened  time.Time `json:"opened"`
	In      uint64    `json:"in"`  // bytes from the peer
	Out     uint64    `json:"out"` // bytes to it
}

// Live are the sessions of an agent, and the connections that it relays, each
// over a session of its own.
type Live struct {
	Sessions []LiveInfo `json:"sessions"`
	Relayed  []Relayed  `json:"relayed"`
}

func (a *agent) live() *Live {
	l := &Live{Sessions: []LiveInfo{}, Relayed: []Relayed{}}
	for _, s := range a.mesh.Sessions() {
		l.Sessions = append(l.Sessions, live(s))
	}
	a.relays.mu.Lock()
	defer a.relays.mu.Unlock()
	for r := range a.relays.all {
		for _, c := range r.Connections() {
			l.Relayed = append(l.Relayed, Relayed{c.Relay, c.Peer, c.Serial, c.Program, c.Opened, c.In, c.Out})
		}
	}
	slices.SortFunc(l.Relayed, func(a, b Relayed) int {
		if n := strings.Compare(a.Relay, b.Relay); n != 0 {
			return n
		}
		return a.Opened.Compare(b.Opened)
	})
	return l
}

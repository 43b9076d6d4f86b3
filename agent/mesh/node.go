package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/local"
)

// DefaultMaxSession is how long a session lives at most unless a [Config]
// says otherwise (docs/protocol.md section 7).
const DefaultMaxSession = 12 * time.Hour

// A Config says who a node is and whom it believes. Verifier, Identity and
// Self are required.
type Config struct {
	// Verifier judges the peers. Whoever updates it calls [Node.Recheck].
	Verifier *chancery.Verifier
	// Identity returns what to present in a handshake. It is called once a
	// handshake, concurrently; it should answer out of memory.
	Identity func() (*chancery.Identity, error)
	// Self is this node, so that it notices when it talks to itself.
	Self chancery.NodeID
	// Policy is asked of every peer. Its Grace also keeps live sessions past
	// the end of the CRL: their peers are known, whatever Known says. Without
	// Known, those are whom the node has had a session with since it was made.
	Policy chancery.Policy
	// MaxSession is the longest life of a session; default [DefaultMaxSession].
	MaxSession time.Duration
	// OnNewerCRL, if not nil, is called when a peer's certificate is newer
	// than the CRL held. It fetches the current list into Verifier. One call
	// is under way at a time, whoever waits for it; its context ends with the
	// node. It must not call [Node.Close].
	OnNewerCRL func(context.Context) error
	// Guests are other protocols at the listeners, by the name that the dialler
	// gives in the TLS handshake (ALPN).
	Guests map[string]Guest
	Now    func() time.Time // default [time.Now]
	Logger *slog.Logger     // default: none
}

func (c *Config) setDefaults() {
	if c.MaxSession == 0 {
		c.MaxSession = DefaultMaxSession
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// A Node is one end of all of its sessions. Its methods may be called
// concurrently.
type Node struct {
	config  Config
	agent   *local.Agent    // of a node that Connect made
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tally   tally
	refresh refresher
	known   known
	work    sync.WaitGroup // goroutines and calls that Close waits for

	// mu guards the fields below. It is never held while a peer is judged or
	// a connection is read, written or closed.
	mu        sync.Mutex
	closed    bool
	sessions  map[*Session]struct{}
	listeners map[*Listener]struct{}
	timer     *time.Timer // runs sweep at wake
	wake      time.Time   // zero: not set
}

// New returns a node.
func New(c Config) (*Node, error) {
	switch {
	case c.Verifier == nil:
		return nil, errors.New("mesh: a node needs a verifier")
	case c.Identity == nil:
		return nil, errors.New("mesh: a node needs an identity")
	case c.Self == chancery.NodeID{}:
		return nil, errors.New("mesh: a node needs to know its own node_id")
	case c.MaxSession < 0:
		return nil, fmt.Errorf("mesh: longest session %s, want more than 0", c.MaxSession)
	}
	c.setDefaults()
	n := &Node{config: c, sessions: map[*Session]struct{}{}, listeners: map[*Listener]struct{}{}}
	if c.Policy.Known == nil {
		n.config.Policy.Known = n.known.has
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.timer = time.AfterFunc(sweepEvery, n.sweep)
	n.timer.Stop()
	return n, nil
}

// begin announces work that Close is to wait for; end it with n.work.Done.
func (n *Node) begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	n.work.Add(1)
	return nil
}

// Close closes all listeners, ends all sessions and dials with
// [net.ErrClosed], and returns when the last goroutine of the node has ended.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.timer.Stop()
	listeners := make([]*Listener, 0, len(n.listeners))
	for l := range n.listeners {
		listeners = append(listeners, l)
	}
	n.mu.Unlock()
	n.cancel()
	for _, l := range listeners {
		l.Close()
	}
	for _, s := range n.live() {
		s.cut(net.ErrClosed)
	}
	n.work.Wait()
	if n.agent != nil {
		n.agent.Close()
	}
	return nil
}

// A SessionInfo describes a live session.
type SessionInfo struct {
	Peer    string
	NodeID  chancery.NodeID
	Serial  string // of the peer's N:C, "LOG:INDEX"
	Inbound bool   // the peer dialled
	Local   string // addresses
	Remote  string
	Opened  time.Time
	Ends    time.Time // at the latest
}

// Sessions describes the live sessions, the oldest first.
func (n *Node) Sessions() []SessionInfo {
	live := n.live()
	list := make([]SessionInfo, len(live))
	for i, s := range live {
		list[i] = SessionInfo{
			Peer:    s.peer.Name,
			NodeID:  s.peer.NodeID,
			Serial:  s.peer.Certificate.Serial.String(),
			Inbound: s.inbound,
			Local:   s.LocalAddr().String(),
			Remote:  s.RemoteAddr().String(),
			Opened:  s.opened,
			Ends:    s.ends,
		}
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.Peer, b.Peer))
	})
	return list
}

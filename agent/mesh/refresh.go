package mesh

import (
	"context"
	"sync"
	"time"
)

// refreshEvery is the least time between two fetches of the CRL that peers
// who dial this node cause. The CRL is looked at before any signature, so
// strangers can cause one with a certificate that they made up.
const refreshEvery = 10 * time.Second

// A refresher has one call of [Config.OnNewerCRL] under way at a time.
type refresher struct {
	// mu guards the fields; it is not held during the call.
	mu   sync.Mutex
	call *refreshCall // under way, or nil
	last time.Time    // when a call in the background began
}

type refreshCall struct {
	done chan struct{}
	err  error // set before done is closed
}

// fetchCRL fetches a newer CRL and rechecks the live sessions by it. Whoever
// comes while a fetch is under way shares its result.
func (n *Node) fetchCRL(ctx context.Context) error {
	call, err := n.startFetch()
	if err != nil {
		return err
	}
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchCRLSoon fetches a newer CRL in the background, unless that was done a
// moment ago.
func (n *Node) fetchCRLSoon() {
	r, now := &n.refresh, n.config.Now()
	r.mu.Lock()
	due := now.Sub(r.last).Abs() >= refreshEvery
	if due {
		r.last = now
	}
	r.mu.Unlock()
	if due {
		n.startFetch()
	}
}

func (n *Node) startFetch() (*refreshCall, error) {
	r := &n.refresh
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.call != nil {
		return r.call, nil
	}
	if err := n.begin(); err != nil {
		return nil, err
	}
	call := &refreshCall{done: make(chan struct{})}
	r.call = call
	go func() {
		defer n.work.Done()
		call.err = n.config.OnNewerCRL(n.ctx)
		if call.err != nil {
			n.config.Logger.Warn("fetching the CRL failed", "error", call.err)
		} else {
			n.Recheck()
		}
		r.mu.Lock()
		r.call = nil
		r.mu.Unlock()
		close(call.done)
	}()
	return call, nil
}

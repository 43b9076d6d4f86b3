package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// reached is how far the files in the state directory have come: what is to be
// anchored next.
type reached struct {
	// mu guards the fields below.
	mu      sync.Mutex
	record  uint64
	list    uint64
	changed bool // there is more to hold on to than a heartbeat
}

// crl takes the head of a list that is on disk. What lists revoked that did not
// get there, or that the agent never saw, the head does not tell.
func (r *reached) crl(h *chancery.CRLHead) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = r.changed || h.Revokes() || h.Number != r.list+1
	r.list = h.Number
}

func (r *reached) pointer(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record, r.changed = seq, true
}

// take returns what is to be anchored, if there is anything; giveBack says that
// it was not.
func (r *reached) take() (pointer, crl uint64, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed, r.changed = r.changed, false
	return r.record, r.list, changed
}

func (r *reached) giveBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = true
}

func (a *agent) node() *anchor.Node {
	return &anchor.Node{Fleet: a.fleet, Key: a.nc.Load().NodeKey, Dir: a.dir, Chip: a.chip}
}

// openAnchor refuses a state directory that may be an older copy.
func (a *agent) openAnchor() error {
	note, err := a.node().Verify()
	if err != nil {
		return err
	}
	a.anchored.Store(note)
	a.crlFloor = max(a.crlFloor, note.CRL) // there may be no list on disk
	a.reached.record, a.reached.list = a.pointer().Seq, a.crlNumber()
	// What happened between the note and the newest list, nobody knows any more.
	a.reached.changed = a.reached.record > note.Pointer || a.reached.list > note.CRL
	return nil
}

// anchoring is the part of the key loop that moves the anchor.
type anchoring struct {
	*agent
	due time.Time // not before
}

// step moves the anchor if there is reason to, and it is time. Its error is the
// chip's or the seal's; what else goes wrong is a problem that is tried again.
func (n *anchoring) step(ctx context.Context) (time.Duration, error) {
	now := n.Now()
	if n.due.IsZero() || n.due.Sub(now) > anchor.Every { // at the start, or the clock was set back
		n.due = now.Add(min(max(n.anchored.Load().At.Add(anchor.Every).Sub(now), 0), anchor.Every))
	}
	if wait := n.due.Sub(now); wait > 0 {
		return wait, nil
	}
	pointer, crl, changed := n.reached.take()
	if !changed {
		return anchor.Every, nil
	}
	note, err := n.node().Move(ctx, n.key.Load(), pointer, crl, n.clock())
	n.due = now.Add(anchor.Every)
	if err == nil {
		n.anchored.Store(note)
		n.succeed(topicAnchor)
		n.Logger.Debug("anchored", "pointer", pointer, "crl", crl, "counter", note.Counter)
		return anchor.Every, nil
	}
	n.reached.giveBack()
	if chipError(err) {
		n.due = now
		return 0, err
	}
	n.fail(topicAnchor, err)
	return anchor.Every, nil
}

// ErrAnchored: the anchor is as it should be.
var ErrAnchored = errors.New("the anchor is as it should be; nothing was changed")

// ResetAnchor takes the state directory of a node whose anchor says that it may
// be an older copy, after it has fetched the newest pointer record and CRL. The
// list must be fresh, and neither may be older than what an anchor that is this
// node's own speaks of. It waits for approval if the seal is closed. A node whose
// anchor is good is [ErrAnchored].
func ResetAnchor(ctx context.Context, dir *state.Dir, o Options) (*AnchorInfo, error) {
	a, err := prepare(dir, o)
	if err != nil {
		return nil, err
	}
	note, err := a.resetAnchor(ctx)
	if err := errors.Join(err, a.close()); err != nil {
		return nil, err
	}
	return anchorInfo(note), nil
}

func (a *agent) resetAnchor(ctx context.Context) (*chancery.Anchor, error) {
	note, _, err := a.node().Look()
	if err == nil {
		return nil, ErrAnchored
	}
	if _, ok := errors.AsType[*anchor.RollbackError](err); !ok {
		return nil, err
	}
	if note == nil {
		note = new(chancery.Anchor) // it does not say anything
	}
	a.crlFloor = max(a.crlFloor, note.CRL)
	if err := a.newest(ctx, note.Pointer); err != nil {
		return nil, err
	}
	for {
		next, err := a.node().Make(ctx, a.key.Load(), a.pointer().Seq, a.crlNumber(), a.clock())
		if sealed, ok := errors.AsType[*tpm.SealedError](err); ok && ctx.Err() == nil {
			a.reseal(ctx, sealed)
			continue
		}
		return next, err
	}
}

// newest takes pointer record and CRL from a coordinator, and is not content
// with older ones, or with a list that is stale.
func (a *agent) newest(ctx context.Context, leastPointer uint64) error {
	var failed []error
	for _, ep := range a.pointer().Endpoints {
		err := a.newestOf(ctx, ep.URL, leastPointer)
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

func (a *agent) newestOf(ctx context.Context, url string, leastPointer uint64) error {
	p, err := coordinator.FetchPointer(ctx, url)
	if err != nil {
		return err
	}
	if p.Seq < leastPointer {
		return fmt.Errorf("%w: number %d, the anchor is of %d", chancery.ErrPointerRollback, p.Seq, leastPointer)
	}
	if err := a.takePointer(p); err != nil {
		return err
	}
	if err := a.fetchCRL(ctx); err != nil {
		return err
	}
	crl := a.verifier.Trust().CRL
	switch {
	case crl == nil:
		return chancery.ErrCRLMissing
	case crl.Head().Number < a.crlFloor:
		return fmt.Errorf("%w: number %d, had %d", chancery.ErrCRLRollback, crl.Head().Number, a.crlFloor)
	}
	return crl.Fresh(a.Now())
}

package run

import (
	"context"
	"errors"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

const (
	pointerEvery = 10 * time.Minute
	// pointerLeast is the least time between two looks, however many pins and
	// signatures fail meanwhile.
	pointerLeast = 10 * time.Second
)

// keepPointer looks for a newer pointer record every ten minutes, and when
// [agent.seekPointer] asks for it.
func (a *agent) keepPointer(ctx context.Context) {
	for {
		timer := time.NewTimer(pointerEvery)
		select {
		case <-timer.C:
		case <-a.seek:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		a.refreshPointer(ctx)
		if !sleep(ctx, pointerLeast) {
			return
		}
	}
}

// seekPointer asks for a look at the pointer record if err may come from its
// age: the coordinator shows a TLS key that it does not name, a CRL is signed
// by a CA key that it does not name, or it has expired.
func (a *agent) seekPointer(err error) {
	if errors.Is(err, chancery.ErrNotOurCoordinator) || errors.Is(err, chancery.ErrSignature) ||
		errors.Is(err, chancery.ErrUnknownCA) || errors.Is(err, chancery.ErrPointerExpired) {
		select {
		case a.seek <- struct{}{}:
		default: // asked already
		}
	}
}

// refreshPointer takes the record of the first endpoint that has an acceptable
// one. Pins do not matter for this: the record proves itself.
func (a *agent) refreshPointer(ctx context.Context) {
	held := a.pointer()
	var failed []error
	for _, ep := range held.Endpoints {
		p, err := coordinator.FetchPointer(ctx, ep.URL)
		if err == nil {
			err = a.takePointer(p)
		}
		if err == nil {
			a.succeed(topicPointer)
			return
		}
		if errors.Is(err, chancery.ErrPointerRollback) || errors.Is(err, chancery.ErrPointerFork) {
			if conn, err := coordinator.Dial(ctx, held, nil); err == nil {
				a.tell(ctx, conn, &chancery.Shown{Pointer: held.Marshal()})
				conn.Close()
			}
		}
		failed = append(failed, err)
	}
	a.fail(topicPointer, errors.Join(failed...))
}

// takePointer has the verifier judge a record, saves it, and cuts the sessions
// that do not stand under it. A fork keeps the old record and raises an alarm
// (docs/protocol.md section 3).
func (a *agent) takePointer(p *chancery.Pointer) error {
	a.pointerMu.Lock()
	defer a.pointerMu.Unlock()
	held := a.pointer()
	err := a.verifier.UpdatePointer(p, a.clock())
	if errors.Is(err, chancery.ErrPointerFork) {
		err = errors.Join(err, a.dir.RaiseAlarm(state.PointerFork, held.Marshal(), p.Marshal()))
		a.heedAlarms()
	}
	if err != nil || p.Seq == held.Seq {
		return err
	}
	if err := a.dir.SavePointer(p); err != nil {
		return err
	}
	a.reached.pointer(p.Seq)
	a.Logger.Info("pointer record", "number", p.Seq)
	a.mesh.Recheck()
	a.changes.tell()
	return nil
}

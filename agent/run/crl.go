package run

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

const (
	// pollTime is how long the coordinator may let the agent wait for a newer
	// list, of which up to pollSpread is taken off at random: a list ends the
	// polls of all nodes at one moment, and they shall not all end again later.
	pollTime   = 25 * time.Second
	pollSpread = 10 * time.Second
	// pollLeast is the least time between two polls that brought nothing: a
	// coordinator that answers at once must not make the agent spin.
	pollLeast = time.Second
	// readyTime is how long the first poll waits for a session certificate.
	readyTime = 5 * time.Second
)

// keepCRL polls for newer lists until ctx ends.
func (a *agent) keepCRL(ctx context.Context) {
	failed := pause{longest: time.Minute}
	for ctx.Err() == nil {
		err := a.pollCRL(ctx, &failed)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // as itself, now that it can
		}
		a.seekPointer(err)
		if crlError(err) {
			a.fail(topicCRL, err)
		} else {
			a.fail(topicCoordinator, err)
		}
		sleep(ctx, failed.next())
	}
}

// pollCRL polls over one connection until something fails, or, of a node that
// could not say who it is, until it can.
func (a *agent) pollCRL(ctx context.Context, failed *pause) error {
	// A node that says who it is can be asked to attest; the list is the same
	// for one that cannot, because its seal is closed.
	select {
	case <-a.ready:
	case <-time.After(readyTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	identity := a.present
	if _, err := a.present(); err != nil {
		identity = nil
	}
	conn, err := coordinator.Dial(ctx, a.pointer(), identity)
	if err != nil {
		return err
	}
	defer conn.Close()
	for wait := time.Duration(0); ; wait = pollTime - rand.N(pollSpread) { // the first answer tells at once that it works again
		start, before := time.Now(), a.crlNumber()
		if err := a.updateCRL(ctx, conn, wait); err != nil {
			return err
		}
		a.succeed(topicCoordinator)
		a.succeed(topicCRL)
		failed.reset()
		if _, err := a.present(); err == nil && identity == nil {
			return nil
		}
		if wait > 0 && a.crlNumber() == before && !sleep(ctx, pollLeast-time.Since(start)) {
			return ctx.Err()
		}
	}
}

// fetchCRL fetches what is newer now, aside of the poll.
func (a *agent) fetchCRL(ctx context.Context) error {
	conn, err := coordinator.Dial(ctx, a.pointer(), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	return a.updateCRL(ctx, conn, 0)
}

// updateCRL asks once. A delta that does not fit is followed by the full list. A
// coordinator that has an older list than the node, or another one, is shown the
// node's.
func (a *agent) updateCRL(ctx context.Context, conn *coordinator.Conn, wait time.Duration) error {
	a.heedAlarms()
	list, attest, err := conn.CRL(ctx, a.crlNumber(), wait)
	if attest {
		select {
		case a.asked <- struct{}{}:
		default: // it is to be done anyway
		}
	}
	if err != nil || list == nil {
		return err
	}
	err = a.takeCRL(list)
	// A delta may also start from another list of the number that is held.
	if errors.Is(err, chancery.ErrCRLGap) || errors.Is(err, chancery.ErrCRLBody) {
		if list, _, err = conn.CRL(ctx, 0, 0); err == nil {
			err = a.takeCRL(list)
		}
	}
	if crl := a.verifier.Trust().CRL; crl != nil && (errors.Is(err, chancery.ErrCRLRollback) || errors.Is(err, chancery.ErrCRLFork)) {
		a.tell(ctx, conn, &chancery.Shown{CRLHead: crl.Head().Marshal()})
	}
	return err
}

// tell tells a coordinator that is not the newest one, or not the only one, so:
// its database may have been put back.
func (a *agent) tell(ctx context.Context, conn *coordinator.Conn, s *chancery.Shown) {
	if err := conn.Show(ctx, s); err != nil {
		a.Logger.Debug("the coordinator was not told", "error", err)
	}
}

// takeCRL has the verifier judge a list, saves it, and cuts the sessions of
// those that it names.
func (a *agent) takeCRL(list []byte) error {
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	before := a.verifier.Trust().CRL
	if n, err := chancery.CRLNumber(list); err == nil && n < a.crlFloor {
		return fmt.Errorf("%w: number %d, had %d", chancery.ErrCRLRollback, n, a.crlFloor)
	}
	crl, err := a.verifier.UpdateCRL(list, a.clock())
	if errors.Is(err, chancery.ErrCRLFork) {
		err = errors.Join(err, a.dir.RaiseAlarm(state.CRLFork, before.Marshal(), list))
		a.heedAlarms()
	}
	if err != nil {
		return err
	}
	a.raiseFloor(crl.Head().ThisUpdate)
	// First what it says, then the disk: one that is full must not keep the
	// sessions of revoked peers open.
	if cut := a.mesh.Recheck(); cut > 0 {
		a.Logger.Info("sessions cut", "count", cut, "crl", crl.Head().Number)
	}
	a.changes.tell()
	if before == nil || crl.Head().Number > before.Head().Number {
		a.gossip.Keep(list)
		if err := a.dir.SaveCRL(crl); err != nil {
			return err
		}
		a.reached.crl(crl.Head())
		a.Logger.Debug("CRL", "number", crl.Head().Number, "revoked", crl.Revoked())
	}
	return nil
}

func (a *agent) crlNumber() uint64 {
	if crl := a.verifier.Trust().CRL; crl != nil {
		return crl.Head().Number
	}
	return 0
}

// crlError tells what is wrong with a list from what is wrong on the way to
// it.
func crlError(err error) bool {
	for _, e := range []error{
		chancery.ErrCRLStale, chancery.ErrCRLFuture, chancery.ErrCRLRollback, chancery.ErrCRLFork, chancery.ErrCRLGap,
		chancery.ErrCRLBody, chancery.ErrCRLFloor, chancery.ErrMalformed, chancery.ErrSignature, chancery.ErrHighS, chancery.ErrSigRange,
		chancery.ErrSigLength, chancery.ErrSuiteFloor,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

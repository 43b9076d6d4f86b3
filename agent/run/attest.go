package run

import (
	"context"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
)

// An attesting keeps the coordinator informed of the boot state: with each new
// session certificate, and when it asks.
type attesting struct {
	*agent
	shown *session  // the session certificate with which it was last shown
	again time.Time // not before, after a failure
	pause pause
}

// step attests if it is time and returns how long there is nothing to do. Its
// error is the chip's; what the coordinator does is a problem that is tried
// again.
func (t *attesting) step(ctx context.Context) (time.Duration, error) {
	now := t.identity.Load()
	asked := false
	select {
	case <-t.asked:
		asked = true
	default:
	}
	if now == t.shown && !asked {
		return idle, nil
	}
	if wait := time.Until(t.again); wait > 0 && !asked {
		return wait, nil
	}
	err := t.attest(ctx)
	if err == nil {
		t.shown = now
		t.pause.reset()
		t.succeed(topicAttest)
		return idle, nil
	}
	if chipError(err) {
		return 0, err
	}
	t.seekPointer(err)
	t.fail(topicAttest, err)
	wait := t.pause.next()
	t.again = time.Now().Add(wait)
	return wait, nil
}

// An attestError is the problem while the coordinator does not like what it sees.
type attestError struct{ reason string }

func (e *attestError) Error() string {
	return "the coordinator does not accept this machine's boot state: " + coordinator.Printable(e.reason)
}

// Hint tells what to do.
func (e *attestError) Hint() string {
	return "find out what changed; an operator sees it with: chancery node attest NAME"
}

// attest shows the boot state and takes what the coordinator has for the chip:
// approvals of states to come, and the end of those for states that are past.
// A raised epoch is shown at once.
func (t *attesting) attest(ctx context.Context) error {
	conn, err := coordinator.Dial(ctx, t.pointer(), t.present)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		answer, err := t.show(ctx, conn)
		if err != nil {
			return err
		}
		if answer.Status != chancery.AttestGood {
			return &attestError{answer.Reason}
		}
		if raised, err := t.take(answer); err != nil || !raised {
			return err
		}
	}
}

// show is one attestation.
func (t *attesting) show(ctx context.Context, conn *coordinator.Conn) (*chancery.AttestAnswer, error) {
	question, err := conn.Attest(ctx, &chancery.AttestRequest{})
	if err != nil {
		return nil, err
	}
	if len(question.Challenge) != 32 {
		return nil, fmt.Errorf("attest: %w: challenge of %d bytes, want 32", chancery.ErrMalformed, len(question.Challenge))
	}
	qualifying := chancery.AttestQualifying(t.fleet, t.self, [32]byte(question.Challenge))
	r := &chancery.AttestRequest{Challenge: question.Challenge}
	pcrs := join.Union(t.config.PCRs, question.QuotePCRs)
	if t.file.Seal != nil {
		pcrs = join.Union(pcrs, t.file.Seal.PCRs)
		epoch, err := t.chip.CertifyEpoch(qualifying)
		if err != nil {
			return nil, err
		}
		r.Epoch = new(chancery.Attestation(epoch))
	}
	if r.Quote, err = join.Quote(t.chip, pcrs, qualifying); err != nil {
		return nil, err
	}
	if question.EventLog {
		if r.EventLog, err = join.ReadEventLog(t.config.EventLog); err != nil {
			return nil, err
		}
	}
	return conn.Attest(ctx, r)
}

// take keeps approvals, and then raises the epoch if that is asked: in this
// order, for the approvals of the old epoch die.
func (t *attesting) take(answer *chancery.AttestAnswer) (raised bool, err error) {
	if t.file.Seal == nil || len(answer.Approvals) == 0 && answer.Increment == nil {
		return false, nil
	}
	fresh := false
	for _, r := range answer.Approvals {
		added, err := t.addApproval(&r)
		if err != nil {
			return false, err
		}
		fresh = fresh || added
	}
	if fresh {
		if err := t.reloadKey(); err != nil {
			return false, err
		}
	}
	if answer.Increment == nil {
		return false, nil
	}
	seal := t.file.Seal
	epoch, err := t.chip.ApplyEpoch(seal.Approval, answer.Increment.From, answer.Increment.Signature)
	if err != nil {
		return false, err
	}
	t.Logger.Info("older approvals are retired", "epoch", epoch)
	return true, nil
}

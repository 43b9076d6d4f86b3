package run

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// Pauses between two requests for an approval.
const (
	firstReseal = 2 * time.Second
	lastReseal  = 30 * time.Second
)

// errSealed is the problem while N:SK is closed.
func (a *agent) errSealed() error {
	return fmt.Errorf("sealed: waiting for approval of PCR values; an operator runs: chancery pcr approve %s", a.config.Name)
}

// reseal asks the coordinator to approve the machine's present boot state
// until it does or ctx ends (docs/protocol.md section 4, Sealing). The AK is
// not sealed, so the chip can show the state. Meanwhile the session
// certificate that the node may have stays good.
func (a *agent) reseal(ctx context.Context, sealed *tpm.SealedError) {
	a.Logger.Warn("the chip refuses to sign", "error", sealed)
	a.fail(topicKey, a.errSealed())
	for pause := firstReseal; ctx.Err() == nil; pause = min(2*pause, lastReseal) {
		approved, err := a.askApproval(ctx)
		switch {
		case err != nil && chipError(err):
			return // the key loop opens the chip anew
		case err != nil:
			a.seekPointer(err)
			a.fail(topicCoordinator, fmt.Errorf("asking for approval: %w", err))
		case approved:
			a.Logger.Info("the boot state is approved")
			return
		}
		sleep(ctx, pause)
	}
}

// askApproval shows the boot state and takes the approval if there is one. It
// is asked anew each time, challenge and quote included: the state may have
// changed again.
func (a *agent) askApproval(ctx context.Context) (approved bool, err error) {
	// Without a session certificate there is nothing to authenticate with.
	conn, err := coordinator.Dial(ctx, a.pointer(), nil)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	request := &chancery.ResealRequest{NodeID: a.self.String()}
	answer, err := conn.Reseal(ctx, request)
	if err != nil {
		return false, err
	}
	if len(answer.Challenge) != 32 {
		return false, fmt.Errorf("reseal: %w: challenge of %d bytes, want 32", chancery.ErrMalformed, len(answer.Challenge))
	}
	request.Challenge = answer.Challenge
	qualifying := chancery.ResealQualifying(a.fleet, a.self, [32]byte(answer.Challenge))
	if request.Quote, err = join.Quote(a.chip, a.file.Seal.PCRs, qualifying); err != nil {
		return false, err
	}
	epoch, err := a.chip.CertifyEpoch(qualifying)
	if err != nil {
		return false, err
	}
	request.Epoch = new(chancery.Attestation(epoch))
	if answer, err = conn.Reseal(ctx, request); err != nil {
		return false, err
	}
	if answer.Approval == nil {
		return false, nil
	}
	return a.approve(answer.Approval)
}

// approve adds an approval to the key file, which verifies it, and loads N:SK
// anew. An approval for a state that the machine is not in is kept for later
// and does not count.
func (a *agent) approve(r *chancery.ApprovalRecord) (approved bool, err error) {
	if _, err := a.addApproval(r); err != nil {
		return false, err
	}
	if err := a.reloadKey(); err != nil {
		return false, err
	}
	values, err := approvedValues(r)
	if err != nil {
		return false, err
	}
	now, err := a.chip.PCRValues(a.file.Seal.PCRs)
	if err != nil {
		return false, err
	}
	epoch, err := a.chip.Epoch(a.file.Seal.Approval)
	return err == nil && now.Digest() == values.Digest() && epoch <= r.Epoch, err
}

func approvedValues(r *chancery.ApprovalRecord) (tpm.PCRValues, error) {
	values := tpm.PCRValues{}
	for pcr, v := range r.Values {
		if len(v) != 32 {
			return nil, fmt.Errorf("approval: %w: PCR %d of %d bytes, want 32", chancery.ErrMalformed, pcr, len(v))
		}
		values[pcr] = [32]byte(v)
	}
	return values, nil
}

// addApproval adds an approval to the key file, and reports whether it was not
// there.
func (a *agent) addApproval(r *chancery.ApprovalRecord) (added bool, err error) {
	values, err := approvedValues(r)
	if err != nil {
		return false, err
	}
	digest := values.Digest()
	if slices.ContainsFunc(a.file.Approvals, func(b tpm.Approval) bool { return b.Epoch == r.Epoch && b.PCRDigest == digest }) {
		return false, nil
	}
	return true, a.file.AddApproval(r.Epoch, values, r.Signature)
}

// reloadKey keeps the key file, and takes N:SK as it is with it.
func (a *agent) reloadKey() error {
	if err := a.dir.SaveKey(a.file); err != nil {
		return err
	}
	key, err := state.LoadKey(a.chip, a.file, a.config.PINFile)
	if err == nil {
		a.key.Store(key)
	}
	return err
}

package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// ErrKeyWorks: there is nothing to rejoin for.
var ErrKeyWorks error = &works{}

type works struct{}

func (*works) Error() string { return "this node's key works; nothing was changed" }
func (*works) Hint() string {
	return "start it with chancery-agent run; to give a node a new key, have it revoked and join it under the policy's rules"
}

// An AwaitsApprovalError is a key that waits for the boot state to be approved,
// which is no reason for a new one.
type AwaitsApprovalError struct {
	Name string
	Err  error
}

func (e *AwaitsApprovalError) Error() string { return e.Err.Error() }

// Unwrap returns the *tpm.SealedError.
func (e *AwaitsApprovalError) Unwrap() error { return e.Err }

// Hint tells what to do.
func (e *AwaitsApprovalError) Hint() string {
	return "start chancery-agent run, which asks for it; an operator then runs: chancery pcr approve " + e.Name
}

// Rejoin gives an enrolled node a new key, because the chip was cleared or
// exchanged, or the key file is lost. The node keeps its name. An operator has
// to approve, and the certificates that it had are revoked in the same step.
// A node whose key works is [ErrKeyWorks].
//
// On another chip a token for the name is needed: nothing else says that this
// machine has to do with the node.
func Rejoin(ctx context.Context, dir *state.Dir, o Options) (*Result, error) {
	config, err := dir.Config()
	if err != nil {
		return nil, err
	}
	p, err := dir.Pointer()
	if err != nil {
		return nil, err
	}
	if o.Fleet, err = config.Pin(); err != nil {
		return nil, err
	}
	if o.Token != nil && o.Token.Fleet != o.Fleet {
		return nil, fmt.Errorf("%w, %s", ErrOtherFleet, o.Fleet.Pin())
	}
	o.Rejoin, o.Name = true, config.Name
	if o.Device == "" {
		o.Device = config.TPM
	}
	if o.EventLog == "" {
		o.EventLog = config.EventLog
	}
	if o.URL == "" && len(p.Endpoints) > 0 {
		o.URL = p.Endpoints[0].URL
	}
	if err := checkDead(ctx, dir, &o, p, config.PINFile); err != nil {
		return nil, err
	}
	return Join(ctx, dir, o)
}

// checkDead returns nil if the node's key will never sign again.
func checkDead(ctx context.Context, dir *state.Dir, o *Options, p *chancery.Pointer, pinFile string) error {
	nc, err := dir.Certificate()
	if err != nil {
		return err
	}
	file, err := dir.Key()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tpm.ErrKeyFile) {
		return nil // lost
	}
	if err != nil {
		return err
	}
	if public, err := file.PublicKey(); err != nil || !public.Equal(nc.NodeKey) {
		return nil // of a rejoin that was interrupted
	}
	renewed := o.Unsealed || o.PINFile != "" // the operator wants another protection
	if !renewed {
		o.Unsealed, o.PINFile = file.Seal == nil, pinFile
	}
	chip, err := tpm.Open(o.Device)
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrChip, o.Device, err)
	}
	defer chip.Close()
	key, err := state.LoadKey(chip, file, pinFile)
	if errors.Is(err, tpm.ErrForeignKey) || renewed && file.PIN && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = key.Sign(ctx, p.FleetID(), chancery.Challenge{})
	switch _, sealed := errors.AsType[*tpm.SealedError](err); {
	case err == nil:
		return ErrKeyWorks
	case sealed:
		return &AwaitsApprovalError{nc.Name, err}
	case errors.Is(err, tpm.ErrIndex): // its epoch counter is gone for good
		return nil
	case renewed && errors.Is(err, tpm.ErrPIN): // the PIN is lost, and there is a new one or none
		return nil
	}
	return err
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// chip looks at the TPM and at what the node has in it.
func (e *examination) chip(ctx context.Context) {
	device := e.TPM
	if device == "" && e.config != nil {
		device = e.config.TPM
	}
	if device == "" {
		device = "/dev/tpmrm0"
	}
	if e.running != nil && e.TPM == "" {
		e.note("tpm", "stop the agent to have the chip examined", "%s is in use by the running agent, which says: %s", device, e.running.TPM.State)
		return
	}
	chip, err := tpm.Open(device)
	if err != nil {
		e.bad("tpm", "", fmt.Errorf("%w %s: %w", join.ErrChip, device, err))
		return
	}
	defer chip.Close()
	info := chip.Info()
	e.good("tpm", "%s: %s", device, info)
	for _, w := range info.Weaknesses() {
		e.bad("firmware", "update it with the machine's or the board's vendor; keys that it made before are burnt", errors.New(w.String()))
	}
	e.endorsement(chip)
	e.health(chip)
	if e.file != nil {
		e.key(ctx, chip)
		e.anchor(chip)
	}
}

// anchor tells whether the state directory is the newest of this node.
func (e *examination) anchor(chip *tpm.TPM) {
	if e.config == nil || e.nc == nil {
		return
	}
	fleet, err := e.config.Pin()
	if err != nil {
		return // said already
	}
	n := anchor.Node{Fleet: fleet, Key: e.nc.NodeKey, Dir: e.dir, Chip: chip}
	note, pending, err := n.Look()
	switch {
	case err != nil:
		e.bad("anchor", "", err)
	case pending:
		e.note("anchor", "nothing: the next start ends it", "a move to %d was interrupted", note.Counter)
	default:
		e.good("anchor", "pointer record %d and CRL %d, at %d", note.Pointer, note.CRL, note.Counter)
	}
}

func (e *examination) endorsement(chip *tpm.TPM) {
	ek, err := chip.EK()
	switch {
	case err != nil:
		e.bad("EK", "", err)
	case ek.Certificate == nil:
		e.note("EK", "the coordinator has to know the EK by its digest: chancery-agent identify prints it", "the chip has no EK certificate")
	default:
		cert, err := tpm.ParseEKCertificate(ek.Certificate)
		if err != nil {
			e.bad("EK", "", err)
			return
		}
		e.good("EK", "certified by %s", cert.Cert.Issuer)
	}
}

func (e *examination) health(chip *tpm.TPM) {
	h, err := chip.Health()
	if err != nil {
		e.bad("tpm", "", err)
		return
	}
	switch {
	case h.InLockout:
		e.bad("lock-out", fmt.Sprintf("wait %s for each attempt, or reset it with tpm2_dictionarylockout --clear-lockout", h.Recovery), fmt.Errorf("the chip is locked out after %d failed attempts", h.Failures))
	case h.Failures > 0:
		e.note("lock-out", fmt.Sprintf("one is forgotten every %s; reset them with tpm2_dictionarylockout --clear-lockout", h.Recovery), "%d of %d failed attempts: each loss of power after the use of an endorsement key may be one", h.Failures, h.MaxFailures)
	default:
		e.good("lock-out", "no failed attempts")
	}
	if !h.Clock.Safe {
		e.note("clock of the chip", "this is no fault; attestations say so", "it went back, as it may after a loss of power")
	}
	var open []string
	if !h.OwnerAuth {
		open = append(open, "the owner hierarchy (anybody here can remove the epoch counter)")
	}
	if !h.LockoutAuth {
		open = append(open, "the lock-out hierarchy (anybody here can clear the chip)")
	}
	if len(open) > 0 {
		e.note("hierarchies", "set passwords once the node is enrolled: tpm2_changeauth -c owner, tpm2_changeauth -c lockout; the agent needs neither", "no password for %s", strings.Join(open, " and "))
	}
}

// key has N:SK sign a challenge, which says nothing.
func (e *examination) key(ctx context.Context, chip *tpm.TPM) {
	var pinFile string
	if e.config != nil {
		pinFile = e.config.PINFile
	}
	key, err := state.LoadKey(chip, e.file, pinFile)
	if errors.Is(err, tpm.ErrForeignKey) {
		e.bad("key", "the chip was cleared, or this is another one: chancery-agent rejoin", err)
		return
	}
	if err != nil {
		e.bad("key", "", err)
		return
	}
	began := time.Now()
	_, err = key.Sign(ctx, chancery.FleetID{}, chancery.Challenge{})
	switch _, sealed := errors.AsType[*tpm.SealedError](err); {
	case sealed:
		e.bad("key", "start the agent, which asks for approval; an operator then runs: chancery pcr approve "+e.nc.Name, err)
	case errors.Is(err, tpm.ErrIndex):
		e.bad("key", "somebody removed the chip's epoch counter; the key will not sign again: chancery-agent rejoin", err)
	case err != nil:
		e.bad("key", "", err)
	case e.file.PIN:
		e.good("key", "it signs, in %s; with its PIN", time.Since(began).Round(time.Millisecond))
	case e.file.Seal == nil:
		e.good("key", "it signs, in %s; it is not sealed", time.Since(began).Round(time.Millisecond))
	default:
		e.good("key", "it signs, in %s; sealed to PCR %v, with %d approvals", time.Since(began).Round(time.Millisecond), e.file.Seal.PCRs, len(e.file.Approvals))
	}
}

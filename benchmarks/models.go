package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
)

const (
	modelRounds     = 5 // of each operation
	modelEnrolments = 3
)

// models takes the time of a clock for what an agent has its chip do, with
// chips as fast as the named ones, which are never busy and have no jitter.
// Beside it is how long the model takes for the one command that it is about.
func models() (results []Result, err error) {
	w, err := newWorkshop(memoryDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	ca := filepath.Join(dir, "manufacturer")
	states, err := manufacture(filepath.Join(dir, "made"), ca, modelEnrolments)
	if err != nil {
		return nil, err
	}
	const command = command + " tpm-models"
	for _, m := range chip.Models() {
		m.Busy, m.Jitter = 0, 0
		t, err := timeModel(filepath.Join(dir, m.Name), program, ca, states, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		line := func(id, what string, ours float64, principal string, latency time.Duration) {
			results = append(results, Result{ID: "tpm-models-" + m.Name + "-" + id, What: fmt.Sprintf("milliseconds %s, a chip like %s", what, m.Name),
				Ours: ours, Beside: milliseconds(latency), Peer: principal + " as the model has it", Ratio: milliseconds(latency) / ours, Met: true, Command: command})
		}
		line("tpm2-sign", "of TPM2_Sign, measured at the chip", t.bareSign, "TPM2_Sign", m.Latency.Sign)
		line("sign", "to sign with a sealed key", t.sign, "TPM2_Sign", m.Latency.Sign)
		line("activate", "to activate a credential", t.activate, "TPM2_ActivateCredential", m.Latency.Activate)
		line("create", "to create a sealed key", t.create, "TPM2_Create", m.Latency.Create)
		line("enrol", "of a whole enrolment with a new chip", t.enrol, "TPM2_Sign", m.Latency.Sign)
	}
	return results, nil
}

// times are medians, in milliseconds.
type times struct{ bareSign, sign, activate, create, enrol float64 }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// timeModel enrols new chips of the model with a fleet of their own, and has
// the last one do the rest.
func timeModel(dir, program, ca string, states []string, m chip.Model) (t times, err error) {
	behind, off, err := power(filepath.Join(dir, "chips"), states)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, off()) }()
	c, err := startCoordinator(program, filepath.Join(dir, "coordinator"), swtpm.Roots(ca))
	if err != nil {
		return t, err
	}
	defer c.stop()
	token, err := c.token("node-*", len(states))
	if err != nil {
		return t, err
	}
	var enrol []float64
	for i := range states {
		slow, err := chip.New("", behind[i].Device(), m)
		if err != nil {
			return t, err
		}
		defer slow.Close()
		name := fmt.Sprintf("node-%d", i)
		node := filepath.Join(dir, name)
		took, err := timed(func() error {
			_, err := c.enrol(context.Background(), token, name, slow.Device(), node)
			return err
		})
		if err != nil {
			return t, err
		}
		enrol = append(enrol, took)
		if i == len(states)-1 {
			if err := t.operations(slow, node); err != nil {
				return t, err
			}
		}
	}
	t.enrol = median(enrol)
	return t, nil
}

// timed returns how long it took, in milliseconds.
func timed(do func() error) (float64, error) {
	start := time.Now()
	err := do()
	return milliseconds(time.Since(start)), err
}

// operations times what the agent has the chip of an enrolled node do.
func (t *times) operations(c *chip.Chip, node string) error {
	d, err := state.Look(node)
	if err != nil {
		return err
	}
	defer d.Close()
	file, err := d.Key()
	if err != nil {
		return err
	}
	owner, err := tpm.Open(c.Device())
	if err != nil {
		return err
	}
	defer owner.Close()
	key, err := owner.LoadKey(file)
	if err != nil {
		return err
	}
	ek, err := owner.EK()
	if err != nil {
		return err
	}
	ak, err := owner.AK()
	if err != nil {
		return err
	}
	public, err := tpm.ParseEndorsementKey(ek.Public)
	if err != nil {
		return err
	}
	credential, encrypted, err := public.MakeCredential(ak.Name, make([]byte, 32))
	if err != nil {
		return err
	}
	watch := watchSign(c)
	for _, o := range []struct {
		into *float64
		do   func() error
	}{
		{&t.sign, func() error { _, err := key.Sign(context.Background(), benchFleet, statement); return err }},
		{&t.activate, func() error { _, err := owner.Activate(credential, encrypted); return err }},
		{&t.create, func() error { _, err := owner.CreateKey(&file.Seal.Sealing); return err }},
	} {
		var all []float64
		for range modelRounds {
			took, err := timed(o.do)
			if err != nil {
				return err
			}
			all = append(all, took)
		}
		*o.into = median(all)
	}
	t.bareSign = median(watch())
	return nil
}

// watchSign takes the time of every TPM2_Sign, on the chip's side of the bus.
// watch returns the times.
func watchSign(c *chip.Chip) (watch func() []float64) {
	isSign := func(command []byte) bool {
		return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCSign
	}
	// Both are called by the one goroutine that serves the owner.
	var began time.Time
	var all []float64
	c.RewriteCommands(func(command []byte) []byte {
		if isSign(command) {
			began = time.Now()
		}
		return command
	})
	c.RewriteAnswers(func(command, answer []byte) []byte {
		if isSign(command) {
			all = append(all, milliseconds(time.Since(began)))
		}
		return answer
	})
	return func() []float64 {
		c.RewriteCommands(nil)
		c.RewriteAnswers(nil)
		return all
	}
}

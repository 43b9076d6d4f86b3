package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/chancery-pki/chancery"
	nodes "github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/scripttest"
	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
)

// A machine is a node's half of an enrolment, as the agent goes through it,
// over and over again with one key.
type machine struct {
	name    string
	process *swtpm.Process
	chip    *tpm.TPM
	file    *tpm.KeyFile
	key     *tpm.Key
	// pending is the intake whose N:S was sent and whose verdict has not come.
	pending *state.Intake
}

// newMachine makes a machine with a new chip and a key that is sealed to it.
func newMachine(dir, name string, p *chancery.Pointer) (*machine, error) {
	s, err := swtpm.Manufacture(filepath.Join(dir, "chips"), name, filepath.Join(dir, "manufacturer"))
	if err != nil {
		return nil, err
	}
	m := &machine{name: name}
	if m.process, err = swtpm.Start(s); err != nil {
		return nil, err
	}
	if m.chip, err = tpm.Open(m.process.Device()); err != nil {
		return nil, errors.Join(err, m.off())
	}
	sealing := &tpm.Sealing{Approval: p.Approval, PCRs: tpm.DefaultPCRs}
	rand.Read(sealing.Nonce[:])
	if m.file, err = m.chip.CreateKey(sealing); err == nil {
		m.key, err = m.chip.LoadKey(m.file)
	}
	if err != nil {
		return nil, errors.Join(err, m.off())
	}
	return m, nil
}

func (m *machine) off() error {
	if m.chip != nil {
		m.chip.Close()
	}
	return m.process.Stop()
}

// enrol gets a certificate, and is told of one by the witness as soon as it is
// in hand. A first attempt that was cut off after N:S was sent is taken up.
func (m *machine) enrol(w *witness, token *chancery.Token) error {
	ctx, cancel := context.WithTimeout(context.Background(), scripttest.Patience)
	defer cancel()
	conn, err := nodes.Dial(ctx, w.pointer, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	var verdict *chancery.Verdict
	if m.pending != nil {
		verdict, err = conn.Verdict(ctx, m.pending.ID)
		if p, ok := errors.AsType[*chancery.Problem](err); ok && (p.Code == "not-found" || p.Code == "no-n-s") {
			m.pending = nil // N:S never arrived
			return nil
		}
	} else {
		a := &join.Applicant{Chip: m.chip, File: m.file, Key: m.key, Pointer: w.pointer, Name: m.name, Device: m.process.Device(),
			PCRs: tpm.DefaultPCRs, Token: token, Now: time.Now, Step: func(string, string) {}}
		_, verdict, err = a.Apply(ctx, conn, conn.Enroll, func(i *state.Intake) error {
			m.pending = i
			w.tell(submitting)
			return nil
		})
	}
	if err != nil {
		return err
	}
	ns, err := m.pending.Statement()
	if err != nil {
		return err
	}
	m.pending = nil
	if verdict.Status != chancery.VerdictIssued {
		return fmt.Errorf("%s: %s: %s", m.name, verdict.Status, verdict.Reason)
	}
	return w.certificate(ns, verdict.NC)
}

package run

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
)

// heedAlarms refuses all new sessions while a fork is not explained
// (docs/protocol.md sections 3 and 6).
func (a *agent) heedAlarms() {
	reason := a.suspension()
	a.verifier.Suspend(reason)
	if was := a.suspended.Swap(&reason); was != nil && (*was == nil) != (reason == nil) {
		a.changes.tell()
	}
}

func (a *agent) suspension() (reason error) {
	for _, alarm := range a.dir.Alarms() {
		err := chancery.ErrCRLFork
		if alarm == state.PointerFork {
			err = chancery.ErrPointerFork
		}
		reason = fmt.Errorf("%w: refusing everybody until an operator has cleared the alarm", err)
	}
	return reason
}

// A Fork is an alarm with both of what there may be one of only.
type Fork struct {
	Alarm state.Alarm `json:"alarm"`
	Held  *Claim      `json:"held,omitempty"` // by this node, when the alarm was raised
	Other *Claim      `json:"other"`
}

// A Claim is a pointer record or the head of a CRL, each with CA:SK's signature.
type Claim struct {
	Number   uint64    `json:"number"`
	Hash     string    `json:"hash"`     // SHA-256 of what is signed, hexadecimal
	Previous string    `json:"previous"` // of the one before it
	Made     time.Time `json:"made"`
	Until    time.Time `json:"until"`
	// Revoked is how many certificates a CRL names.
	Revoked uint64 `json:"revoked,omitempty"`
	// Coordinators are where a pointer record leads.
	Coordinators []string `json:"coordinators,omitempty"`
}

// Forks returns the alarms that stand in the directory, with the evidence.
func Forks(dir *state.Dir) ([]Fork, error) {
	list := []Fork{}
	for _, alarm := range dir.Alarms() {
		f := Fork{Alarm: alarm}
		held, other, err := dir.Evidence(alarm)
		if err == nil {
			f.Other, err = claim(alarm, other)
		}
		if err == nil && held != nil {
			f.Held, err = claim(alarm, held)
		}
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", dir.Path(), alarm, err)
		}
		list = append(list, f)
	}
	return list, nil
}

func claim(alarm state.Alarm, b []byte) (*Claim, error) {
	if alarm == state.PointerFork {
		p, err := chancery.ParsePointer(b)
		if err != nil {
			return nil, err
		}
		hash := p.Hash()
		c := &Claim{Number: p.Seq, Hash: hex.EncodeToString(hash[:]), Previous: hex.EncodeToString(p.Previous[:]), Made: p.Issued, Until: p.Expires}
		for _, ep := range p.Endpoints {
			c.Coordinators = append(c.Coordinators, ep.URL)
		}
		return c, nil
	}
	h, err := chancery.ParseCRLHead(b)
	if err != nil {
		return nil, err
	}
	hash := h.Hash()
	c := &Claim{Number: h.Number, Hash: hex.EncodeToString(hash[:]), Previous: hex.EncodeToString(h.Previous[:]), Made: h.ThisUpdate, Until: h.NextUpdate}
	for _, l := range h.Logs {
		c.Revoked += l.Revoked
	}
	return c, nil
}

// ClearForks ends the alarms in a directory that is open for writing, and
// returns those that stood. A running agent is asked with [Client.ClearForks].
func ClearForks(dir *state.Dir) ([]state.Alarm, error) {
	standing := append([]state.Alarm{}, dir.Alarms()...)
	var failed error
	for _, alarm := range standing {
		failed = errors.Join(failed, dir.ClearAlarm(alarm))
	}
	return standing, failed
}

package device

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// What the shared state has room for.
const (
	maxUnits    = 64
	maxSessions = 1024
)

// A Model is what a device can do. The zero Model is as fast as the module and
// limits nothing.
type Model struct {
	Name     string
	Latency  time.Duration // of a signature, the wait for a unit not counted; 0: none
	Parallel int           // execution units, 1 to 64; not looked at without a latency
	Sessions int           // at a time, of all processes together, at most 1024; 0: no limit
	Idle     time.Duration // after which a session is taken back; 0: never
	Jitter   float64       // of the latency, 0 to 1: it is uniform within ± this part
}

// Rate returns the signatures per second that the device makes at most; +Inf
// if the model does not slow them down.
func (m Model) Rate() float64 {
	if m.Latency == 0 {
		return math.Inf(1)
	}
	return float64(m.Parallel) / m.Latency.Seconds()
}

func (m Model) check() error {
	switch {
	case m.Latency < 0:
		return fmt.Errorf("device: latency %v must not be negative", m.Latency)
	case m.Latency > 0 && (m.Parallel < 1 || m.Parallel > maxUnits):
		return fmt.Errorf("device: %d execution units, a device with a latency has 1 to %d", m.Parallel, maxUnits)
	case m.Sessions < 0 || m.Sessions > maxSessions:
		return fmt.Errorf("device: %d sessions, a device limits them to 1 to %d, or not at all (0)", m.Sessions, maxSessions)
	case m.Idle < 0:
		return fmt.Errorf("device: idle time %v must not be negative", m.Idle)
	case m.Idle > 0 && m.Sessions == 0:
		return fmt.Errorf("device: idle time %v, but only a device that limits sessions takes them back", m.Idle)
	case !(m.Jitter >= 0 && m.Jitter <= 1): // NaN too
		return fmt.Errorf("device: jitter %v must be 0 to 1", m.Jitter)
	}
	return nil
}

// models are in the order of their speed. Vendors publish rates, or nothing;
// where only a rate is known, latency and units are chosen to multiply to it.
var models = []Model{
	// Ed25519 in 114 ms, as the authors of yubihsm-rs measured it; P-256 is of
	// the same order. 16 sessions and 30 s of inactivity are Yubico's figures
	// (YubiHSM 2 user guide, Core Concepts, Session): 8.7 signatures/s.
	{Name: "yubihsm2", Latency: 115 * time.Millisecond, Parallel: 1, Sessions: 16, Idle: 30 * time.Second, Jitter: 0.1},

	// No product: a device that makes 15 signatures/s one after another, where
	// a smart card or a small USB token is on a good day.
	{Name: "slow15", Latency: time.Second / 15, Parallel: 1, Jitter: 0.1},

	// 500 P-256 signatures/s, as the documentation of AWS CloudHSM has it for
	// a cluster of two hsm1.medium.
	{Name: "cloudhsm", Latency: 8 * time.Millisecond, Parallel: 4, Jitter: 0.1},

	// 3,000 P-256 signatures/s, from the same table, for two hsm2m.medium.
	{Name: "cloudhsm2", Latency: 4 * time.Millisecond, Parallel: 12, Jitter: 0.1},

	// 10,000 signatures/s: no figure of Thales', but the round number of the
	// class of network HSMs that Luna 7 stands for. About 30 callers at a time
	// are the documented optimum of one (Luna documentation, HA performance).
	{Name: "luna", Latency: 3 * time.Millisecond, Parallel: 30, Jitter: 0.1},
}

// Names returns the names of the models, the slowest first.
func Names() []string {
	var names []string
	for _, m := range models {
		names = append(names, m.Name)
	}
	return names
}

// Named returns the model of that name, or an [*UnknownModelError].
func Named(name string) (Model, error) {
	for _, m := range models {
		if m.Name == name {
			return m, nil
		}
	}
	return Model{}, &UnknownModelError{Name: name}
}

// An UnknownModelError is a name that no model has.
type UnknownModelError struct {
	Name string
}

func (e *UnknownModelError) Error() string {
	return fmt.Sprintf("no model of a device is named %q", e.Name)
}

// Hint lists the names.
func (e *UnknownModelError) Hint() string { return "the models are " + strings.Join(Names(), ", ") }

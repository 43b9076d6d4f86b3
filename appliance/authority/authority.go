// Package authority decides: who is enrolled, what is issued, renewed and
// revoked, and which boot states are approved.
//
// Start with [New]. [Authority.Connect] and [Authority.Submit] are the two
// halves of an enrolment (docs/protocol.md section 4), [Authority.Revoke]
// its end. Everything that it works with is given to it: the store, the ledger
// through which CA:SK signs, the clock.
//
// # Failure
//
// A *[Refusal] is a rule that says no; it carries what to tell the other side.
// All other errors are the coordinator's own trouble and no business of a
// node's.
package authority

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A Config holds the rules, and what the authority works with.
type Config struct {
	Store    *store.Store
	Ledger   *ledger.Ledger
	Pointer  *chancery.Pointer
	Approval chancery.Signer // the pointer record's approval key
	X509     *issuer.Issuer  // nil if no token has the key
	Now      func() time.Time

	Roots  evidence.Roots
	Policy *policy.Policy // in force at the start; see [Authority.Policy]
	Logger *slog.Logger
	// Life is the life of a certificate, at most the pointer record's MaxLife.
	Life time.Duration
	// ReattestWindow is how long after its last certificate expired a node
	// may come back without a token.
	ReattestWindow time.Duration
}

// An Authority applies the rules. Its methods may be called concurrently.
type Authority struct {
	Config
	fleet  chancery.FleetID
	policy atomic.Pointer[policy.Policy]
	signed trees // CA:N:S, lately
	wanted wanted
	// challengeKey makes reseal challenges that need no state. It is new with
	// every start; a challenge that spans a restart is asked for again.
	challengeKey [32]byte
}

// New returns an authority.
func New(c Config) (*Authority, error) {
	if c.Life <= 0 || c.Life > c.Pointer.MaxLife {
		return nil, fmt.Errorf("certificate life %s must be longer than 0 and not longer than the pointer record's %s", c.Life, c.Pointer.MaxLife)
	}
	if !c.Approval.PublicKey().Equal(c.Pointer.Approval) {
		return nil, fmt.Errorf("the approval key is %s, the pointer record says %s", c.Approval.PublicKey(), c.Pointer.Approval)
	}
	a := &Authority{Config: c, fleet: c.Pointer.FleetID()}
	a.policy.Store(c.Policy)
	a.wanted = wanted{nodes: map[chancery.NodeID]bool{}, changed: make(chan struct{})}
	rand.Read(a.challengeKey[:])
	err := a.Store.View(context.Background(), func(tx *store.Tx) error {
		nodes, err := tx.AttestationsAsked()
		for _, id := range nodes {
			a.wanted.nodes[id] = true
		}
		return err
	})
	return a, errors.Join(err, a.breakOffAll(context.Background()))
}

// Policy returns the policy that is in force.
func (a *Authority) Policy() *policy.Policy { return a.policy.Load() }

// Fleet returns the fleet.
func (a *Authority) Fleet() chancery.FleetID { return a.fleet }

// A Refusal is a rule that says no.
type Refusal struct {
	Status int    // as in HTTP
	Code   string // for programs
	Detail string
	Tip    string
}

func (r *Refusal) Error() string { return r.Detail }

// Hint returns the advice.
func (r *Refusal) Hint() string { return r.Tip }

func refuse(status int, code, tip, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Tip: tip}
}

// notFound turns a missing row into a refusal.
func notFound(err error, format string, args ...any) error {
	if errors.Is(err, store.ErrNotFound) {
		return refuse(404, "not-found", "", format, args...)
	}
	return err
}

package authority

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// KeptAttestations is how many of a node's attestations are kept.
const KeptAttestations = 100

// Attest handles a node that shows its boot state, with each new session
// certificate or because an operator wants to see it. The policy of the day
// judges; what it says against a node that fails is done at once.
func (a *Authority) Attest(ctx context.Context, peer *chancery.Peer, req *chancery.AttestRequest) (*chancery.AttestAnswer, error) {
	at := &attesting{a: a, req: req}
	if err := at.load(ctx, peer.NodeID); err != nil {
		return nil, err
	}
	p := a.Policy()
	if req.Quote == nil {
		wanted := p.Decide(at.subject)
		c := a.challenge(peer.NodeID, a.span())
		return &chancery.AttestAnswer{Status: chancery.AttestChallenge, Challenge: c[:], QuotePCRs: wanted.Quote, EventLog: wanted.EventLog}, nil
	}
	if !a.challenged(peer.NodeID, req.Challenge) {
		return nil, refuse(403, "challenge", "ask for a new challenge", "the challenge is not this coordinator's, or has expired")
	}
	reason, err := at.judge(p)
	if err != nil {
		return nil, err
	}
	if reason != "" {
		return at.failed(ctx, p, reason)
	}
	return at.good(ctx)
}

// An attesting is a node that shows its state.
type attesting struct {
	a       *Authority
	req     *chancery.AttestRequest
	node    *store.Node
	ak      tpm.AttestationKey
	subject *policy.Subject
	quote   *evidence.Quote
	log     *eventlog.Log
	epoch   uint64
}

func (at *attesting) load(ctx context.Context, id chancery.NodeID) error {
	var lists []string
	err := at.a.Store.View(ctx, func(tx *store.Tx) (err error) {
		if at.node, err = tx.Node(id); err != nil {
			return notFound(err, "no such node")
		}
		lists, err = tx.EKLists(at.node.EKDigest)
		return err
	})
	switch {
	case err != nil:
		return err
	case at.node.State != store.NodeActive:
		return refuse(403, "revoked", "", "node %s is %s", at.node.Name, at.node.State)
	}
	if at.ak, err = tpm.ParseAttestationKey(at.node.AKPublic); err != nil {
		return err
	}
	n := at.node
	version, _ := firmware(n.Chip)
	at.subject = &policy.Subject{
		EKDigest: n.EKDigest, EKLists: lists, Issuer: n.Issuer, Manufacturer: n.Chip.Manufacturer, Model: n.Chip.Model, Firmware: version,
		Simulator: n.Simulator, Assurance: certified(n.Issuer), Sealed: n.Seal != nil, Name: n.Name, Token: n.Token, Enrolled: true,
	}
	weigh(at.subject)
	return nil
}

// judge verifies what the chip says, and then asks the policy. What cannot be
// verified is an error, for it says nothing of the node; a reason is the
// policy's.
func (at *attesting) judge(p *policy.Policy) (reason string, err error) {
	a, n := at.a, at.node
	qualifying := chancery.AttestQualifying(a.fleet, n.ID, [32]byte(at.req.Challenge))
	if at.quote, err = evidence.VerifyQuote(at.ak, at.req.Quote, qualifying); err != nil {
		return "", broken(err)
	}
	if n.Seal != nil {
		if at.req.Epoch == nil {
			return "", refuse(400, "malformed", "", "the attestation of the epoch counter is missing")
		}
		if at.epoch, _, err = at.ak.VerifyEpoch(evidence.Attestation(*at.req.Epoch), a.Pointer.Approval, qualifying); err != nil {
			return "", broken(err)
		}
	}
	if len(at.req.EventLog) > 0 {
		// A log that does not lead to the quoted values is the node's failure,
		// not a slip of the network's.
		if at.log, err = evidence.VerifyEventLog(at.req.EventLog, at.quote); err != nil {
			return err.Error(), nil
		}
	}
	f := at.quote.Facts
	switch {
	case f.ResetCount < n.Resets, f.ResetCount == n.Resets && f.Clock < n.Clock:
		return fmt.Sprintf("the chip's counters went back, from reset %d to %d: it was cleared, or is a copy", n.Resets, f.ResetCount), nil
	case at.epoch < n.Epoch:
		return fmt.Sprintf("the epoch counter went back, from %d to %d", n.Epoch, at.epoch), nil
	}
	at.subject.Firmware = f.Firmware
	weigh(at.subject)
	at.subject.Booted = booted(at.quote, at.log)
	d := p.Decide(at.subject)
	if d.Action == policy.Refuse {
		return d.Reason, nil
	}
	if d.SecondOpinion {
		if err := a.secondOpinion(n.AKPublic, qualifying, at.req.Quote, at.req.EventLog); err != nil {
			return err.Error(), nil
		}
	}
	return "", nil
}

// kept is what is kept of an attestation.
func (at *attesting) kept(reason string) (*store.Attestation, error) {
	b, err := json.Marshal(at.req)
	return &store.Attestation{NodeID: at.node.ID, At: at.a.Now(), Good: reason == "", Reason: reason, Evidence: b}, err
}

// failed does what the policy says about a node that fails.
func (at *attesting) failed(ctx context.Context, p *policy.Policy, reason string) (*chancery.AttestAnswer, error) {
	a, n := at.a, at.node
	kept, err := at.kept(reason)
	if err != nil {
		return nil, err
	}
	err = a.Store.Update(ctx, func(tx *store.Tx) error {
		if err := errors.Join(tx.InsertAttestation(kept), tx.PruneAttestations(n.ID, KeptAttestations)); err != nil {
			return err
		}
		d := &deed{chancery.AuditCoordinator, "", n.Name, map[string]string{"node": n.ID.String(), "reason": "attestation: " + reason}}
		switch p.Attest.OnFailure {
		case policy.Hold:
			if n.Held != "" {
				return tx.Hold(n.ID, reason) // it was held before
			}
			d.action = "node.hold"
			return errors.Join(tx.Hold(n.ID, reason), a.writeDown(tx, d))
		case policy.Revoke:
			d.action = "node.revoke"
			_, err := tx.RevokeNode(n.ID, chancery.ReasonPrivilegeWithdrawn, "attestation: "+reason, a.Now())
			return errors.Join(err, a.writeDown(tx, d))
		}
		return nil
	})
	if err != nil {
		return nil, notFound(err, "node %s is not live any more", n.Name)
	}
	a.Logger.Warn("attestation failed", "name", n.Name, "reason", reason, "done", p.Attest.OnFailure)
	if p.Attest.OnFailure == policy.Revoke {
		if err := a.Ledger.PublishCRL(ctx); err != nil {
			return nil, err
		}
	}
	a.attested(n.ID)
	return &chancery.AttestAnswer{Status: chancery.AttestFailed, Reason: reason}, nil
}

// good notes the state and answers with what the coordinator has for the chip.
func (at *attesting) good(ctx context.Context) (*chancery.AttestAnswer, error) {
	a, n, f := at.a, at.node, at.quote.Facts
	answer := &chancery.AttestAnswer{Status: chancery.AttestGood}
	if n.Seal != nil {
		if err := at.approvals(ctx, answer); err != nil {
			return nil, err
		}
	}
	if n.Retire == store.RetireWanted && at.epoch > n.Epoch && n.Epoch > 0 {
		n.Retire, n.RaisedAt = store.RetireRaised, f.ResetCount
	}
	if n.Retire == store.RetireRaised && f.ResetCount > n.RaisedAt {
		n.Retire = "" // sessions that were opened before are gone
	}
	n.Epoch, n.Resets, n.Clock = at.epoch, f.ResetCount, f.Clock
	kept, err := at.kept("")
	if err != nil {
		return nil, err
	}
	err = a.Store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.InsertAttestation(kept), tx.PruneAttestations(n.ID, KeptAttestations), tx.NoteChip(n))
	})
	a.attested(n.ID)
	return answer, err
}

// span numbers the spans of time that challenges are for.
func (a *Authority) span() int64 { return a.Now().Unix() / int64(challengeLife/time.Second) }

// challenged reports whether the challenge is one that the node was given.
func (a *Authority) challenged(id chancery.NodeID, challenge []byte) bool {
	current, before := a.challenge(id, a.span()), a.challenge(id, a.span()-1)
	return hmac.Equal(challenge, current[:]) || hmac.Equal(challenge, before[:])
}

// wanted are the nodes that operators want to attest now, and who waits to hear
// of it.
type wanted struct {
	mu      sync.Mutex
	nodes   map[chancery.NodeID]bool
	changed chan struct{} // closed when a node is added
}

// AttestWanted tells whether a node is to attest now, and what is closed when
// that changes for any.
func (a *Authority) AttestWanted(id chancery.NodeID) (now bool, changed <-chan struct{}) {
	a.wanted.mu.Lock()
	defer a.wanted.mu.Unlock()
	return a.wanted.nodes[id], a.wanted.changed
}

func (a *Authority) want(id chancery.NodeID) {
	a.wanted.mu.Lock()
	defer a.wanted.mu.Unlock()
	a.wanted.nodes[id] = true
	close(a.wanted.changed)
	a.wanted.changed = make(chan struct{})
}

func (a *Authority) attested(id chancery.NodeID) {
	a.wanted.mu.Lock()
	defer a.wanted.mu.Unlock()
	delete(a.wanted.nodes, id)
}

// AskAttestation has a node attest as soon as it can be told, and returns the
// number of its last attestation before.
func (a *Authority) AskAttestation(ctx context.Context, operator, name string) (last int64, err error) {
	node, err := a.liveNode(ctx, name)
	if err != nil {
		return 0, err
	}
	d := &deed{operator, "node.attest", name, map[string]string{"node": node.ID.String()}}
	err = a.act(ctx, d, func(tx *store.Tx) error {
		list, err := tx.Attestations(node.ID, 1)
		if len(list) > 0 {
			last = list[0].ID
		}
		return errors.Join(err, tx.AskAttestation(node.ID))
	})
	if err != nil {
		return 0, notFound(err, "no live node is called %s", name)
	}
	a.want(node.ID)
	return last, nil
}

func (a *Authority) liveNode(ctx context.Context, name string) (node *store.Node, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		node, err = tx.NodeByName(name)
		return err
	})
	if err == nil && node.State != store.NodeActive {
		err = store.ErrNotFound
	}
	return node, notFound(err, "no live node is called %s", name)
}

// holdSilent holds nodes that have not attested for as long as the policy lets
// them.
func (a *Authority) holdSilent(ctx context.Context) error {
	within := time.Duration(a.Policy().Attest.Within)
	if within == 0 {
		return nil
	}
	return a.Store.Update(ctx, func(tx *store.Tx) error {
		silent, err := tx.Unattested(a.Now().Add(-within))
		for _, n := range silent {
			reason := fmt.Sprintf("it has not attested a good state within %s", within)
			d := &deed{chancery.AuditCoordinator, "node.hold", n.Name, map[string]string{"node": n.ID.String(), "reason": reason}}
			err = errors.Join(err, tx.Hold(n.ID, reason), a.writeDown(tx, d))
			a.Logger.Warn("node held", "name", n.Name, "reason", "silent", "within", within)
		}
		return err
	})
}

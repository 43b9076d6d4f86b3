package fleet

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Node is an enrolled node. Its methods may be called concurrently.
type Node struct {
	Name string
	ID   chancery.NodeID
	NC   *chancery.Certificate
	Key  *Key // N:SK

	now func() time.Time
	// mu guards the current session key.
	mu      sync.Mutex
	session *chancery.Identity
	renew   time.Time
}

// A Request is what a node asks to be certified.
type Request struct {
	Name  string
	Roles []string // ascending
}

// Enroll enrols nodes together, as the coordinator does with whatever waits:
// one signature over their CA:N:S, one over their N:C.
func (f *Fleet) Enroll(requests ...Request) ([]*Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	nodes := make([]*Node, len(requests))
	for i, r := range requests {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		nodes[i] = &Node{Name: r.Name, ID: chancery.NewNodeID(f.pointer.FleetID(), key.public), Key: key, now: f.now}
	}
	answers, err := f.answer(nodes)
	if err != nil {
		return nil, err
	}
	subjects := make([]*chancery.Subject, len(nodes))
	for i, n := range nodes {
		ns, err := n.sign(answers[i], f.pointer)
		if err != nil {
			return nil, err
		}
		if subjects[i], err = f.subject(ns, answers[i], requests[i].Roles); err != nil {
			return nil, err
		}
	}
	certs, err := f.current().issue(f.pointer.FleetID(), subjects)
	if err != nil {
		return nil, err
	}
	for i, n := range nodes {
		n.NC = certs[i]
	}
	return nodes, nil
}

// answer is the coordinator's answer to the initial connections: CA:N:S.
func (f *Fleet) answer(nodes []*Node) ([]*chancery.CANS, error) {
	now, answers := f.now(), make([]*chancery.CANS, len(nodes))
	for i, n := range nodes {
		a := &chancery.CANS{NodeKey: n.Key.public, NodeID: n.ID, Issued: now, Expires: now.Add(chancery.MaxCANSLife)}
		for _, nonce := range [][]byte{a.NodeNonce[:], a.CoordinatorNonce[:], a.IntakeID[:]} {
			rand.Read(nonce)
		}
		answers[i] = a
	}
	tree, err := chancery.BatchCANS(answers)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	sig, err := f.current().key.Sign(context.Background(), f.pointer.FleetID(), tree)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		a.Signature = sig
	}
	return answers, nil
}

// sign is the node's "good coordinator" check and then its N:S.
func (n *Node) sign(answer *chancery.CANS, p *chancery.Pointer) (*chancery.NS, error) {
	fleet := p.FleetID()
	if err := answer.Verify(fleet, p.Current().Key, n.Key.public, nil, answer.NodeNonce, n.now()); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	ns := &chancery.NS{Fleet: fleet, NodeKey: n.Key.public, CANSHash: answer.Hash(), Created: n.now(), Name: n.Name}
	var err error
	ns.Signature, err = n.Key.Sign(context.Background(), fleet, ns)
	return ns, err
}

// subject is the coordinator's verification of N:S, and what it certifies.
func (f *Fleet) subject(ns *chancery.NS, answer *chancery.CANS, roles []string) (*chancery.Subject, error) {
	fleet := f.pointer.FleetID()
	if err := ns.Verify(fleet); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	if ns.CANSHash != answer.Hash() {
		return nil, fmt.Errorf("fleet: N:S of %s answers another CA:N:S", ns.Name)
	}
	now := f.now()
	return &chancery.Subject{
		Name:        ns.Name,
		TrustDomain: TrustDomain,
		NodeKey:     ns.NodeKey,
		NotBefore:   now,
		NotAfter:    now.Add(f.options.Life),
		NS:          chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Roles:       roles,
		Assurance:   chancery.Assurance{Level: chancery.AssuranceSoftware, Simulator: true},
	}, nil
}

// Identity returns what the node presents in a TLS handshake: a session key
// that N:SK certifies for an hour, a new one after half of that.
func (n *Node) Identity() (*chancery.Identity, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if n.session != nil && now.Before(n.renew) {
		return n.session, nil
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	end := now.Add(chancery.DefaultSessionLife)
	if end.After(n.NC.NotAfter) {
		end = n.NC.NotAfter
	}
	var serial [16]byte
	rand.Read(serial[:])
	tbs, err := chancery.NewSession(n.NC, key.public, serial, now, end)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	// An X.509 signature carries no fleet; N:C above it does.
	sig, err := n.Key.Sign(context.Background(), chancery.FleetID{}, tbs)
	if err != nil {
		return nil, err
	}
	n.session = &chancery.Identity{Session: tbs.Certificate(n.Key.public.Suite(), sig), NC: n.NC, Key: key.private}
	n.renew = now.Add(end.Sub(now) / 2)
	return n.session, nil
}

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A judged node is one whose evidence was verified before: what is left is to
// issue. Each has a key of its own.
type judged struct {
	subject chancery.Subject
	node    *store.Node // to be enrolled with it, as package authority does; nil: not
}

// judgedLife is the life of certificates that chancery init configures.
const judgedLife = 7 * 24 * time.Hour

// Prepare is ledger.Request's.
func (j *judged) Prepare(_ *store.Tx, notBefore time.Time) (*chancery.Subject, error) {
	j.subject.NotBefore, j.subject.NotAfter = notBefore, notBefore.Add(judgedLife)
	return &j.subject, nil
}

// Appended is ledger.Request's.
func (j *judged) Appended(tx *store.Tx, _ string, _ merkle.Serial) error {
	if j.node == nil {
		return nil
	}
	j.node.Enrolled = j.subject.NotBefore
	return tx.PutNode(j.node)
}

// A judge makes judged nodes.
type judge struct {
	fleet       chancery.FleetID
	trustDomain string
	roles       []string
	dnsSuffix   string
	enrols      bool
	// hasty gives all of them one N:S, at which nobody looks any more: to sign
	// takes longer than everything else that makes a node.
	hasty bool
	ns    chancery.Signature
	made  int
}

// next makes n more.
func (j *judge) next(n int) ([]*judged, error) {
	list, first := make([]*judged, n), j.made
	j.made += n
	if j.hasty && j.ns == nil {
		one, err := j.make(first)
		if err != nil {
			return nil, err
		}
		j.ns = one.subject.NS.Signature
	}
	var g errgroup.Group
	for worker := range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for i := worker; i < n; i += runtime.GOMAXPROCS(0) {
				var err error
				if list[i], err = j.make(first + i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return list, g.Wait()
}

func (j *judge) make(number int) (*judged, error) {
	key, err := fleet.NewKey()
	if err != nil {
		return nil, err
	}
	ns := &chancery.NS{Fleet: j.fleet, NodeKey: key.PublicKey(), Created: time.Now().UTC().Truncate(time.Second), Name: fmt.Sprintf("node-%07d", number)}
	rand.Read(ns.CANSHash[:])
	if ns.Signature = j.ns; ns.Signature == nil {
		if ns.Signature, err = key.Sign(context.Background(), j.fleet, ns); err != nil {
			return nil, err
		}
	}
	s := chancery.Subject{
		Name: ns.Name, TrustDomain: j.trustDomain, NodeKey: ns.NodeKey, Roles: j.roles,
		NS:        chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Assurance: chancery.Assurance{Level: chancery.AssuranceEK, Simulator: true},
	}
	rand.Read(s.Assurance.EKDigest[:])
	if j.dnsSuffix != "" {
		s.DNSNames = []string{s.Name + "." + j.dnsSuffix}
	}
	if !j.enrols {
		return &judged{subject: s}, nil
	}
	ak := make([]byte, 88) // as long as a TPMT_PUBLIC on P-256
	rand.Read(ak)
	return &judged{s, &store.Node{
		ID: chancery.NewNodeID(j.fleet, s.NodeKey), Name: s.Name, NodeKey: s.NodeKey.SPKI(), AKPublic: ak, EKDigest: s.Assurance.EKDigest,
		Assurance: s.Assurance.Level, Simulator: true, Roles: s.Roles, TokenRoles: s.Roles, Rule: "chips with a known maker", Token: "node-*",
		Issuer: "CN=papertpm EK issuer", Chip: chancery.Chip{Manufacturer: "id:53494D55", Model: "paper", Firmware: "0000000000000001", Simulator: true},
	}}, nil
}

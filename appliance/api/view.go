package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
)

// maxHeld is how many held nodes a Status names.
const maxHeld = 10

func (a *Admin) status(ctx context.Context) (s Status, err error) {
	crl := a.Ledger.CRL()
	s = Status{
		Fleet:       a.Authority.Fleet().Pin(),
		TrustDomain: a.Pointer.TrustDomain,
		Tokens:      tokenStatus(a.Tokens()),
		Started:     a.Started,
		LogSize:     a.Ledger.Size(),
		CRL: CRLStatus{Number: crl.Head().Number, ThisUpdate: crl.Head().ThisUpdate, NextUpdate: crl.Head().NextUpdate,
			Revoked: crl.Revoked(), Bytes: len(crl.Marshal())},
		Problems: []string{},
	}
	s.Pointer.Seq, s.Pointer.Expires = a.Pointer.Seq, a.Pointer.Expires
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		census, err := tx.Census()
		if err != nil {
			return err
		}
		s.Nodes, s.Simulators, s.Revoked = census.Live, census.Simulators, census.Ended
		held, err := tx.NodesHeld(maxHeld)
		if err != nil {
			return err
		}
		for _, n := range held {
			s.Problems = append(s.Problems, fmt.Sprintf("node %s is held: %s", n.Name, n.Held))
		}
		if more := census.Held - len(held); more > 0 {
			s.Problems = append(s.Problems, fmt.Sprintf("%d more nodes are held", more))
		}
		if s.Pending, err = tx.CountIntakes(store.IntakePending); err != nil {
			return err
		}
		reseals, err := tx.Reseals()
		for _, r := range reseals {
			if r.Signature == nil {
				s.Reseals++
			}
		}
		return err
	})
	now := a.Now()
	if err := crl.Fresh(now); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	for _, t := range s.Tokens {
		if t.State != string(hsm.Up) {
			s.Problems = append(s.Problems, fmt.Sprintf("token %s is %s: %s", tokenName(s.Tokens, t), t.State, cmp.Or(t.Error, "it does not answer as fast as usual")))
		}
	}
	if a.X509 == nil && !a.Pointer.X509Issuer.IsZero() {
		s.Problems = append(s.Problems, "no token had the X.509 issuer's key at the start: there are no X.509 certificates and CRLs")
	}
	s.Anchor = a.Anchor.Place()
	if p := a.Anchor.Problem(); p != "" {
		s.Problems = append(s.Problems, p)
	}
	if left := a.Pointer.Expires.Sub(now); left < 30*24*time.Hour {
		s.Problems = append(s.Problems, fmt.Sprintf("pointer record expires %s", a.Pointer.Expires.Format(time.RFC3339)))
	}
	return s, err
}

// tokenName is how a token is called: by its label, and if others have the same
// one, by its serial number too.
func tokenName(all []TokenStatus, t TokenStatus) string {
	alike := 0
	for _, o := range all {
		if o.Label == t.Label {
			alike++
		}
	}
	if t.Label == "" || alike == 1 {
		return cmp.Or(t.Label, t.URI)
	}
	return fmt.Sprintf("%s with serial %s", t.Label, t.Serial)
}

func tokenStatus(list []hsm.Status) []TokenStatus {
	out := []TokenStatus{}
	for _, s := range list {
		t := TokenStatus{Label: s.Info.Label, Serial: s.Info.Serial, Manufacturer: s.Info.Manufacturer, Model: s.Info.Model, Hardware: s.Info.Hardware,
			Firmware: s.Info.Firmware, Library: s.Info.Library, Simulator: s.Info.Simulator, URI: s.URI, State: string(s.State), Since: s.Since, Keys: []TokenKey{},
			Signer: s.Signer, Sessions: s.Info.Sessions, InFlight: s.InFlight, Signatures: s.Signatures, Retries: s.Retries, Faults: s.Faults, Starts: s.Starts,
			MedianMS: milliseconds(s.Median), P99MS: milliseconds(s.P99)}
		for _, k := range s.Keys {
			t.Keys = append(t.Keys, TokenKey{k.Name, k.Label, k.Public.String(), string(k.Attributes.Local), string(k.Attributes.Extractable)})
		}
		if s.Err != nil {
			t.Error = s.Err.Error()
			t.Hint = cli.HintOf(s.Err)
		}
		out = append(out, t)
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func nodeInfo(n *store.Node) NodeInfo {
	return NodeInfo{Name: n.Name, NodeID: n.ID.String(), State: n.State, Assurance: n.Assurance.String(), Simulator: n.Simulator, Sealed: n.Seal != nil,
		Roles: append([]string{}, n.Roles...), Chip: n.Chip, EK: hex.EncodeToString(n.EKDigest[:]), Enrolled: n.Enrolled, Revoked: n.Revoked, Reason: n.Reason, ReasonCode: n.Code, Address: n.Address,
		Rule: n.Rule, Held: n.Held, Attested: n.Attested, Epoch: n.Epoch, Retire: n.Retire}
}

// nodePage is the nodes after a name and a node_id.
func (a *Admin) nodePage(ctx context.Context, name string, id chancery.NodeID) (list []NodeInfo, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		nodes, err := tx.NodesAfter(name, id, PageSize)
		list = nodeInfos(nodes)
		return err
	})
	return list, err
}

func nodeInfos(nodes []store.Node) []NodeInfo {
	list := []NodeInfo{}
	for i := range nodes {
		list = append(list, nodeInfo(&nodes[i]))
	}
	return list
}

// pending is who waits for approval.
func (a *Admin) pending(ctx context.Context) (list []NodeInfo, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = pendingNodes(tx)
		return err
	})
	return list, err
}

func pendingNodes(tx *store.Tx) ([]NodeInfo, error) {
	list := []NodeInfo{}
	pending, err := tx.Intakes(store.IntakePending)
	if err != nil {
		return nil, err
	}
	for i := range pending {
		n, err := pendingInfo(tx, &pending[i])
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

func pendingInfo(tx *store.Tx, p *store.Intake) (n NodeInfo, err error) {
	n = NodeInfo{Name: p.Name, NodeID: p.NodeID.String(), State: "pending", Assurance: p.Facts.Assurance.String(), Simulator: p.Facts.Simulator,
		Roles: append([]string{}, p.Facts.Roles...), EK: hex.EncodeToString(p.Facts.EKDigest[:]), Enrolled: p.Created, Rule: p.Facts.Rule, Wanted: p.Facts.Approvals}
	if p.Request != nil {
		n.Sealed, n.Chip = p.Request.Sealing != nil, p.Request.Chip
	}
	if p.Replaces != nil {
		n.Replaces = p.Replaces.String()
	}
	n.Approvals, err = tx.Approvals(p.ID)
	return n, err
}

// missing turns a node that is not there into a problem.
func missing(err error, name string) error {
	if errors.Is(err, store.ErrNotFound) {
		return &problem{chancery.Problem{Title: "Not Found", Status: 404, Detail: "no node is called " + name, Code: "not-found", Hint: "see: chancery node list"}}
	}
	return err
}

func (a *Admin) nodesCalled(ctx context.Context, name string) (found []NodeInfo, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		nodes, err := tx.NodesCalled(name)
		if err != nil {
			return err
		}
		found = nodeInfos(nodes)
		for i := range found {
			entries, err := tx.EntriesOf(a.Ledger.Log(), nodes[i].ID)
			if err != nil {
				return err
			}
			for _, e := range entries {
				found[i].Serials = append(found[i].Serials, fmt.Sprintf("%d:%d", a.Ledger.Log().Number, e.Index))
			}
		}
		waiting, err := pendingNodes(tx)
		for _, n := range waiting {
			if n.Name == name {
				found = append(found, n)
			}
		}
		return err
	})
	if err == nil && len(found) == 0 {
		err = missing(store.ErrNotFound, name)
	}
	return found, err
}

func (a *Admin) certificateInfo(e *store.Entry) (CertificateInfo, error) {
	entry, err := merkle.ParseEntry(e.Entry)
	if err != nil {
		return CertificateInfo{}, err
	}
	return CertificateInfo{Serial: fmt.Sprintf("%d:%d", a.Ledger.Log().Number, e.Index), Name: chancery.CommonName(entry.RawSubject), NodeID: e.NodeID.String(),
		NotAfter: e.NotAfter, Revoked: e.Revoked, Reason: e.Reason, ReasonCode: e.Code}, nil
}

func (a *Admin) certificateList(ctx context.Context, from uint64) (list []CertificateInfo, err error) {
	list = []CertificateInfo{}
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		entries, err := tx.Entries(a.Ledger.Log(), from, PageSize)
		for i := range entries {
			c, err := a.certificateInfo(&entries[i])
			if err != nil {
				return err
			}
			list = append(list, c)
		}
		return err
	})
	return list, err
}

func (a *Admin) certificate(ctx context.Context, s string) (c CertificateInfo, err error) {
	serial, err := parseSerial(s)
	if err != nil {
		return c, err
	}
	der, err := a.Ledger.Certificate(ctx, serial)
	if errors.Is(err, store.ErrNotFound) {
		return c, &problem{chancery.Problem{Title: "Not Found", Status: 404, Detail: "no certificate has the serial number " + serial.String(), Code: "not-found"}}
	}
	if err != nil {
		return c, err
	}
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		e, err := tx.Entry(a.Ledger.Log(), serial.Index())
		if err == nil {
			c, err = a.certificateInfo(e)
		}
		return err
	})
	c.DER = der
	return c, err
}

func (a *Admin) reseals(ctx context.Context) (list []ResealInfo, err error) {
	list = []ResealInfo{}
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Reseals()
		if err != nil {
			return err
		}
		for _, r := range all {
			node, err := tx.Node(r.NodeID)
			if err != nil {
				return err
			}
			list = append(list, ResealInfo{node.Name, r.Epoch, r.PCRs, r.Asked, r.Signature != nil})
		}
		return nil
	})
	return list, err
}

func (a *Admin) logPage(ctx context.Context, from uint64) (p LogPage, err error) {
	l := a.Ledger.Log()
	p = LogPage{CA: l.CA, Log: l.Number, Entries: []LogEntry{}, Subtrees: []LogSubtree{}}
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		if p.Size, err = tx.LogSize(l); err != nil {
			return err
		}
		entries, err := tx.Entries(l, from, PageSize)
		if err != nil {
			return err
		}
		for _, e := range entries {
			p.Entries = append(p.Entries, LogEntry{e.Index, e.Entry, e.SPKI})
		}
		subtrees, err := tx.Subtrees(l, from, PageSize)
		if err != nil {
			return err
		}
		for _, s := range subtrees {
			if s.BatchStart < from+PageSize {
				p.Subtrees = append(p.Subtrees, LogSubtree{s.BatchStart, s.Tree.Start, s.Tree.End, s.Root[:], s.Signature})
			}
		}
		c, err := tx.LatestCheckpoint(l)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		p.Checkpoint = &LogCheckpoint{c.Size, c.Root[:], c.At, c.Signature}
		return nil
	})
	return p, err
}

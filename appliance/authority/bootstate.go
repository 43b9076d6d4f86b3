package authority

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
)

// ApproveAhead approves a boot state before any node is in it, for the nodes
// whose names fit. They are given the approval with their next attestation, and
// those that wait in the state already at once.
func (a *Authority) ApproveAhead(ctx context.Context, operator, names string, pcrs map[int][]byte) (*store.BootState, error) {
	if _, err := path.Match(names, ""); err != nil || names == "" {
		return nil, refuse(400, "bad-glob", "a pattern like edge-* or a plain name", "%q is not a pattern for names", names)
	}
	values, err := evidence.Values(pcrs)
	if err != nil {
		return nil, broken(err)
	}
	if len(values) == 0 {
		return nil, refuse(400, "malformed", "as in 7=HEX", "no PCR values")
	}
	b := &store.BootState{Names: names, PCRs: pcrs, Operator: operator, At: a.Now()}
	d := &deed{operator, "boot-state.add", names, map[string]string{"pcrs": fmt.Sprint(values.Numbers()), "digest": hex.EncodeToString(digest(values))}}
	return b, a.act(ctx, d, func(tx *store.Tx) error { return tx.InsertBootState(b) })
}

// RemoveAhead takes a boot state back: no further node gets an approval for it.
// Those that have one keep it until their epoch is raised.
func (a *Authority) RemoveAhead(ctx context.Context, operator string, id int64) error {
	d := &deed{operator, "boot-state.remove", strconv.FormatInt(id, 10), nil}
	err := a.act(ctx, d, func(tx *store.Tx) error { return tx.RemoveBootState(id) })
	return notFound(err, "there is no boot state %d", id)
}

// digest is what a PolicyPCR of the values has, in a form that an auditor can
// compare.
func digest(v tpm.PCRValues) []byte {
	d := v.Digest()
	return d[:]
}

// maxAhead bounds the states that count for a node: a key file has room for so
// many approvals and those that were asked for.
const maxAhead = 8

// ahead returns the states that are approved for a node with these sealing
// PCRs.
func (a *Authority) ahead(ctx context.Context, node *store.Node) (list []store.BootState, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.BootStates()
		return err
	})
	list = slices.DeleteFunc(list, func(b store.BootState) bool {
		ok, _ := path.Match(b.Names, node.Name)
		return !ok || !slices.Equal(slices.Sorted(maps.Keys(b.PCRs)), node.Seal.PCRs)
	})
	return list[max(len(list)-maxAhead, 0):], err
}

// approvals adds to the answer what the chip's key lacks: approvals of states
// ahead, and if the epoch is to be raised, what that takes.
func (at *attesting) approvals(ctx context.Context, answer *chancery.AttestAnswer) error {
	a, n := at.a, at.node
	states, err := a.ahead(ctx, n)
	if err != nil {
		return err
	}
	epochs := []uint64{at.epoch}
	if n.Retire == store.RetireWanted && (n.Epoch == 0 || at.epoch == n.Epoch) {
		epochs = []uint64{at.epoch + 1} // those for the present one will die
		present := store.BootState{PCRs: map[int][]byte{}}
		for _, pcr := range n.Seal.PCRs {
			v, ok := at.quote.Values[pcr]
			if !ok {
				return refuse(400, "malformed", "", "PCR %d, to which the key is sealed, is not in the quote", pcr)
			}
			present.PCRs[pcr] = v[:]
		}
		states = append(states, present)
		sig, err := a.Approval.Sign(ctx, a.fleet, tpm.Increment(a.Pointer.Approval, at.ak.Name(), at.epoch))
		if err != nil {
			return err
		}
		answer.Increment = &chancery.IncrementRecord{From: at.epoch, Signature: sig}
	}
	for _, s := range states {
		for _, epoch := range epochs {
			r, err := a.bootApproval(ctx, n, at.ak, &s, epoch)
			if err != nil {
				return err
			}
			answer.Approvals = append(answer.Approvals, *r)
		}
	}
	return nil
}

// bootApproval signs the approval of a state for a node, or finds the one that
// was signed. A state without an ID is nobody else's and is not kept.
func (a *Authority) bootApproval(ctx context.Context, n *store.Node, ak tpm.AttestationKey, s *store.BootState, epoch uint64) (*chancery.ApprovalRecord, error) {
	r := &chancery.ApprovalRecord{Values: s.PCRs, Epoch: epoch}
	err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
		r.Signature, err = tx.BootApproval(s.ID, n.ID, epoch)
		return err
	})
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return r, err
	}
	values, err := evidence.Values(s.PCRs)
	if err != nil {
		return nil, err
	}
	approval, err := evidence.Seal(n.Seal, ak.Name(), a.Pointer.Approval).Approve(epoch, values)
	if err != nil {
		return nil, err
	}
	if r.Signature, err = a.Approval.Sign(ctx, a.fleet, approval); err != nil {
		return nil, err
	}
	if s.ID == 0 {
		return r, nil
	}
	return r, a.Store.Update(ctx, func(tx *store.Tx) error { return tx.PutBootApproval(s.ID, n.ID, epoch, r.Signature) })
}

// RetireApprovals raises a node's epoch with its next attestation: every
// approval for an older boot state dies, but for the state that it is in then.
// It is done after the reboot that follows.
func (a *Authority) RetireApprovals(ctx context.Context, operator, name string) error {
	node, err := a.liveNode(ctx, name)
	if err != nil {
		return err
	}
	if node.Seal == nil {
		return refuse(409, "not-sealed", "", "the key of %s is not sealed", name)
	}
	d := &deed{operator, "approvals.retire", name, map[string]string{"node": node.ID.String()}}
	if err := a.act(ctx, d, func(tx *store.Tx) error { return tx.Retire(node.ID) }); err != nil {
		return err
	}
	a.want(node.ID)
	return nil
}

// approvedAhead reports whether the state that a node asks for is approved: by
// an operator ahead of time, or by the policy as one of its boot states.
func (a *Authority) approvedAhead(ctx context.Context, node *store.Node, wish *store.Reseal) (bool, error) {
	states, err := a.ahead(ctx, node)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(states, func(s store.BootState) bool { return maps.EqualFunc(s.PCRs, wish.PCRs, bytes.Equal) }) {
		return true, nil
	}
	at := &attesting{a: a}
	if err := at.load(ctx, node.ID); err != nil {
		return false, err
	}
	values, err := evidence.Values(wish.PCRs)
	if err != nil {
		return false, err
	}
	at.subject.Booted = booted(&evidence.Quote{Values: values}, nil)
	d := a.Policy().Decide(at.subject)
	return d.State != "" && d.Action == "auto", nil
}

package authority

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
)

// challengeLife is how long a reseal challenge is good for at least; at most
// it is twice that.
const challengeLife = 5 * time.Minute

// challenge returns the node's challenge of a span of time.
func (a *Authority) challenge(id chancery.NodeID, span int64) [32]byte {
	mac := hmac.New(sha256.New, a.challengeKey[:])
	mac.Write(id[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(span)))
	return [32]byte(mac.Sum(nil))
}

// Reseal handles a node's wish to have its boot state approved. N:SK cannot
// sign at that point; the attestation key, which is not sealed, speaks for the
// chip.
func (a *Authority) Reseal(ctx context.Context, req *chancery.ResealRequest) (*chancery.ResealAnswer, error) {
	raw, err := hex.DecodeString(req.NodeID)
	if err != nil || len(raw) != len(chancery.NodeID{}) {
		return nil, refuse(400, "malformed", "", "node_id is not 64 hexadecimal digits")
	}
	id := chancery.NodeID(raw)
	if req.Quote == nil {
		c := a.challenge(id, a.span())
		return &chancery.ResealAnswer{Status: "challenge", Challenge: c[:]}, nil
	}
	if !a.challenged(id, req.Challenge) {
		return nil, refuse(403, "challenge", "ask for a new challenge", "the challenge is not this coordinator's, or has expired")
	}
	node, wish, err := a.checkReseal(ctx, id, req)
	if err != nil {
		return nil, err
	}
	answer := &chancery.ResealAnswer{Status: "pending"}
	err = a.Store.Update(ctx, func(tx *store.Tx) error {
		known, err := tx.Reseal(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && !sameState(known, wish) {
			return tx.PutReseal(wish)
		}
		if err != nil || known.Signature == nil {
			return err
		}
		answer = approved(known)
		return nil
	})
	if err != nil || answer.Status == "approved" {
		return answer, err
	}
	if ok, err := a.approvedAhead(ctx, node, wish); err != nil || !ok {
		return answer, err
	}
	if wish, err = a.ApproveReseal(ctx, chancery.AuditCoordinator, node.Name); err != nil {
		return nil, err
	}
	return approved(wish), nil
}

func approved(r *store.Reseal) *chancery.ResealAnswer {
	return &chancery.ResealAnswer{Status: "approved", Approval: &chancery.ApprovalRecord{Values: r.PCRs, Epoch: r.Epoch, Signature: r.Signature}}
}

func sameState(a, b *store.Reseal) bool {
	return a.Epoch == b.Epoch && maps.EqualFunc(a.PCRs, b.PCRs, bytes.Equal)
}

// checkReseal verifies that the chip of a live node is in the state it claims.
func (a *Authority) checkReseal(ctx context.Context, id chancery.NodeID, req *chancery.ResealRequest) (node *store.Node, wish *store.Reseal, err error) {
	node, ak, err := a.sealedNode(ctx, func(tx *store.Tx) (*store.Node, error) { return tx.Node(id) })
	if err != nil {
		return nil, nil, err
	}
	qualifying := chancery.ResealQualifying(a.fleet, id, [32]byte(req.Challenge))
	quote, err := evidence.VerifyQuote(ak, req.Quote, qualifying)
	if err != nil {
		return nil, nil, broken(err)
	}
	if req.Epoch == nil {
		return nil, nil, refuse(400, "malformed", "", "the attestation of the epoch counter is missing")
	}
	epoch, _, err := ak.VerifyEpoch(evidence.Attestation(*req.Epoch), a.Pointer.Approval, qualifying)
	if err != nil {
		return nil, nil, broken(err)
	}
	// Approve refuses values of other PCRs than the sealing ones; tell the
	// node now, not the operator later.
	if _, err := evidence.Seal(node.Seal, ak.Name(), a.Pointer.Approval).Approve(epoch, quote.Values); err != nil {
		return nil, nil, refuse(400, "malformed", "", "%v", err)
	}
	return node, &store.Reseal{NodeID: id, Epoch: epoch, PCRs: req.Quote.Values, Asked: a.Now()}, nil
}

// sealedNode loads a live node with a sealed key.
func (a *Authority) sealedNode(ctx context.Context, load func(*store.Tx) (*store.Node, error)) (node *store.Node, ak tpm.AttestationKey, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		node, err = load(tx)
		return err
	})
	switch {
	case err != nil:
		return nil, ak, notFound(err, "no such node")
	case node.State != store.NodeActive:
		return nil, ak, refuse(403, "revoked", "", "node %s is revoked", node.Name)
	case node.Seal == nil:
		return nil, ak, refuse(409, "not-sealed", "", "the key of %s is not sealed", node.Name)
	}
	ak, err = tpm.ParseAttestationKey(node.AKPublic)
	return node, ak, err
}

// ApproveReseal approves the boot state that a node asked for. The policy is
// computed here, from the values that the chip's attestation key quoted.
func (a *Authority) ApproveReseal(ctx context.Context, operator, name string) (*store.Reseal, error) {
	node, ak, err := a.sealedNode(ctx, func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName(name) })
	if err != nil {
		return nil, err
	}
	var wish *store.Reseal
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		wish, err = tx.Reseal(node.ID)
		return err
	})
	if err != nil {
		return nil, notFound(err, "%s did not ask for an approval", name)
	}
	if wish.Signature != nil {
		return nil, refuse(409, "approved", "", "the state that %s asked for is approved already", name)
	}
	values, err := evidence.Values(wish.PCRs)
	if err != nil {
		return nil, err
	}
	approval, err := evidence.Seal(node.Seal, ak.Name(), a.Pointer.Approval).Approve(wish.Epoch, values)
	if err != nil {
		return nil, err
	}
	if wish.Signature, err = a.Approval.Sign(ctx, a.fleet, approval); err != nil {
		return nil, err
	}
	d := &deed{operator, "boot-state.approve", name, map[string]string{"node": node.ID.String(), "epoch": strconv.FormatUint(wish.Epoch, 10),
		"pcrs": fmt.Sprint(values.Numbers()), "digest": hex.EncodeToString(digest(values))}}
	err = a.act(ctx, d, func(tx *store.Tx) error { return tx.ApproveReseal(wish) })
	return wish, notFound(err, "%s asked for another state meanwhile; look again", name)
}

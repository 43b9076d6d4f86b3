package testcoordinator

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// A resealWish is a boot state that a node wants approved.
type resealWish struct {
	challenge [32]byte
	values    tpm.PCRValues // nil until the quote came
	raw       map[int][]byte
	epoch     uint64
	approval  *chancery.ApprovalRecord
}

func (c *Coordinator) reseal(r *http.Request) (any, error) {
	m, err := read[chancery.ResealRequest](r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := hex.DecodeString(m.NodeID)
	if err != nil || len(id) != 32 || c.nodes[chancery.NodeID(id)] == nil {
		return nil, refuse(404, "not-found", "no such node")
	}
	n := c.nodes[chancery.NodeID(id)]
	if m.Quote == nil {
		if n.reseal == nil {
			n.reseal = &resealWish{}
		}
		rand.Read(n.reseal.challenge[:])
		return &chancery.ResealAnswer{Status: "challenge", Challenge: n.reseal.challenge[:]}, nil
	}
	wish := n.reseal
	if wish == nil || string(m.Challenge) != string(wish.challenge[:]) {
		return nil, refuse(403, "challenge", "the challenge is not this coordinator's")
	}
	qualifying := chancery.ResealQualifying(c.pointer.FleetID(), n.id, wish.challenge)
	values, err := pcrValues(m.Quote)
	if err != nil {
		return nil, err
	}
	if _, err := n.ak.VerifyQuote(tpm.Attestation(m.Quote.Attestation), values, qualifying); err != nil {
		return nil, err
	}
	if m.Epoch == nil {
		return nil, refuse(400, "malformed", "the epoch's attestation is missing")
	}
	epoch, _, err := n.ak.VerifyEpoch(tpm.Attestation(*m.Epoch), c.approval.PublicKey(), qualifying)
	if err != nil {
		return nil, err
	}
	if wish.approval != nil && wish.values.Digest() == values.Digest() && wish.epoch == epoch {
		return &chancery.ResealAnswer{Status: "approved", Approval: wish.approval}, nil
	}
	wish.values, wish.raw, wish.epoch, wish.approval = values, m.Quote.Values, epoch, nil
	return &chancery.ResealAnswer{Status: "pending"}, nil
}

// ApproveReseal approves the boot state that the node asked for.
func (c *Coordinator) ApproveReseal(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.name != name || n.reseal == nil || n.reseal.values == nil {
			continue
		}
		statement, err := n.seal.Approve(n.reseal.epoch, n.reseal.values)
		if err != nil {
			return err
		}
		n.reseal.approval = &chancery.ApprovalRecord{Values: n.reseal.raw, Epoch: n.reseal.epoch, Signature: c.sign(c.approval, statement)}
		return nil
	}
	return fmt.Errorf("%s did not ask for an approval", name)
}

// Approval returns the approval that the node's last wish got.
func (c *Coordinator) Approval(name string) *chancery.ApprovalRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.name == name && n.reseal != nil {
			return n.reseal.approval
		}
	}
	return nil
}

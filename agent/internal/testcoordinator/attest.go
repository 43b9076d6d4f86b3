package testcoordinator

import (
	"crypto/rand"
	"net/http"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// attest takes what a node shows of its state, if the chip says so, and finds
// it good.
func (c *Coordinator) attest(r *http.Request) (any, error) {
	p, err := c.peer(r)
	if err != nil {
		return nil, err
	}
	m, err := read[chancery.AttestRequest](r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[p.NodeID]
	if n == nil {
		return nil, refuse(404, "not-found", "no such node")
	}
	if m.Quote == nil {
		rand.Read(n.challenge[:])
		return &chancery.AttestAnswer{Status: chancery.AttestChallenge, Challenge: n.challenge[:], QuotePCRs: []int{0}}, nil
	}
	if string(m.Challenge) != string(n.challenge[:]) {
		return nil, refuse(403, "challenge", "the challenge is not this coordinator's")
	}
	qualifying := chancery.AttestQualifying(c.pointer.FleetID(), n.id, n.challenge)
	values, err := pcrValues(m.Quote)
	if err != nil {
		return nil, err
	}
	if _, err := n.ak.VerifyQuote(tpm.Attestation(m.Quote.Attestation), values, qualifying); err != nil {
		return nil, err
	}
	if _, asked := values[0]; !asked {
		return nil, refuse(403, "boot-state", "PCR 0 was asked for")
	}
	if n.seal == nil {
		return &chancery.AttestAnswer{Status: chancery.AttestGood}, nil
	}
	if m.Epoch == nil {
		return nil, refuse(400, "malformed", "the epoch's attestation is missing")
	}
	if _, _, err := n.ak.VerifyEpoch(tpm.Attestation(*m.Epoch), c.approval.PublicKey(), qualifying); err != nil {
		return nil, err
	}
	return &chancery.AttestAnswer{Status: chancery.AttestGood}, nil
}

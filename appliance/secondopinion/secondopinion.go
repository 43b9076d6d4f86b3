// Package secondopinion has another implementation judge what a chip quoted:
// the server package of go-tpm-tools, which shares no code with package tpm.
// Two that were written by different people rarely have the same hole.
package secondopinion

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm-tools/proto/attest"
	pb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// Judge verifies that the quote is the attestation key's over the qualifying
// data and of these PCR values, and that the event log, if there is one, leads
// to them. ak is a TPMT_PUBLIC. It judges nothing else: whose key that is,
// package tpm has seen to.
func Judge(ak []byte, qualifying [32]byte, q *chancery.Quote, eventLog []byte) error {
	key, err := tpm.ParseAttestationKey(ak) // for the trusted key; the library parses the area itself
	if err != nil {
		return err
	}
	quote := &pb.Quote{Quote: q.Attest, RawSig: q.Signature, Pcrs: &pb.PCRs{Hash: pb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{}}}
	for pcr, v := range q.Values {
		quote.Pcrs.Pcrs[uint32(pcr)] = v
	}
	if eventLog == nil {
		eventLog = []byte{}
	}
	_, err = server.VerifyAttestation(&attest.Attestation{AkPub: ak, Quotes: []*pb.Quote{quote}, EventLog: eventLog},
		server.VerifyOpts{Nonce: qualifying[:], TrustedAKs: []crypto.PublicKey{key.Key().ECDSA()}})
	if err != nil {
		return fmt.Errorf("go-tpm-tools: %w", err)
	}
	return nil
}

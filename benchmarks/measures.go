package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/chancery-pki/chancery/simulator/fleet"
)

// proof compares what N:C costs a verifier that knows the batch already with
// what any other certificate costs: a signature.
func proof() ([]Result, error) {
	const batch = 10_000
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		return nil, err
	}
	requests := make([]fleet.Request, batch)
	for i := range requests {
		requests[i].Name = fmt.Sprintf("node-%d", i)
	}
	nodes, err := f.Enroll(requests...)
	if err != nil {
		return nil, err
	}
	nc := nodes[batch/2].NC.MTC()
	want, err := nc.SubtreeHash()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(nc.RawTBS)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	p, err := beside(2000, func() error {
		if h, err := nc.SubtreeHash(); err != nil || h != want {
			return fmt.Errorf("proof does not hold: %v", err)
		}
		return nil
	}, func() error {
		if digest := sha256.Sum256(nc.RawTBS); !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			return fmt.Errorf("signature does not verify")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ours, peers := median(p.ours), median(p.beside)
	return []Result{Result{ID: "n-c-cached-subtree", What: "microseconds to verify N:C out of a batch of 10,000 whose subtree is known", Ours: ours, Beside: peers,
		Peer: "ECDSA P-256 over the certificate", Ratio: peers / ours, Target: ">= 15", Met: peers/ours >= 15, Command: command}.of(p.ours, p.beside)}, nil
}

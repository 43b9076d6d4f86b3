package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// proofVerify has the ledger issue, looks how large its certificates are, and
// what the N:C check of a verifier costs that has met another certificate of
// the batch.
func proofVerify() (results []Result, err error) {
	const command = command + " proof-verify"
	batch := sized(10_000, 1_000)
	w, err := newWorkshop(diskDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	c, _, err := newPaperCoordinator(program, dir)
	if err != nil {
		return nil, err
	}
	o, err := newOffice(c.dir, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	gate := &gate{Signer: o.ca}
	for _, kind := range []struct {
		id, what string
		judge
	}{
		{"", "without roles and DNS name", judge{}},
		{"-role", "with a role", judge{roles: []string{"web"}}},
		{"-dns", "with a role and a DNS name", judge{roles: []string{"web"}, dnsSuffix: "nodes.example.org"}},
	} {
		j := kind.judge
		j.fleet, j.trustDomain = o.pointer.FleetID(), o.pointer.TrustDomain
		if err := o.open(gate, j.dnsSuffix); err != nil {
			return nil, err
		}
		all, err := o.issueAtOnce(gate, &j, batch)
		if err != nil {
			return nil, err
		}
		alone, err := o.issueAtOnce(gate, &j, 1)
		if err != nil {
			return nil, err
		}
		for _, size := range []struct {
			id    string
			batch int
			list  []*chancery.Certificate
			limit float64
		}{{"batch", batch, all, 1200}, {"alone", 1, alone, 750}} {
			largest := slices.MaxFunc(size.list, func(a, b *chancery.Certificate) int { return len(a.Raw()) - len(b.Raw()) })
			r := within("n-c-size-"+size.id+kind.id, fmt.Sprintf("bytes of N:C %s, the longest of a batch of %d", kind.what, size.batch), float64(len(largest.Raw())), size.limit)
			r.Command = command
			results = append(results, r)
		}
		if kind.id != "" {
			continue
		}
		r, err := cachedSubtree(o, all)
		if err != nil {
			return nil, err
		}
		r.Command = command
		results = append(results, r)
	}
	return results, nil
}

// A gate is a key that signs when it is let.
type gate struct {
	chancery.Signer
	mu sync.Mutex // held while nothing is to be signed
}

func (g *gate) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Signer.Sign(ctx, fleet, s)
}

// issueAtOnce issues n certificates in one batch: all of them wait while
// another one keeps the token busy.
func (o *office) issueAtOnce(g *gate, j *judge, n int) ([]*chancery.Certificate, error) {
	list, err := j.next(n + 1)
	if err != nil {
		return nil, err
	}
	all := make([]*chancery.Certificate, len(list))
	failed := make([]error, len(list))
	var group sync.WaitGroup
	issue := func(i int) {
		group.Go(func() {
			var der []byte
			if der, failed[i] = o.ledger.Issue(context.Background(), list[i]); failed[i] == nil {
				all[i], failed[i] = chancery.ParseCertificate(der)
			}
		})
	}
	g.mu.Lock()
	size := o.ledger.Size()
	issue(n)
	for o.ledger.Size() == size { // until its entry waits for the signature
		time.Sleep(time.Millisecond)
	}
	for i := range n {
		issue(i)
	}
	time.Sleep(time.Second) // until all have asked
	g.mu.Unlock()
	group.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	for _, c := range all[:n] {
		if s := c.MTC().Proof.Subtree; s != all[0].MTC().Proof.Subtree || s.End-s.Start < uint64(n) {
			return nil, fmt.Errorf("%d certificates were not issued in one batch", n)
		}
	}
	return all[:n], nil
}

// cachedSubtree compares the N:C check with the verification of a signature.
// The check is not to be had alone: it is what a verifier takes for a peer
// beyond parsing N:C and verifying N:S in it, which are timed in turn with it,
// and the lookup in the CRL is in it. A verifier remembers peers, so each is one
// that it has not seen, or has forgotten.
func cachedSubtree(o *office, batch []*chancery.Certificate) (r Result, err error) {
	const n, rounds = 400, 61
	v, now := chancery.NewVerifier(chancery.Trust{Pointer: o.pointer, CRL: o.ledger.CRL()}), time.Now()
	verify := func(i int) error {
		_, err := v.Verify([][]byte{batch[i%len(batch)].Raw()}, "", chancery.NodeID{}, chancery.Policy{}, now)
		return err
	}
	if err := verify(0); err != nil {
		return r, err
	}
	key, digest := o.ca.PublicKey().ECDSA(), sha256.Sum256(chancery.Message(v.Fleet(), chancery.P256, statement))
	sig, err := o.ca.Sign(context.Background(), v.Fleet(), statement)
	if err != nil {
		return r, err
	}
	der := sig.ASN1()
	var checks, signatures []float64
	for round := range rounds {
		var took [3]float64
		for side, run := range []func(int) error{
			verify,
			func(i int) error {
				c, err := chancery.ParseCertificate(batch[i%len(batch)].Raw())
				if err != nil {
					return err
				}
				return c.VerifyNS(v.Fleet())
			},
			func(int) error {
				if !ecdsa.VerifyASN1(key, digest[:], der) {
					return errors.New("a signature does not verify")
				}
				return nil
			},
		} {
			start := cpu()
			for i := range n {
				if err := run(1 + round*n + i); err != nil {
					return r, err
				}
			}
			took[side] = float64((cpu() - start).Nanoseconds()) / 1000 / n
		}
		checks, signatures = append(checks, took[0]-took[1]), append(signatures, took[2])
	}
	a, b := median(checks), median(signatures)
	return Result{ID: "n-c-check-cached", What: fmt.Sprintf("microseconds of the N:C check, the CRL's and remembering the peer, out of a batch of %d of which another one was verified", len(batch)),
		Ours: a, Beside: b, Peer: "ecdsa.VerifyASN1, P-256", Ratio: b / a, Met: true}.of(checks, signatures), nil
}

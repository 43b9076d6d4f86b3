package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
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
	ours, peers, err := beside(2000, func() error {
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
	return []Result{{ID: "n-c-cached-subtree", What: "microseconds to verify N:C out of a batch of 10,000 whose subtree is known", Ours: ours, Beside: peers,
		Peer: "ECDSA P-256 over the certificate", Ratio: peers / ours, Target: ">= 15", Met: peers/ours >= 15, Command: command}}, nil
}

// list compares a CRL of 100,000 out of 10,000,000 with an X.509 one.
func list() ([]Result, error) {
	const issued, revoked = 10_000_000, 100_000
	draw := mathrand.New(mathrand.NewPCG(1, 2))
	seen := map[uint64]bool{}
	for len(seen) < revoked {
		seen[draw.Uint64N(issued)] = true
	}
	indexes := make([]uint64, 0, revoked)
	for v := range seen {
		indexes = append(indexes, v)
	}
	slices.Sort(indexes)
	ours, pointer, err := ourList(issued, indexes)
	if err != nil {
		return nil, err
	}
	theirs, issuer, err := x509List(indexes)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	a, b, err := beside(3, func() error {
		_, err := chancery.OpenCRL(pointer, nil, ours, now)
		return err
	}, func() error {
		l, err := x509.ParseRevocationList(theirs)
		if err != nil {
			return err
		}
		return l.CheckSignatureFrom(issuer)
	})
	if err != nil {
		return nil, err
	}
	bound := entropy(issued, revoked) / 8
	return []Result{
		{ID: "crl-load", What: "milliseconds to verify and load 100,000 revoked of 10,000,000", Ours: a / 1000, Beside: b / 1000,
			Peer: "x509.ParseRevocationList and verify", Ratio: b / a, Target: ">= 50", Met: b/a >= 50, Command: command},
		{ID: "crl-size", What: "kilobytes of the same list", Ours: float64(len(ours)) / 1000, Beside: float64(len(theirs)) / 1000,
			Peer: "X.509 CRL", Ratio: float64(len(theirs)) / float64(len(ours)), Target: ">= 20", Met: len(theirs) >= 20*len(ours), Command: command},
		{ID: "crl-entropy", What: "kilobytes of the same list, against log2 C(N,R)", Ours: float64(len(ours)) / 1000, Beside: bound / 1000,
			Peer: "entropy bound", Ratio: bound / float64(len(ours)), Target: ">= 1/1.02", Met: float64(len(ours)) <= 1.02*bound, Command: command},
	}, nil
}

// entropy returns log2 of the number of sets of r out of n.
func entropy(n, r float64) float64 {
	l := func(v float64) float64 { g, _ := math.Lgamma(v + 1); return g }
	return (l(n) - l(r) - l(n-r)) / math.Ln2
}

// ourList signs a list with the key of a pointer record made for it.
func ourList(issued uint64, indexes []uint64) ([]byte, *chancery.Pointer, error) {
	ca, err := fleet.NewKey()
	if err != nil {
		return nil, nil, err
	}
	approval, err := fleet.NewKey()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	id := chancery.DefaultCAID(ca.PublicKey())
	p := &chancery.Pointer{Genesis: chancery.Genesis{CA: ca.PublicKey(), Created: now}, Seq: 1, Issued: now, Expires: now.Add(time.Hour), TrustDomain: "bench",
		MinSuite: chancery.P256, MaxLife: time.Hour, Approval: approval.PublicKey()}
	k := chancery.CAKey{Key: ca.PublicKey(), State: chancery.CAKeyCurrent, Created: now, ID: id, Logs: []uint16{1}}
	if k.CAS, err = ca.Sign(nil, p.FleetID(), chancery.CASelf{Key: k.Key, Created: now}); err != nil {
		return nil, nil, err
	}
	p.Keys = []chancery.CAKey{k}
	if p.Signature, err = ca.Sign(nil, p.FleetID(), p); err != nil {
		return nil, nil, err
	}
	c, err := chancery.NextCRL(nil, []chancery.RevokedSet{{CA: id, Log: 1, Size: issued, Indexes: indexes}}, now, now.Add(time.Hour))
	if err != nil {
		return nil, nil, err
	}
	sig, err := ca.Sign(nil, p.FleetID(), c.Head())
	if err != nil {
		return nil, nil, err
	}
	c.Sign(sig)
	return c.Marshal(), p, nil
}

// x509List makes the X.509 CRL of the same certificates, which have their
// indexes as serial numbers.
func x509List(indexes []uint64) ([]byte, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	entries := make([]x509.RevocationListEntry, len(indexes))
	for i, v := range indexes {
		entries[i] = x509.RevocationListEntry{SerialNumber: new(big.Int).SetUint64(uint64(1)<<48 | v), RevocationTime: now}
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), RevokedCertificateEntries: entries}, issuer, key)
	return crl, issuer, err
}

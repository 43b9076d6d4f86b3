package main

import (
	"context"
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
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// A lister makes signed lists of one log, with the key of a pointer record
// made for it.
type lister struct {
	ca      chancery.Signer
	id      merkle.TrustAnchorID
	pointer *chancery.Pointer
	now     time.Time
}

func newLister() (*lister, error) {
	ca, err := fleet.NewKey()
	if err != nil {
		return nil, err
	}
	approval, err := fleet.NewKey()
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	l := &lister{ca: ca, id: chancery.DefaultCAID(ca.PublicKey()), now: now}
	l.pointer = &chancery.Pointer{Genesis: chancery.Genesis{CA: ca.PublicKey(), Created: now}, Seq: 1, Issued: now, Expires: now.Add(time.Hour), TrustDomain: "bench",
		MinSuite: chancery.P256, MaxLife: time.Hour, Approval: approval.PublicKey()}
	k := chancery.CAKey{Key: ca.PublicKey(), State: chancery.CAKeyCurrent, Created: now, ID: l.id, Logs: []uint16{1}}
	if k.CAS, err = ca.Sign(context.Background(), l.pointer.FleetID(), chancery.CASelf{Key: k.Key, Created: now}); err != nil {
		return nil, err
	}
	l.pointer.Keys = []chancery.CAKey{k}
	l.pointer.Signature, err = ca.Sign(context.Background(), l.pointer.FleetID(), l.pointer)
	return l, err
}

// list makes the list that follows previous (nil for none).
func (l *lister) list(previous *chancery.CRL, issued uint64, revoked []uint64) (*chancery.CRL, error) {
	c, err := chancery.NextCRL(previous, []chancery.RevokedSet{{CA: l.id, Log: 1, Size: issued, Indexes: revoked}}, l.now, l.now.Add(time.Hour))
	if err != nil {
		return nil, err
	}
	sig, err := l.ca.Sign(context.Background(), l.pointer.FleetID(), c.Head())
	if err != nil {
		return nil, err
	}
	c.Sign(sig)
	return c, nil
}

// scatteredList makes a lister and its first list, of so many scattered indexes.
func scatteredList(issued, revoked uint64) (l *lister, c *chancery.CRL, indexes []uint64, err error) {
	if l, err = newLister(); err != nil {
		return nil, nil, nil, err
	}
	indexes = scattered(issued, revoked)
	c, err = l.list(nil, issued, indexes)
	return l, c, indexes, err
}

// bodySize returns how many bytes of a list are its body, and how many are not:
// the body of a list without revocations is a byte for each block of 65536.
func (l *lister) bodySize(issued uint64, revoked []uint64) (body, head int, err error) {
	c, err := l.list(nil, issued, revoked)
	if err != nil {
		return 0, 0, err
	}
	none, err := l.list(nil, issued, nil)
	if err != nil {
		return 0, 0, err
	}
	head = len(none.Marshal()) - int((issued+65535)/65536)
	return len(c.Marshal()) - head, head, nil
}

// draw marks numbers below issued until so many are marked; next says which
// ones, a number and how many from there on.
func draw(issued, revoked uint64, next func(r *mathrand.Rand) (from, n uint64)) []uint64 {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	marked := make([]bool, issued)
	count := uint64(0)
	for count < revoked {
		from, n := next(r)
		for v := from; v < min(from+n, issued) && count < revoked; v++ {
			if !marked[v] {
				marked[v] = true
				count++
			}
		}
	}
	list := make([]uint64, 0, revoked)
	for v, m := range marked {
		if m {
			list = append(list, uint64(v))
		}
	}
	return list
}

// scattered draws every set of that size with the same chance.
func scattered(issued, revoked uint64) []uint64 {
	return draw(issued, revoked, func(r *mathrand.Rand) (uint64, uint64) { return r.Uint64N(issued), 1 })
}

// entropy returns log2 of the number of sets of r out of n.
func entropy(n, r float64) float64 {
	l := func(v float64) float64 { g, _ := math.Lgamma(v + 1); return g }
	return (l(n) - l(r) - l(n-r)) / math.Ln2
}

// crlSize holds the bodies of lists against what any exact list takes on
// average, and those of clustered sets against the same for scattered ones.
func crlSize() (results []Result, err error) {
	l, err := newLister()
	if err != nil {
		return nil, err
	}
	chart := chart{Title: "The body of a CRL, scattered revocations", Y: "times the entropy bound, log2 C(N,R)", X: "certificates issued", Floor: 1, Limits: []float64{1.02, 1.04}}
	for _, issued := range []uint64{1e6, 1e7, 1e8}[:sized(3, 2)] {
		for _, part := range []struct {
			name   string
			of     float64
			target float64
		}{{"0.1", 0.001, 1.04}, {"1", 0.01, 1.02}, {"5", 0.05, 1.02}} {
			revoked := uint64(part.of * float64(issued))
			body, head, err := l.bodySize(issued, scattered(issued, revoked))
			if err != nil {
				return nil, err
			}
			bound := entropy(float64(issued), float64(revoked)) / 8
			results = append(results, Result{ID: fmt.Sprintf("crl-size-1e%.0f-%s", math.Log10(float64(issued)), part.name),
				What: fmt.Sprintf("kilobytes of the body with %s %% revoked of %d, scattered; the rest of the list has %d bytes", part.name, issued, head),
				Ours: float64(body) / 1000, Beside: bound / 1000, Peer: "entropy bound", Ratio: bound / float64(body),
				Target: fmt.Sprintf(">= 1/%.2f", part.target), Met: float64(body) <= part.target*bound, Command: command})
			chart.add(part.name+" % revoked", true, float64(issued), float64(body)/bound)
		}
	}
	issued := uint64(sized(1e7, 1e6))
	revoked := issued / 100
	bound := entropy(float64(issued), float64(revoked)) / 8
	run := func(n uint64) func(r *mathrand.Rand) (uint64, uint64) {
		return func(r *mathrand.Rand) (uint64, uint64) { return r.Uint64N(issued/n) * n, n }
	}
	for _, set := range []struct {
		id, what string
		next     func(r *mathrand.Rand) (from, n uint64)
	}{
		{"batches", "whole batches of 1000", run(1000)},
		{"tens", "runs of 10", run(10)},
		{"pairs", "pairs", run(2)},
		{"halves", "half of each of some batches of 1000", func() func(r *mathrand.Rand) (uint64, uint64) {
			batch, left := uint64(0), 0
			return func(r *mathrand.Rand) (uint64, uint64) {
				if left == 0 {
					batch, left = r.Uint64N(issued/1000), 693 // draws, with repetition, that reach half of them
				}
				left--
				return batch*1000 + r.Uint64N(1000), 1
			}
		}()},
		{"mixed", "half of them in batches of 1000, half scattered", func(r *mathrand.Rand) (uint64, uint64) {
			if r.UintN(1001) == 0 {
				return r.Uint64N(issued/1000) * 1000, 1000
			}
			return r.Uint64N(issued), 1
		}},
	} {
		body, _, err := l.bodySize(issued, draw(issued, revoked, set.next))
		if err != nil {
			return nil, err
		}
		results = append(results, Result{ID: "crl-size-" + set.id, What: fmt.Sprintf("kilobytes of the body with 1 %% revoked of %d: %s", issued, set.what),
			Ours: float64(body) / 1000, Beside: bound / 1000, Peer: "entropy bound of scattered ones", Ratio: bound / float64(body), Target: ">= 1",
			Met: float64(body) <= bound, Command: command})
	}
	return results, chart.write("crl-size")
}

// crlLoad compares a list of a million out of a hundred million with an X.509
// CRL of as many entries, and a delta with a signature.
func crlLoad() ([]Result, error) {
	issued, revoked := uint64(sized(1e8, 1e7)), uint64(sized(1e6, 1e5))
	what := fmt.Sprintf("%d revoked of %d", revoked, issued)
	l, c, indexes, err := scatteredList(issued, revoked)
	if err != nil {
		return nil, err
	}
	ours := c.Marshal()
	theirs, issuer, err := x509List(indexes)
	if err != nil {
		return nil, err
	}
	var a, b []float64
	for range sized(5, 2) {
		for _, side := range []struct {
			n    int
			load func() error
			into *[]float64
		}{
			// A virtual machine may give back to its host what is free for a while,
			// and wait for it to come again: so one that takes little is not by itself.
			{5, func() error { _, err := chancery.OpenCRL(l.pointer, nil, ours, l.now); return err }, &a},
			{1, func() error { return loadX509(theirs, issuer) }, &b},
		} {
			for range side.n {
				runtime.GC() // of what the one before has left
				start := cpu()
				if err := side.load(); err != nil {
					return nil, err
				}
				*side.into = append(*side.into, (cpu()-start).Seconds()*1000)
			}
		}
	}
	ms, theirMs := median(a), median(b)
	results := []Result{
		Result{ID: "crl-load", What: "milliseconds to verify and load " + what, Ours: ms, Beside: theirMs, Peer: "x509.ParseRevocationList and verify",
			Ratio: theirMs / ms, Target: ">= 50", Met: theirMs >= 50*ms, Command: command}.of(a, b),
		{ID: "crl-load-bytes", What: "kilobytes of " + what, Ours: float64(len(ours)) / 1000, Beside: float64(len(theirs)) / 1000, Peer: "X.509 CRL, serial numbers of 7 bytes",
			Ratio: float64(len(theirs)) / float64(len(ours)), Target: ">= 20", Met: len(theirs) >= 20*len(ours), Command: command},
	}
	if o, err := runOpenSSL(theirs, issuer, issued); err == nil {
		results = append(results, Result{ID: "crl-load-openssl", What: "milliseconds to verify and load " + what, Ours: ms, Beside: o.Load, Peer: o.name() + ", and its first lookup, which sorts",
			Ratio: o.Load / ms, Met: true, Command: command})
	} else {
		results = append(results, absent("crl-load-openssl", err))
	}
	delta, err := l.delta(c, issued, indexes)
	if err != nil {
		return nil, err
	}
	return append(results, delta...), nil
}

func loadX509(der []byte, issuer *x509.Certificate) error {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return err
	}
	return l.CheckSignatureFrom(issuer)
}

// absent is the line of a peer that is not there.
func absent(id string, err error) Result {
	return Result{ID: id, What: "not measured", Peer: "absent: " + err.Error(), Met: true, Command: command}
}

// deltas makes so many, of each so many certificates, the first one onto c; it
// returns the last list with its indexes too.
func (l *lister) deltas(c *chancery.CRL, issued uint64, indexes []uint64, each, steps int) (deltas [][]byte, last *chancery.CRL, revoked []uint64, err error) {
	known := make(map[uint64]bool, len(indexes))
	for _, v := range indexes {
		known[v] = true
	}
	r := mathrand.New(mathrand.NewPCG(3, 4))
	for range steps {
		for n := 0; n < each; {
			if v := r.Uint64N(issued); !known[v] {
				known[v] = true
				indexes = append(indexes, v)
				n++
			}
		}
		slices.Sort(indexes)
		next, err := l.list(c, issued, indexes)
		if err != nil {
			return nil, nil, nil, err
		}
		b, err := next.Delta(c)
		if err != nil {
			return nil, nil, nil, err
		}
		c, deltas = next, append(deltas, b)
	}
	return deltas, c, indexes, nil
}

// delta has a node that holds c take one delta of a thousand after another, and
// verifies a signature after each.
func (l *lister) delta(c *chancery.CRL, issued uint64, indexes []uint64) ([]Result, error) {
	const each = 1000
	steps := sized(101, 11)
	held, err := chancery.OpenCRL(l.pointer, nil, c.Marshal(), l.now)
	if err != nil {
		return nil, err
	}
	deltas, c, indexes, err := l.deltas(c, issued, indexes, each, steps)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, b := range deltas {
		size = max(size, len(b))
	}
	same, err := l.list(c, issued, indexes)
	if err != nil {
		return nil, err
	}
	heartbeat, err := same.Delta(c)
	if err != nil {
		return nil, err
	}
	// What is verified is a signature over as many bytes as a head has.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	message := chancery.Message(l.pointer.FleetID(), chancery.P256, held.Head())
	digest := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	// In turn, and with a heap that is not collected in between: both are found
	// in the caches as the other one leaves them.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var apply, verify []float64
	for _, b := range deltas {
		us, err := onThread(func() error {
			if digest := sha256.Sum256(message); !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
				return errVerify
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		verify = append(verify, us)
		us, err = onThread(func() (err error) {
			held, err = held.Apply(l.pointer, b, l.now)
			return err
		})
		if err != nil {
			return nil, err
		}
		apply = append(apply, us)
	}
	if held.Revoked() != c.Revoked() {
		return nil, fmt.Errorf("%d are revoked after the deltas, want %d", held.Revoked(), c.Revoked())
	}
	us, signature := median(apply), median(verify)
	const most = 2500
	body := size - len(heartbeat)
	return []Result{
		{ID: "crl-delta-bytes", What: fmt.Sprintf("bytes of a delta of %d of %d, with its head and signature", each, issued), Ours: float64(size), Beside: most, Peer: "2.5 KB",
			Ratio: most / float64(size), Target: ">= 1", Met: size <= most, Command: command},
		{ID: "crl-delta-body", What: "bytes that it is longer than one of nobody, which is head and signature", Ours: float64(body), Beside: most, Peer: "2.5 KB",
			Ratio: most / float64(body), Met: true, Command: command},
		Result{ID: "crl-delta", What: fmt.Sprintf("microseconds to verify and apply a delta of %d of %d", each, issued), Ours: us, Beside: signature, Peer: "ecdsa.VerifyASN1, P-256",
			Ratio: signature / us, Target: ">= 1/1.5", Met: us <= 1.5*signature, Command: command}.of(apply, verify),
	}, nil
}

// onThread returns the CPU time of the thread for one call in microseconds.
func onThread(run func() error) (float64, error) {
	start, err := threadCPU()
	if err != nil {
		return 0, err
	}
	if err := run(); err != nil {
		return 0, err
	}
	end, err := threadCPU()
	return float64((end - start).Nanoseconds()) / 1000, err
}

// x509List makes the X.509 CRL of the same certificates, which have their
// serial numbers of log 1.
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
		entries[i] = x509.RevocationListEntry{SerialNumber: new(big.Int).SetUint64(serialOf(v)), RevocationTime: now}
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), RevokedCertificateEntries: entries}, issuer, key)
	return crl, issuer, err
}

// serialOf is the serial number of an entry of log 1.
func serialOf(index uint64) uint64 { return 1<<48 | index }

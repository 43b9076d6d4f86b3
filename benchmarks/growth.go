package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// A curve is how the cost of something grows.
type curve struct {
	id, what string
	peer     string // empty: nobody has the like
	n        []float64
	ours     []float64 // microseconds
	beside   []float64
}

// exponent is the slope of the line that fits best through the logarithms: the
// cost grows like n to that.
func exponent(n, cost []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range cost {
		x, y := math.Log(n[i]), math.Log(cost[i])
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	k := float64(len(cost))
	return (k*sxy - sx*sy) / (k*sxx - sx*sx)
}

// samePeer is whom a change is held against: who knows no changes takes all.
const samePeer = "x509.ParseRevocationList and verify, of all"

// result tells the exponents, and how much less ours grew than the peer's.
func (c *curve) result() Result {
	last := len(c.n) - 1
	r := Result{ID: "growth-" + c.id, What: fmt.Sprintf("the exponent, from %g to %g: %s", c.n[0], c.n[last], c.what), Ours: exponent(c.n, c.ours),
		Peer: c.peer, Met: true, Command: command + " growth"}
	grown := c.ours[last] / c.ours[0]
	if c.peer == "" {
		r.Peer, r.Ratio = "a cost that does not grow", 1/grown
		return r
	}
	r.Beside = exponent(c.n[:len(c.beside)], c.beside)
	last = len(c.beside) - 1
	r.Ratio = c.beside[last] / c.beside[0] / (c.ours[last] / c.ours[0])
	return r
}

// growth has everything that happens all the time happen with 1e3 to 1e7
// certificates, and fits how its cost grows.
func growth() (results []Result, err error) {
	curves := []*curve{
		{id: "append", what: "time to append an entry to the tree, as certificates are issued"},
		{id: "inclusion", what: "time to prove an entry, as certificates are issued"},
		{id: "evaluate", what: "time to verify the proof of a certificate, as its batch grows"},
		{id: "lookup", what: "time to look a certificate up in the CRL, as certificates are issued, 1 % revoked", peer: "a loop over x509.RevocationList"},
		{id: "load", what: "time to verify and load a CRL, as certificates are issued, 1 % revoked", peer: "x509.ParseRevocationList and verify"},
		{id: "delta", what: "time to verify and apply a change of one certificate, as certificates are issued, 1 % revoked and up to 180 more", peer: samePeer},
	}
	for _, n := range []int{1e3, 1e4, 1e5, 1e6, 1e7}[:sized(5, 4)] {
		measured, err := grown(n)
		if err != nil {
			return nil, err
		}
		for i, c := range curves {
			m := measured[i]
			c.n, c.ours = append(c.n, float64(n)), append(c.ours, m.ours)
			if m.beside > 0 {
				c.beside = append(c.beside, m.beside)
			}
		}
	}
	plot := chart{Title: "What happens all the time, as the fleet grows", X: "certificates issued (evaluate: in the batch)", Y: "microseconds of CPU time", Log: true}
	for _, c := range curves {
		results = append(results, c.result())
		for i, us := range c.ours {
			plot.add(c.id, true, c.n[i], us)
		}
		for i, us := range c.beside {
			if c.peer == samePeer {
				break // drawn once
			}
			plot.add(c.id+": "+c.peer, false, c.n[i], us)
		}
	}
	return results, plot.write("growth")
}

// A comparison is of ours and of a peer, in microseconds; 0 is not measured.
type comparison struct{ ours, beside float64 }

// grown measures what growth compares, with n certificates.
func grown(n int) (costs []comparison, err error) {
	r := mathrand.New(mathrand.NewPCG(7, 8))
	leaves := make([]merkle.Hash, n)
	for i := range leaves {
		for j := 0; j < len(leaves[i]); j += 8 {
			v := r.Uint64()
			for k := range 8 {
				leaves[i][j+k] = byte(v >> (8 * k))
			}
		}
	}
	var tree merkle.Tree
	tree.Append(leaves...)
	const many = 2000
	us, err := each(many, func(i int) error {
		tree.Append(leaves[i%n])
		return nil
	})
	costs = append(costs, comparison{ours: us})
	if err != nil {
		return nil, err
	}
	all := merkle.Subtree{End: uint64(n)}
	index := func(i int) uint64 { return uint64(i) * 0x9E3779B97F4A7C15 % uint64(n) }
	us, err = each(many, func(i int) error {
		_, err := tree.Inclusion(index(i), all)
		return err
	})
	costs = append(costs, comparison{ours: us})
	if err != nil {
		return nil, err
	}
	proofs := make([][]merkle.Hash, many)
	for i := range proofs {
		if proofs[i], err = tree.Inclusion(index(i), all); err != nil {
			return nil, err
		}
	}
	root, err := tree.Subtree(all)
	if err != nil {
		return nil, err
	}
	us, err = each(many, func(i int) error {
		h, err := merkle.Evaluate(index(i), all, leaves[index(i)], proofs[i])
		if err == nil && h != root {
			err = errors.New("another root")
		}
		return err
	})
	costs = append(costs, comparison{ours: us})
	if err != nil {
		return nil, err
	}
	lists, err := grownLists(n)
	return append(costs, lists...), err
}

// each is the median CPU time of one of n calls, of the thread.
func each(n int, run func(i int) error) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var us []float64
	for range sized(rounds, 3) {
		runtime.GC()
		took, err := onThread(func() error {
			for i := range n {
				if err := run(i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		us = append(us, took/float64(n))
	}
	return median(us), nil
}

// grownLists measures lookup, load and delta.
func grownLists(n int) (costs []comparison, err error) {
	l, c, indexes, err := scatteredList(uint64(n), uint64(n/100))
	if err != nil {
		return nil, err
	}
	list := c.Marshal()
	der, issuer, err := x509List(indexes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	revoked := make(map[uint64]bool, len(indexes))
	for _, v := range indexes {
		revoked[v] = true
	}
	r := mathrand.New(mathrand.NewPCG(9, 10))
	var good []uint32
	for len(good) < 1<<15 {
		if v := r.Uint64N(uint64(n)); !revoked[v] {
			good = append(good, uint32(v))
		}
	}
	lookup := func(n int, find func([]uint32) uint64) (float64, error) {
		us, err := each(1, func(int) error {
			if find(good[:n]) != 0 {
				return errors.New("a good certificate is revoked")
			}
			return nil
		})
		return us / float64(n), err
	}
	var one comparison
	if one.ours, err = lookup(len(good), func(i []uint32) uint64 { return checks(c, l.id, i, l.now) }); err != nil {
		return nil, err
	}
	if one.beside, err = lookup(20, func(i []uint32) uint64 { return scans(parsed, i) }); err != nil {
		return nil, err
	}
	load := comparison{}
	if load.ours, err = each(5, func(int) error { _, err := chancery.OpenCRL(l.pointer, nil, list, l.now); return err }); err != nil {
		return nil, err
	}
	if load.beside, err = each(1, func(int) error { return loadX509(der, issuer) }); err != nil {
		return nil, err
	}
	change := comparison{beside: load.beside}
	change.ours, err = l.changes(c, uint64(n), revoked)
	return []comparison{one, load, change}, err
}

// changes is the time of a delta of one certificate onto a list that is held,
// which gets 180 more so.
func (l *lister) changes(c *chancery.CRL, issued uint64, revoked map[uint64]bool) (float64, error) {
	held, err := chancery.OpenCRL(l.pointer, nil, c.Marshal(), l.now)
	if err != nil {
		return 0, err
	}
	const n = 20
	var deltas [][]byte
	indexes := slices.Sorted(maps.Keys(revoked))
	for v := uint64(0); len(deltas) < n*rounds; v++ {
		if revoked[v] {
			continue
		}
		at, _ := slices.BinarySearch(indexes, v)
		indexes = slices.Insert(indexes, at, v)
		next, err := l.list(c, issued, indexes)
		if err != nil {
			return 0, err
		}
		b, err := next.Delta(c)
		if err != nil {
			return 0, err
		}
		c, deltas = next, append(deltas, b)
	}
	i := 0
	return each(n, func(int) error {
		held, err = held.Apply(l.pointer, deltas[i], l.now)
		i++
		return err
	})
}

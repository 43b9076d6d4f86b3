package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// meshHandshake compares the CPU time of both sides of a handshake between
// nodes, from the dial to READY and the end of the session, with that of mutual
// TLS with certificates that have one intermediate.
func meshHandshake() (results []Result, err error) {
	const command = command + " mesh-handshake"
	n := sized(300, 50)
	m, err := newMeshWorld()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	kinds := []struct {
		name    string
		prepare func(n int) ([]pair, error)
	}{
		{"known", m.known},
		{"plain, known", m.plainKnown},
		{"first", m.strangers(false)},
		{"first of a known batch", m.strangers(true)},
		{"plain, first", m.plainStrangers},
	}
	figures := make([][]float64, len(kinds))
	for range rounds {
		for i, kind := range kinds {
			us, err := handshakes(n, kind.prepare)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.name, err)
			}
			figures[i] = append(figures[i], us)
		}
	}
	known, plainKnown, first, batch, plainFirst := figures[0], figures[1], figures[2], figures[3], figures[4]
	const peer = "crypto/tls, P-256, one intermediate"
	for _, l := range []struct {
		id, what     string
		ours, beside []float64
		limit        float64
	}{
		{"known", "with a peer that is known", known, plainKnown, 1},
		{"first", "with a peer and a batch that neither side has seen before", first, plainFirst, 1.5},
		{"first-batch", "with a peer that neither side has seen before, out of a batch that both know", batch, plainFirst, 1.5},
	} {
		target := ">= 1"
		if l.limit != 1 {
			target = fmt.Sprintf(">= 1/%g", l.limit)
		}
		ours, beside := median(l.ours), median(l.beside)
		results = append(results, Result{ID: "mesh-handshake-" + l.id, What: "microseconds of CPU of both sides of a session " + l.what + ", from the dial to the end, READY included",
			Ours: ours, Beside: beside, Peer: peer, Ratio: beside / ours, Target: target, Met: ours <= l.limit*beside, Command: command}.of(l.ours, l.beside))
	}
	verified, err := m.verifying()
	if err != nil {
		return nil, err
	}
	for _, r := range verified {
		r.Command = command
		results = append(results, r)
	}
	return results, nil
}

// handshakes returns the CPU time of one of n handshakes, in microseconds.
// Who shakes hands is there before, and a collection has been made: what the
// measured ones leave behind is on their account.
func handshakes(n int, prepare func(int) ([]pair, error)) (us float64, err error) {
	pairs, err := prepare(n)
	if err != nil {
		return 0, err
	}
	runtime.GC()
	start := cpu()
	for _, p := range pairs {
		if err := p.shake(); err != nil {
			return 0, err
		}
	}
	us = float64((cpu() - start).Nanoseconds()) / 1000 / float64(len(pairs))
	for _, p := range pairs {
		err = errors.Join(err, p.close())
	}
	return us, err
}

// A pair is two parties that shake hands, over TCP, and part.
type pair interface {
	shake() error
	close() error
}

// A meshWorld is a fleet on paper, and a CA for who does without.
type meshWorld struct {
	fleet   *fleet.Fleet
	ca      *plainCA
	met     *meshPair // they know each other
	plain   *plainPair
	counted int // of names
}

func newMeshWorld() (m *meshWorld, err error) {
	m = &meshWorld{}
	if m.fleet, err = fleet.New(fleet.Options{}); err != nil {
		return nil, err
	}
	nodes, err := m.enroll(1000) // a batch of some size, so that proofs have one too
	if err != nil {
		return nil, err
	}
	if m.met, err = m.newMeshPair(nodes[0], nodes[1], nil); err != nil {
		return nil, err
	}
	if m.ca, err = newPlainCA(); err != nil {
		return nil, err
	}
	if m.plain, err = m.newPlainPair(); err != nil {
		return nil, err
	}
	return m, errors.Join(m.met.shake(), m.plain.shake())
}

func (m *meshWorld) close() error { return errors.Join(m.met.close(), m.plain.close()) }

// enroll enrols n nodes in one batch, and has them have their session keys
// certified. The list knows them.
func (m *meshWorld) enroll(n int) ([]*fleet.Node, error) {
	requests := make([]fleet.Request, n)
	for i := range requests {
		m.counted++
		requests[i] = fleet.Request{Name: fmt.Sprintf("web-%06d", m.counted), Roles: []string{"web"}}
	}
	nodes, err := m.fleet.Enroll(requests...)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		if _, err := node.Identity(); err != nil {
			return nil, err
		}
	}
	_, err = m.fleet.PublishCRL()
	return nodes, err
}

// same returns n times the same pair, which is not closed.
func same(p pair, n int) []pair {
	pairs := make([]pair, n)
	for i := range pairs {
		pairs[i] = lasting{p}
	}
	return pairs
}

type lasting struct{ pair }

func (lasting) close() error { return nil }

func (m *meshWorld) known(n int) ([]pair, error)      { return same(m.met, n), nil }
func (m *meshWorld) plainKnown(n int) ([]pair, error) { return same(m.plain, n), nil }

// strangers are pairs of nodes of one new batch. They know nobody; or, if
// batch, another node of it.
func (m *meshWorld) strangers(batch bool) func(int) ([]pair, error) {
	return func(n int) ([]pair, error) {
		nodes, err := m.enroll(2*n + 1)
		if err != nil {
			return nil, err
		}
		var third *fleet.Node
		if batch {
			third = nodes[2*n]
		}
		pairs := make([]pair, n)
		for i := range pairs {
			if pairs[i], err = m.newMeshPair(nodes[2*i], nodes[2*i+1], third); err != nil {
				return nil, err
			}
		}
		return pairs, nil
	}
}

func (m *meshWorld) plainStrangers(n int) (pairs []pair, err error) {
	pairs = make([]pair, n)
	for i := range pairs {
		if pairs[i], err = m.newPlainPair(); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// A meshPair is a node that dials and one that listens.
type meshPair struct {
	from, to *mesh.Node
	name     string
	listener *mesh.Listener
}

// newMeshPair starts the two nodes; third, if not nil, is whom they have met.
func (m *meshWorld) newMeshPair(from, to, third *fleet.Node) (*meshPair, error) {
	p := &meshPair{name: to.Name}
	for node, into := range map[*fleet.Node]**mesh.Node{from: &p.from, to: &p.to} {
		v := chancery.NewVerifier(m.fleet.Trust())
		if third != nil {
			if _, err := v.Verify(presented(third), third.Name, node.ID, chancery.Policy{}, time.Now()); err != nil {
				return nil, err
			}
		}
		var err error
		if *into, err = mesh.New(mesh.Config{Verifier: v, Identity: node.Identity, Self: node.ID}); err != nil {
			return nil, err
		}
	}
	var err error
	p.listener, err = p.to.Listen("tcp", "127.0.0.1:0")
	return p, err
}

// presented is what the node shows in a handshake.
func presented(n *fleet.Node) [][]byte {
	id, err := n.Identity()
	if err != nil {
		panic(err) // it has been certified before
	}
	return [][]byte{id.Session, id.NC.Raw()}
}

func (p *meshPair) shake() error { return shake(p.from, p.listener, p.name) }

func (p *meshPair) close() error { return errors.Join(p.from.Close(), p.to.Close()) }

// A plainPair is the same without Chancery: a goroutine for each handshake of
// who listens, and deadlines.
type plainPair struct {
	listener net.Listener
	client   *tls.Config
	accepted chan plainAccepted
}

type plainAccepted struct {
	conn *tls.Conn
	err  error
}

const plainTimeout = 10 * time.Second

func (m *meshWorld) newPlainPair() (*plainPair, error) {
	m.counted += 2
	from, err := m.ca.issue(fmt.Sprintf("web-%06d", m.counted-1))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("web-%06d", m.counted)
	to, err := m.ca.issue(name)
	if err != nil {
		return nil, err
	}
	p := &plainPair{client: m.ca.client(from, name), accepted: make(chan plainAccepted)}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	server := m.ca.server(to)
	go func() {
		for {
			raw, err := p.listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				raw.SetDeadline(time.Now().Add(plainTimeout))
				conn := tls.Server(raw, server)
				err := conn.Handshake()
				raw.SetDeadline(time.Time{})
				p.accepted <- plainAccepted{conn, err}
			}()
		}
	}()
	return p, nil
}

func (p *plainPair) shake() error {
	d := net.Dialer{Timeout: plainTimeout}
	raw, err := d.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		return err
	}
	near := tls.Client(raw, p.client)
	ctx, cancel := context.WithTimeout(context.Background(), plainTimeout)
	defer cancel()
	if err := near.HandshakeContext(ctx); err != nil {
		return err
	}
	far := <-p.accepted
	if far.err != nil {
		return far.err
	}
	return errors.Join(near.Close(), far.conn.Close())
}

func (p *plainPair) close() error { return p.listener.Close() }

// verifying measures what a verifier takes for a peer's certificates.
func (m *meshWorld) verifying() (results []Result, err error) {
	const n = 500
	nodes, err := m.enroll(n + 1)
	if err != nil {
		return nil, err
	}
	own, err := m.ca.issue("web.example")
	if err != nil {
		return nil, err
	}
	// Everybody is judged by a verifier of his own, which knows nobody, the
	// batch, or him.
	judge := func(meet func(*chancery.Verifier, *fleet.Node) error) func() (func(int) error, error) {
		return func() (func(int) error, error) {
			verifiers, certs := make([]*chancery.Verifier, n), make([][][]byte, n)
			for i := range verifiers {
				verifiers[i], certs[i] = chancery.NewVerifier(m.fleet.Trust()), presented(nodes[i])
				if err := meet(verifiers[i], nodes[i]); err != nil {
					return nil, err
				}
			}
			return func(i int) error {
				_, err := verifiers[i].Verify(certs[i], nodes[i].Name, nodes[n].ID, chancery.Policy{}, time.Now())
				return err
			}, nil
		}
	}
	met := func(v *chancery.Verifier, node *fleet.Node) error {
		_, err := v.Verify(presented(node), "", chancery.NodeID{}, chancery.Policy{}, time.Now())
		return err
	}
	var costs [4][3][]float64
	for range rounds {
		for side, prepare := range []func() (func(int) error, error){
			judge(met),
			judge(func(*chancery.Verifier, *fleet.Node) error { return nil }),
			judge(func(v *chancery.Verifier, _ *fleet.Node) error { return met(v, nodes[n]) }),
			func() (func(int) error, error) {
				return func(int) error { return m.ca.verify(own.Certificate) }, nil
			},
		} {
			run, err := prepare()
			if err != nil {
				return nil, err
			}
			each, err := spent(n, run)
			if err != nil {
				return nil, err
			}
			for i, f := range each {
				costs[side][i] = append(costs[side][i], f)
			}
		}
	}
	for side, who := range []struct{ id, what string }{
		{"known", "a peer that is known"}, {"first", "a peer and a batch that are new"}, {"first-batch", "a new peer out of a batch that is known"},
	} {
		for i, unit := range []struct{ id, what string }{{"cpu", "microseconds of CPU"}, {"allocations", "allocations"}, {"bytes", "bytes allocated"}} {
			ours, beside := median(slices.Clone(costs[side][i])), median(slices.Clone(costs[3][i]))
			results = append(results, Result{ID: "mesh-verify-" + who.id + "-" + unit.id, What: unit.what + " to verify the certificates of " + who.what,
				Ours: ours, Beside: beside, Peer: "crypto/x509, one intermediate", Ratio: beside / ours, Met: true})
		}
	}
	return results, nil
}

// verify is what crypto/tls does with a peer's certificates.
func (ca *plainCA) verify(certs [][]byte) error {
	leaf, err := x509.ParseCertificate(certs[0])
	if err != nil {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, der := range certs[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: ca.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// spent returns the microseconds of CPU, the allocations and the bytes of one
// of n runs.
func spent(n int, run func(int) error) (each [3]float64, err error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := cpu()
	for i := range n {
		if err := run(i); err != nil {
			return each, err
		}
	}
	took := cpu() - start
	runtime.ReadMemStats(&after)
	return [3]float64{float64(took.Nanoseconds()) / 1000 / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n)}, nil
}

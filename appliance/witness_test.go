package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/appliance/api"
)

// A witness remembers everything that a coordinator has said to anybody, and
// holds what it says later against it.
type witness struct {
	pointer *chancery.Pointer
	// saw is told of each event as it happens. Optional.
	saw func(event)

	mu           sync.Mutex
	certificates map[uint64]*chancery.Certificate // those that a node has in hand, by index
	asked        promises                         // revocations that somebody has asked for
	acknowledged promises                         // and those that the coordinator has confirmed
	heads        map[uint64][32]byte              // hashes of CRL heads, by number
	current      *chancery.CRL                    // the newest list that was seen
	faults       []error
}

// An event is something that happens between a coordinator and the others.
type event string

const (
	submitting   event = "N:S is about to be sent"
	certified    event = "N:C has come"
	asking       event = "a revocation is about to be asked for"
	acknowledged event = "a revocation has been acknowledged"
)

func (w *witness) tell(e event) {
	if w.saw != nil {
		w.saw(e)
	}
}

// promises are revocations: of certificates by index, and of nodes.
type promises struct {
	indexes map[uint64]bool
	nodes   map[string]bool
}

func (p promises) clone() promises { return promises{maps.Clone(p.indexes), maps.Clone(p.nodes)} }

func (p promises) cover(nc *chancery.Certificate) bool {
	return p.indexes[nc.Serial.Index()] || p.nodes[nc.Name]
}

func newWitness(p *chancery.Pointer) *witness {
	return &witness{pointer: p, certificates: map[uint64]*chancery.Certificate{}, heads: map[uint64][32]byte{},
		asked: promises{map[uint64]bool{}, map[string]bool{}}, acknowledged: promises{map[uint64]bool{}, map[string]bool{}}}
}

// clone returns a witness that goes its own way from here.
func (w *witness) clone() *witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &witness{pointer: w.pointer, certificates: maps.Clone(w.certificates), asked: w.asked.clone(), acknowledged: w.acknowledged.clone(),
		heads: maps.Clone(w.heads), current: w.current}
}

// fault notes that the coordinator broke a promise.
func (w *witness) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Errorf(format, args...))
}

// certificate takes down a certificate that came in answer to an N:S.
func (w *witness) certificate(ns *chancery.NS, der []byte) error {
	v := chancery.NewVerifier(chancery.Trust{Pointer: w.pointer, CRL: w.list()})
	nc, err := join.CheckCertificate(v, ns, der, time.Now())
	if errors.Is(err, chancery.ErrRevoked) { // it took long to get here
		nc, err = chancery.ParseCertificate(der)
	}
	if err != nil {
		w.fault("a node was given a certificate that it does not take: %w", err)
		return err
	}
	w.mu.Lock()
	other := w.certificates[nc.Serial.Index()]
	if other == nil {
		w.certificates[nc.Serial.Index()] = nc
	}
	w.mu.Unlock()
	w.tell(certified)
	if other != nil && !bytes.Equal(other.Raw(), nc.Raw()) {
		w.fault("serial %s was given to %s and to %s", nc.Serial, other.Name, nc.Name)
	}
	return nil
}

// revoke has the coordinator revoke what is at a path of its API, and notes
// what was asked for and what was confirmed.
func (w *witness) revoke(c *coordinator, path string, note func(promises)) error {
	w.mu.Lock()
	note(w.asked)
	w.mu.Unlock()
	w.tell(asking)
	if err := ask(c.dir, "POST", path+"/revoke", api.RevokeInput{Reason: "storm"}, nil); err != nil {
		return err
	}
	w.mu.Lock()
	note(w.acknowledged)
	w.mu.Unlock()
	w.tell(acknowledged)
	return w.serves(c) // a list that says so, from now on
}

// revocable returns a certificate that nobody has asked to revoke, out of
// every third.
func (w *witness) revocable() *chancery.Certificate {
	w.mu.Lock()
	defer w.mu.Unlock()
	for index, nc := range w.certificates {
		if index%3 == 0 && !w.asked.cover(nc) {
			return nc
		}
	}
	return nil
}

func (w *witness) list() *chancery.CRL {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// promised returns what has been acknowledged up to now.
func (w *witness) promised() promises {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acknowledged.clone()
}

// crl takes down a list, full or delta, that was asked for when held was the
// newest that was known and due had been acknowledged.
func (w *witness) crl(held *chancery.CRL, due promises, b []byte) *chancery.CRL {
	crl, err := chancery.UpdateCRL(w.pointer, held, b, time.Now())
	if err != nil { // a rollback, a fork, a wrong delta
		w.fault("CRL: %w", err)
		return held
	}
	h := crl.Head()
	w.mu.Lock()
	if known, ok := w.heads[h.Number]; ok && known != h.Hash() {
		w.faults = append(w.faults, fmt.Errorf("CRL number %d has two heads", h.Number))
	}
	if known, ok := w.heads[h.Number-1]; ok && known != h.Previous {
		w.faults = append(w.faults, fmt.Errorf("CRL number %d does not follow number %d", h.Number, h.Number-1))
	}
	w.heads[h.Number] = h.Hash()
	if w.current == nil || h.Number > w.current.Head().Number {
		w.current = crl
	}
	for _, nc := range w.certificates {
		revoked := errors.Is(crl.Check(nc.CA, nc.Serial, nc.NotBefore, time.Now()), chancery.ErrRevoked)
		switch {
		case due.cover(nc) && !revoked:
			w.faults = append(w.faults, fmt.Errorf("CRL number %d has forgotten the revocation of %s", h.Number, nc.Serial))
		case revoked && !w.asked.cover(nc):
			w.faults = append(w.faults, fmt.Errorf("CRL number %d revokes %s, for which nobody asked", h.Number, nc.Serial))
		}
	}
	w.mu.Unlock()
	return crl
}

// audit holds a running coordinator that nobody talks to against all that was
// seen. since is how much of the log the last audit has covered; it returns
// how much this one has.
func (w *witness) audit(c *coordinator, since uint64) (size uint64, err error) {
	size = w.auditLog(c)
	w.mu.Lock()
	given := maps.Clone(w.certificates)
	w.mu.Unlock()
	for index, nc := range given {
		if index >= since {
			w.auditCertificate(c, nc)
		}
	}
	// Every revocation that was acknowledged is in the list that is served
	// after the start, and in the one that follows.
	err = errors.Join(w.serves(c), ask(c.dir, "POST", "/v1/crl", nil, nil), w.serves(c))
	if err != nil {
		w.fault("CRL: %w", err)
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	return size, errors.Join(w.faults...)
}

// auditLog: serials without a gap, every entry certified by CA:SK, a good N:S
// in each.
func (w *witness) auditLog(c *coordinator) (size uint64) {
	var log logResult
	out, err := c.chancery("log", "verify", "-o", "json")
	if err == nil {
		err = json.Unmarshal(out, &log)
	}
	if err != nil {
		w.fault("log: %w", err)
	}
	if log.Waiting != 0 {
		w.fault("%d entries of the log have no signature", log.Waiting)
	}
	return log.Size
}

// auditCertificate: what a node was given is there, with the same bytes.
func (w *witness) auditCertificate(c *coordinator, nc *chancery.Certificate) {
	var kept api.CertificateInfo
	if err := ask(c.dir, "GET", "/v1/certificates/"+nc.Serial.String(), nil, &kept); err != nil {
		w.fault("certificate %s of %s: %w", nc.Serial, nc.Name, err)
	} else if !bytes.Equal(kept.DER, nc.Raw()) {
		w.fault("certificate %s is not the one that %s was given", nc.Serial, nc.Name)
	}
}

// serves looks at the list that the coordinator serves at this moment.
func (w *witness) serves(c *coordinator) error {
	due, held := w.promised(), w.list()
	var b []byte
	if err := ask(c.dir, "GET", "/v1/crl", nil, &b); err != nil {
		return err
	}
	w.crl(held, due, b)
	return nil
}

package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// TrustDomain is the SPIFFE trust domain of every fleet on paper.
const TrustDomain = "paper.example"

// Options of a fleet. The zero value is good.
type Options struct {
	Now     func() time.Time // the coordinator's and the nodes' clock; default [time.Now]
	Life    time.Duration    // of N:C; default 7 days
	CRLLife time.Duration    // from a CRL's thisUpdate to its nextUpdate; default 1 hour
}

// A Fleet is the coordinator's side. Its methods may be called concurrently.
type Fleet struct {
	options Options

	// mu guards everything below.
	mu       sync.Mutex
	cas      []*ca // in order of time; the last one is current
	next     *Key  // committed to, not yet in use
	approval *Key
	pointer  *chancery.Pointer
	crl      *chancery.CRL
}

// New makes a fleet: the ceremony, the first pointer record, the first CRL.
func New(o Options) (*Fleet, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Life == 0 {
		o.Life = 7 * 24 * time.Hour
	}
	if o.CRLLife == 0 {
		o.CRLLife = time.Hour
	}
	f := &Fleet{options: o}
	var first *Key
	for _, k := range []**Key{&first, &f.next, &f.approval} {
		var err error
		if *k, err = NewKey(); err != nil {
			return nil, err
		}
	}
	now := f.now()
	f.pointer = &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: first.public, NextCA: f.next.public.Fingerprint(), Created: now},
		TrustDomain: TrustDomain,
		MinSuite:    chancery.P256,
		MaxLife:     o.Life,
		Approval:    f.approval.public,
	}
	if err := f.addCA(first); err != nil {
		return nil, err
	}
	if err := f.publishPointer(*f.pointer); err != nil {
		return nil, err
	}
	if _, err := f.PublishCRL(); err != nil {
		return nil, err
	}
	return f, nil
}

// now returns the clock's time in the whole seconds that artefacts have.
func (f *Fleet) now() time.Time { return f.options.Now().UTC().Truncate(time.Second) }

// ID returns the identifier that nodes pin.
func (f *Fleet) ID() chancery.FleetID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pointer.FleetID()
}

// Trust returns the newest pointer record and CRL.
func (f *Fleet) Trust() chancery.Trust {
	f.mu.Lock()
	defer f.mu.Unlock()
	return chancery.Trust{Pointer: f.pointer, CRL: f.crl}
}

// publishPointer gives the record the next number, the present CA keys and the
// signature of the current one, and takes it as a node would: from its bytes.
// The record that it follows must not have been changed.
func (f *Fleet) publishPointer(record chancery.Pointer) error {
	p, now := &record, f.now()
	if p.Seq > 0 {
		p.Previous = f.pointer.Hash()
	}
	p.Seq++
	p.Issued, p.Expires = now, now.Add(365*24*time.Hour)
	p.Keys = nil
	for _, c := range f.cas {
		p.Keys = append([]chancery.CAKey{c.entry()}, p.Keys...)
	}
	var err error
	if p.Signature, err = f.current().key.Sign(context.Background(), p.FleetID(), p); err != nil {
		return err
	}
	parsed, err := chancery.ParsePointer(p.Marshal())
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if err := chancery.AcceptPointer(p.FleetID(), nil, parsed, now); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	f.pointer = parsed
	return nil
}

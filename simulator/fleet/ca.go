package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// A ca is one CA key with its log, and what is revoked of that.
type ca struct {
	key     *Key
	id      merkle.TrustAnchorID
	state   chancery.CAKeyState
	created time.Time
	cas     chancery.Signature
	tree    merkle.Tree
	revoked map[uint64]bool
}

// log is the one log that each CA key has (docs/protocol.md section 5).
const log = 1

func (f *Fleet) current() *ca { return f.cas[len(f.cas)-1] }

// addCA makes key the current CA key. Its log starts with an entry that
// certifies nothing, as the draft has it.
func (f *Fleet) addCA(key *Key) error {
	id, err := merkle.ParseTrustAnchorID(fmt.Sprintf("32473.1.%d", len(f.cas)+1))
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	c := &ca{key: key, id: id, state: chancery.CAKeyCurrent, created: f.now(), revoked: map[uint64]bool{}}
	statement := chancery.CASelf{Key: key.public, Created: c.created}
	if c.cas, err = key.Sign(context.Background(), f.pointer.FleetID(), statement); err != nil {
		return err
	}
	c.tree.Append(merkle.HashLeaf(merkle.NullEntry()))
	f.cas = append(f.cas, c)
	return nil
}

// entry returns the key as the pointer record lists it.
func (c *ca) entry() chancery.CAKey {
	return chancery.CAKey{Key: c.key.public, State: c.state, Created: c.created, CAS: c.cas, ID: c.id, Logs: []uint16{log}}
}

// issue appends the subjects to the log and certifies them as one batch, with
// one signature.
func (c *ca) issue(fleet chancery.FleetID, subjects []*chancery.Subject) ([]*chancery.Certificate, error) {
	start := c.tree.Size()
	for _, s := range subjects {
		fields, err := s.Fields(c.id)
		if err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
		entry, err := merkle.MarshalEntry(fields)
		if err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
		c.tree.Append(merkle.HashLeaf(entry))
	}
	batch := merkle.Smallest(start, c.tree.Size())
	root, err := c.tree.Subtree(batch)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	sig, err := c.key.Sign(context.Background(), fleet, chancery.NewSubtree(c.id, log, batch, root))
	if err != nil {
		return nil, err
	}
	certs := make([]*chancery.Certificate, len(subjects))
	for i, s := range subjects {
		serial, err := merkle.NewSerial(log, start+uint64(i))
		if err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
		inclusion, err := c.tree.Inclusion(serial.Index(), batch)
		if err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
		proof := merkle.Proof{Subtree: batch, Inclusion: inclusion, Signatures: []merkle.SubtreeSignature{{Cosigner: c.id, Signature: sig.ASN1()}}}
		if certs[i], err = chancery.NewCertificate(s, c.id, serial, proof); err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
	}
	return certs, nil
}

// Rollover hands the fleet to the next CA key and publishes the pointer
// record that says so; the old key is retired or revoked from then on. The
// CRL held is still the old key's: see [Fleet.PublishCRL].
func (f *Fleet) Rollover(old chancery.CAKeyState) (*chancery.Pointer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, err := NewKey()
	if err != nil {
		return nil, err
	}
	from, fleet := f.current(), f.pointer.FleetID()
	r := chancery.Rollover{Old: from.key.public.Fingerprint(), New: f.next.public, NextCA: after.public.Fingerprint(), Created: f.now()}
	if r.OldSigns, err = from.key.Sign(context.Background(), fleet, &r); err != nil {
		return nil, err
	}
	if r.NewSigns, err = f.next.Sign(context.Background(), fleet, &r); err != nil {
		return nil, err
	}
	if err := f.addCA(f.next); err != nil {
		return nil, err
	}
	from.state, f.next = old, after
	record := *f.pointer
	record.Rollovers = append(record.Rollovers[:len(record.Rollovers):len(record.Rollovers)], r)
	if err := f.publishPointer(record); err != nil {
		return nil, err
	}
	return f.pointer, nil
}

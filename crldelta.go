package chancery

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"
)

// Delta returns what leads from the list base to c, in the form that
// [CRL.Apply] reads.
func (c *CRL) Delta(base *CRL) ([]byte, error) {
	change, err := c.changeSince(base)
	if err != nil {
		return nil, err
	}
	e := artefact(kindDelta)
	e.AddUint64(base.head.Number)
	c.head.encode(e)
	e.vec32(change)
	return e.BytesOrPanic(), nil
}

// changeSince encodes, for every log of c in the order of the head, the
// indexes that are revoked in c and were not in base, as one index set over
// [first, size).
func (c *CRL) changeSince(base *CRL) ([]byte, error) {
	var dst []byte
	for i, now := range c.logs {
		l := &c.head.Logs[i]
		var before *indexMap
		if base != nil {
			before = base.log(l.CA, l.Log)
		}
		if before != nil && (before.first > now.first || before.size > now.size) {
			return nil, fmt.Errorf("CRL: %s, log %d shrank from [%d, %d) to [%d, %d)", l.CA, l.Log, before.first, before.size, now.first, now.size)
		}
		added, err := now.since(before)
		if err != nil {
			return nil, fmt.Errorf("CRL: %s, log %d: %w", l.CA, l.Log, err)
		}
		for i := range added {
			added[i].at -= now.first
		}
		dst = appendIndexSet(dst, now.size-now.first, added)
	}
	return dst, nil
}

// Apply takes a delta whose base is c and returns the newer list; c stays as
// it is. The head is verified as [OpenCRL] does it. A delta of one step is
// held against the hash of the change in its head, a longer one against the
// hashes of the bodies that result.
//
// A step from a list that nothing was applied to yet costs what is new, not
// what the list holds: it is marked in the list's memory, while others look
// into it. All else costs a copy.
func (c *CRL) Apply(p *Pointer, b []byte, now time.Time) (*CRL, error) {
	d := open(b, kindDelta, maxCRL)
	base := d.u64()
	head := d.crlHead()
	change := d.vec32()
	if err := d.done("CRL delta"); err != nil {
		return nil, err
	}
	if err := head.Verify(p); err != nil {
		return nil, err
	}
	if base != c.head.Number {
		return nil, fmt.Errorf("%w: from number %d, holding %d", ErrCRLGap, base, c.head.Number)
	}
	if err := head.follows(c.head, now); err != nil {
		return nil, err
	}
	oneStep := head.Number == base+1
	if oneStep && sha256.Sum256(change) != head.Change {
		return nil, fmt.Errorf("%w: the change is not the one that number %d names", ErrCRLBody, head.Number)
	}
	next := &CRL{head: head, logs: make([]*indexMap, len(head.Logs))}
	for i := range head.Logs {
		l := &head.Logs[i]
		added, rest, err := readIndexSet(change, l.Size-l.First, min(l.Revoked, maxDeltaSet), nil)
		if err != nil {
			return nil, fmt.Errorf("CRL delta: %s, log %d: %w", l.CA, l.Log, err)
		}
		change = rest
		for i := range added {
			added[i].at += l.First
		}
		before := c.log(l.CA, l.Log)
		if !oneStep && before != nil && before.size <= l.Size {
			// What is added is not proved yet: in a copy it does no harm.
			before = before.copied(before.first, before.size)
		}
		m, err := before.extended(l.First, l.Size, added, l.Revoked)
		if err != nil {
			return nil, fmt.Errorf("CRL delta: %s, log %d: %w", l.CA, l.Log, err)
		}
		if !oneStep && sha256.Sum256(m.body()) != l.Body {
			return nil, fmt.Errorf("%w: %s, log %d", ErrCRLBody, l.CA, l.Log)
		}
		next.logs[i] = m
	}
	if len(change) != 0 {
		return nil, fmt.Errorf("CRL delta: %w", ErrMalformed)
	}
	return next, nil
}

// UpdateCRL takes a full list or a delta, whichever b is.
func UpdateCRL(p *Pointer, held *CRL, b []byte, now time.Time) (*CRL, error) {
	if bytes.HasPrefix(b, append([]byte(magic), byte(kindDelta))) {
		if held == nil {
			return nil, fmt.Errorf("%w: none is", ErrCRLGap)
		}
		return held.Apply(p, b, now)
	}
	return OpenCRL(p, held, b, now)
}

// ParseDeltaHead returns the number that a delta starts from and the head that
// it leads to. Nothing is verified.
func ParseDeltaHead(b []byte) (base uint64, head *CRLHead, err error) {
	d := open(b, kindDelta, maxCRL)
	base, head = d.u64(), d.crlHead()
	d.vec32()
	return base, head, d.done("CRL delta")
}

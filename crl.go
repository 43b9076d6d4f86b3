package chancery

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A CRLHead is the signed part of the CRL: one for the whole fleet, numbered,
// with the state of every log that still has unexpired entries.
type CRLHead struct {
	Number     uint64 // +1 for every head, heartbeats included
	ThisUpdate time.Time
	NextUpdate time.Time
	Previous   [32]byte // [CRLHead.Hash] of the head before, zeros for number 1
	// Change is the hash of the change from the head before to this one, in
	// the form that a [CRLDelta] of one step carries it. Whoever holds that
	// head verifies a step by hashing the few bytes that are new.
	Change    [32]byte
	Logs      []CRLLog // ascending by CA id, then log number
	Signature Signature
}

// A CRLLog is what the head says of one log. Sizes and counts are of indexes.
type CRLLog struct {
	CA      merkle.TrustAnchorID
	Log     uint16
	First   uint64   // all lower indexes have expired
	Size    uint64   // indexes committed when the list was made
	Revoked uint64   // how many of [First, Size) are revoked
	Body    [32]byte // SHA-256 of the canonical body
}

func (l *CRLLog) ref() logRef { return logRef{l.CA, l.Log} }

// A logRef names a log.
type logRef struct {
	ca  merkle.TrustAnchorID
	log uint16
}

func (r logRef) before(o logRef) bool {
	if c := r.ca.Compare(o.ca); c != 0 {
		return c < 0
	}
	return r.log < o.log
}

// Errors of certificate revocation lists.
var (
	ErrCRLMissing  = errors.New("no CRL is held")
	ErrCRLStale    = errors.New("CRL is past its nextUpdate")
	ErrCRLFuture   = errors.New("CRL is from the future")
	ErrCRLRollback = errors.New("CRL is older than the one held")
	ErrCRLFork     = errors.New("two CRLs of one number differ")
	ErrCRLGap      = errors.New("CRL delta starts from a list that is not held")
	ErrCRLBody     = errors.New("CRL body does not match its head")
	ErrCRLFloor    = errors.New("CRL number is below the pointer record's floor")

	ErrRevoked      = errors.New("certificate is revoked")
	ErrBelowFirst   = errors.New("certificate's index is below the first unexpired one")
	ErrNewerThanCRL = errors.New("certificate is newer than the CRL held")
	ErrUnknownLog   = errors.New("log is not in the pointer record")
)

// Limits on a list, checked before memory is taken for it.
const (
	maxCRLLogs  = maxCAKeys * maxLogs
	maxCRLSpan  = 1 << 33 // indexes between first and size: 1 GiB of bitmap
	maxLogSize  = 1 << 48 // of the draft: indexes have 48 bits
	maxDeltaSet = 1 << 24 // indexes in one delta
	blockBits   = 16
	blockSpan   = 1 << blockBits
)

func (h *CRLHead) body() []byte {
	var e encoder
	e.AddUint64(h.Number)
	e.time(h.ThisUpdate)
	e.time(h.NextUpdate)
	e.AddBytes(h.Previous[:])
	e.AddBytes(h.Change[:])
	e.list(len(h.Logs), func(e *encoder, i int) {
		l := &h.Logs[i]
		e.vec8(l.CA.Bytes())
		e.AddUint16(l.Log)
		e.AddUint64(l.First)
		e.AddUint64(l.Size)
		e.AddUint64(l.Revoked)
		e.AddBytes(l.Body[:])
	})
	return e.BytesOrPanic()
}

func (h *CRLHead) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelCRL, fleet, suite, h.body())
}

// Hash is SHA-256 over the signed body.
func (h *CRLHead) Hash() [32]byte { return sha256.Sum256(h.body()) }

func (h *CRLHead) encode(e *encoder) {
	e.vec32(h.body())
	e.vec8(h.Signature)
}

func (d *decoder) crlHead() *CRLHead {
	body := d.vec32()
	h := &CRLHead{}
	// A coordinator stores a head before it is signed. Without a signature it
	// verifies under no key.
	if n := len(d.s); n > 0 && d.s[0] == 0 {
		d.u8()
	} else {
		h.Signature = d.signature()
	}
	if d.bad || len(body) > maxCRLHead {
		d.read(false)
		return h
	}
	in := &decoder{s: body}
	h.Number = in.u64()
	h.ThisUpdate = in.time()
	h.NextUpdate = in.time()
	h.Previous = in.hash()
	h.Change = in.hash()
	in.list(maxCRLLogs, func(in *decoder) {
		l := CRLLog{CA: in.caID(), Log: in.u16(), First: in.u64(), Size: in.u64(), Revoked: in.u64(), Body: in.hash()}
		in.read(l.First <= l.Size && l.Size-l.First <= maxCRLSpan && l.Size <= maxLogSize && l.Revoked <= l.Size-l.First && l.Log > 0)
		if n := len(h.Logs); n > 0 {
			in.read(h.Logs[n-1].ref().before(l.ref()))
		}
		h.Logs = append(h.Logs, l)
	})
	in.read(h.Number > 0 && h.NextUpdate.After(h.ThisUpdate) && (h.Number == 1) == (h.Previous == [32]byte{}))
	d.read(in.done("CRL head") == nil)
	return h
}

// Verify checks the head against the pointer record: the current key's
// signature and the floor under the number.
func (h *CRLHead) Verify(p *Pointer) error {
	if h.Number < p.MinCRL {
		return fmt.Errorf("%w: number %d, floor %d", ErrCRLFloor, h.Number, p.MinCRL)
	}
	if err := p.Current().Key.Verify(p.FleetID(), h, h.Signature); err != nil {
		return fmt.Errorf("CRL %d: %w", h.Number, err)
	}
	return nil
}

// follows decides whether h may replace held (nil for none).
func (h *CRLHead) follows(held *CRLHead, now time.Time) error {
	if h.ThisUpdate.After(now.Add(maxSkew)) {
		return fmt.Errorf("%w: number %d of %s, the clock says %s", ErrCRLFuture, h.Number, h.ThisUpdate, utc(now))
	}
	switch {
	case held == nil:
	case h.Number < held.Number:
		return fmt.Errorf("%w: number %d, holding %d", ErrCRLRollback, h.Number, held.Number)
	case h.Number == held.Number && h.Hash() != held.Hash():
		return fmt.Errorf("%w: number %d", ErrCRLFork, h.Number)
	case h.Number == held.Number+1 && h.Previous != held.Hash():
		return fmt.Errorf("%w: number %d does not follow the %d held", ErrCRLFork, h.Number, held.Number)
	case h.ThisUpdate.Before(held.ThisUpdate):
		return fmt.Errorf("%w: number %d was made before number %d", ErrCRLRollback, h.Number, held.Number)
	}
	return nil
}

// A CRL is a verified list, ready for lookups. It never changes; a newer list
// is another value, so readers need no lock.
//
// Lists that follow one another share memory all the same, and each says what
// it said when it was made, whatever was applied to it since: its answers, its
// bytes and the deltas from it stay those of its number. What is newer is
// marked in the shared memory in place, and whoever holds an older list has
// besides what was added since, 16 bytes for each certificate.
type CRL struct {
	head *CRLHead
	logs []*indexMap // one for each log of the head, in its order
}

// log returns what the list holds of a log, nil if that is not in it.
func (c *CRL) log(ca merkle.TrustAnchorID, number uint16) *indexMap {
	// There are few logs, one for the most part: to search them one by one is
	// faster than a map.
	for i := range c.head.Logs {
		if l := &c.head.Logs[i]; l.Log == number && l.CA == ca {
			return c.logs[i]
		}
	}
	return nil
}

// Head returns the signed part. It must not be changed.
func (c *CRL) Head() *CRLHead { return c.head }

// Fresh tells whether the list may be relied on at the time now.
func (c *CRL) Fresh(now time.Time) error {
	if now.After(c.head.NextUpdate) {
		return fmt.Errorf("%w: number %d was good until %s", ErrCRLStale, c.head.Number, c.head.NextUpdate)
	}
	return nil
}

// newerTolerance is how much earlier than a list's thisUpdate the notBefore of
// a certificate may be that was appended after the list was made.
const newerTolerance = 5 * time.Minute

// Check looks up one certificate. It returns nil where the list knows it and
// it is good, and where it was issued after the list by a coordinator whose
// clock can be believed; otherwise [ErrRevoked], [ErrBelowFirst],
// [ErrUnknownLog] or [ErrNewerThanCRL]. The last one is no verdict: fetch the
// current list and ask again.
//
// Freshness is the caller's question, see [CRL.Fresh]; beyond the end of a
// stale list every certificate is [ErrNewerThanCRL].
func (c *CRL) Check(ca merkle.TrustAnchorID, serial merkle.Serial, notBefore, now time.Time) error {
	m := c.log(ca, serial.Log())
	if m == nil {
		return fmt.Errorf("%w: %s, log %d", ErrUnknownLog, ca, serial.Log())
	}
	index := serial.Index()
	switch {
	case index < m.first:
		return fmt.Errorf("%w: index %d, first %d", ErrBelowFirst, index, m.first)
	case index >= m.size:
		if c.Fresh(now) != nil || notBefore.Before(c.head.ThisUpdate.Add(-newerTolerance)) {
			return fmt.Errorf("%w: index %d, list number %d ends at %d", ErrNewerThanCRL, index, c.head.Number, m.size)
		}
	case m.has(index):
		return fmt.Errorf("%w: %s is in CRL number %d", ErrRevoked, serial, c.head.Number)
	}
	return nil
}

// Revoked returns how many certificates the list names.
func (c *CRL) Revoked() (n uint64) {
	for i := range c.head.Logs {
		n += c.head.Logs[i].Revoked
	}
	return n
}

// Marshal returns the whole list in the form that [OpenCRL] reads.
func (c *CRL) Marshal() []byte {
	e := artefact(kindCRL)
	c.head.encode(e)
	for _, m := range c.logs {
		e.vec32(m.body())
	}
	return e.BytesOrPanic()
}

// CRLNumber reads the number out of a full list or a delta without verifying
// anything, for choosing what to fetch or pass on.
func CRLNumber(b []byte) (uint64, error) {
	h, err := crlHeadOf(b)
	if err != nil {
		return 0, err
	}
	return h.Number, nil
}

// OpenCRL parses a full list and takes it in place of held (nil for none):
// the head is verified under the pointer record's current key, held against
// the list that it would replace, and only then are the bodies decoded, which
// must be the ones that the head names.
func OpenCRL(p *Pointer, held *CRL, b []byte, now time.Time) (*CRL, error) {
	head, bodies, err := parseCRL(b)
	if err != nil {
		return nil, err
	}
	if err := head.Verify(p); err != nil {
		return nil, err
	}
	if err := head.follows(held.headOrNil(), now); err != nil {
		return nil, err
	}
	return decodeCRL(head, bodies)
}

// RestoreCRL parses a list that the caller made and stored itself, signed or
// not. Only its form is checked; lists from elsewhere go to [OpenCRL].
func RestoreCRL(b []byte) (*CRL, error) {
	head, bodies, err := parseCRL(b)
	if err != nil {
		return nil, err
	}
	return decodeCRL(head, bodies)
}

func parseCRL(b []byte) (head *CRLHead, bodies [][]byte, err error) {
	d := open(b, kindCRL, maxCRL)
	head = d.crlHead()
	if d.bad {
		return nil, nil, fmt.Errorf("CRL: %w", ErrMalformed)
	}
	bodies = make([][]byte, len(head.Logs))
	for i := range bodies {
		bodies[i] = d.vec32()
	}
	return head, bodies, d.done("CRL")
}

func decodeCRL(head *CRLHead, bodies [][]byte) (*CRL, error) {
	c := &CRL{head: head, logs: make([]*indexMap, len(head.Logs))}
	for i := range head.Logs {
		l := &head.Logs[i]
		if sha256.Sum256(bodies[i]) != l.Body {
			return nil, fmt.Errorf("%w: %s, log %d", ErrCRLBody, l.CA, l.Log)
		}
		m, err := decodeIndexMap(l.First, l.Size, bodies[i])
		if err != nil {
			return nil, fmt.Errorf("CRL: %s, log %d: %w", l.CA, l.Log, err)
		}
		if m.revoked != l.Revoked {
			return nil, fmt.Errorf("%w: %s, log %d: %d indexes, head says %d", ErrCRLBody, l.CA, l.Log, m.revoked, l.Revoked)
		}
		c.logs[i] = m
	}
	return c, nil
}

func (c *CRL) headOrNil() *CRLHead {
	if c == nil {
		return nil
	}
	return c.head
}

// A RevokedSet is the coordinator's side of one log: what the next list will
// say of it.
type RevokedSet struct {
	CA          merkle.TrustAnchorID
	Log         uint16
	First, Size uint64
	Indexes     []uint64 // ascending, within [First, Size)
}

// NextCRL prepares the list that follows previous (nil for the first): the
// same sets, cut at the new First, with what was revoked since. The head is
// complete except for its signature; sign it, verify it, and only then show
// it to anybody. Sets must be ascending by CA id and log number.
func NextCRL(previous *CRL, sets []RevokedSet, thisUpdate, nextUpdate time.Time) (*CRL, error) {
	head := &CRLHead{Number: 1, ThisUpdate: utc(thisUpdate), NextUpdate: utc(nextUpdate)}
	if previous != nil {
		head.Number = previous.head.Number + 1
		head.Previous = previous.head.Hash()
	}
	if !head.NextUpdate.After(head.ThisUpdate) {
		return nil, fmt.Errorf("CRL: nextUpdate %s must be after thisUpdate %s", head.NextUpdate, head.ThisUpdate)
	}
	c := &CRL{head: head}
	if previous != nil && head.ThisUpdate.Before(previous.head.ThisUpdate) {
		return nil, fmt.Errorf("CRL: thisUpdate %s must not be before that of number %d, %s", head.ThisUpdate, previous.head.Number, previous.head.ThisUpdate)
	}
	size := 0
	for i, s := range sets {
		if i > 0 && !(logRef{sets[i-1].CA, sets[i-1].Log}).before(logRef{s.CA, s.Log}) {
			return nil, fmt.Errorf("CRL: internal error: logs out of order")
		}
		var before *indexMap
		if previous != nil {
			before = previous.log(s.CA, s.Log)
		}
		m, err := s.after(before)
		if err != nil {
			return nil, err
		}
		body := m.body()
		size += len(body)
		head.Logs = append(head.Logs, CRLLog{CA: s.CA, Log: s.Log, First: s.First, Size: s.Size, Revoked: m.revoked, Body: sha256.Sum256(body)})
		c.logs = append(c.logs, m)
	}
	if size > maxCRL-maxCRLHead {
		return nil, fmt.Errorf("CRL: the bodies have %d bytes, a list must have no more than %d", size, maxCRL)
	}
	change, err := c.changeSince(previous)
	if err != nil {
		return nil, err
	}
	head.Change = sha256.Sum256(change)
	return c, nil
}

// after returns the map of the set, which follows before (nil for none).
func (s *RevokedSet) after(before *indexMap) (*indexMap, error) {
	if s.Log == 0 || s.First > s.Size || s.Size > maxLogSize || s.Size-s.First > maxCRLSpan {
		return nil, fmt.Errorf("CRL: internal error: log %d with indexes [%d, %d)", s.Log, s.First, s.Size)
	}
	if before != nil && (before.first > s.First || before.size > s.Size) {
		return nil, fmt.Errorf("CRL: %s, log %d shrank from [%d, %d) to [%d, %d)", s.CA, s.Log, before.first, before.size, s.First, s.Size)
	}
	var added []run
	for j, v := range s.Indexes {
		if v < s.First || v >= s.Size || j > 0 && v <= s.Indexes[j-1] {
			return nil, fmt.Errorf("CRL: internal error: index %d out of order or outside of [%d, %d)", v, s.First, s.Size)
		}
		if before == nil || v >= before.size || !before.has(v) {
			added = appendPosition(added, v)
		}
	}
	m, err := before.extended(s.First, s.Size, added, uint64(len(s.Indexes)))
	if err != nil { // what was revoked and what is added are more than the set
		return nil, fmt.Errorf("CRL: %s, log %d: an index is no longer revoked", s.CA, s.Log)
	}
	return m, nil
}

// Sign gives the list's head its signature. It exists so that the head itself
// stays out of the caller's hands.
func (c *CRL) Sign(sig Signature) { c.head.Signature = bytes.Clone(sig) }

package chancery

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A CAKeyState says what a CA key in the pointer record may still do.
type CAKeyState uint8

const (
	CAKeyCurrent CAKeyState = 1 // signs
	CAKeyNext    CAKeyState = 2 // announced; signs nothing yet
	CAKeyRetired CAKeyState = 3 // what it certified is good until it expires
	CAKeyRevoked CAKeyState = 4 // what it certified is refused
)

// String returns the state as the command line prints it.
func (s CAKeyState) String() string {
	switch s {
	case CAKeyCurrent:
		return "current"
	case CAKeyNext:
		return "next"
	case CAKeyRetired:
		return "retired"
	case CAKeyRevoked:
		return "revoked"
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// A CAKey is one CA:PK in the pointer record, with its CA:S.
type CAKey struct {
	Key     PublicKey
	State   CAKeyState
	Created time.Time
	CAS     Signature            // CA:S, over [CASelf]
	ID      merkle.TrustAnchorID // CA id of the Merkle Tree Certificates it issues
	Logs    []uint16             // log numbers in use, ascending; the last one is current
}

// Log returns the number of the log that the key appends to.
func (k *CAKey) Log() uint16 { return k.Logs[len(k.Logs)-1] }

// CA describes the key as the Merkle Tree Certificates draft describes a CA. A
// key that has signed nothing yet has no CA.
func (k *CAKey) CA() (*merkle.CA, error) {
	if len(k.Logs) == 0 {
		return nil, fmt.Errorf("CA key %s has no log", k.Key)
	}
	first, err := merkle.NewSerial(k.Logs[0], 0)
	if err != nil {
		return nil, err
	}
	last, err := merkle.NewSerial(k.Log(), 1<<48-1)
	if err != nil {
		return nil, err
	}
	return &merkle.CA{ID: k.ID, PublicKey: k.Key.ECDSA(), MinSerial: first, MaxSerial: last,
		NotBefore: k.Created, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, nil // RFC 5280 section 4.1.2.5: no well-defined expiration
}

// CASelf is the statement under CA:S: CA:SK signs CA:PK.
type CASelf struct {
	Key     PublicKey
	Created time.Time
}

func (c CASelf) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	e.key(c.Key)
	e.time(c.Created)
	return labelled(labelCASelf, fleet, suite, e.BytesOrPanic())
}

// An Endpoint is where a coordinator listens and the fingerprints of the TLS
// keys that it may show there.
type Endpoint struct {
	URL  string
	Pins [][32]byte // SHA-256 of the TLS certificate's SubjectPublicKeyInfo
}

// A Pointer is the pointer record: how a node that holds nothing but the pin
// finds the coordinator, its key, and the fleet's floors. It proves itself,
// so it may come over any channel (docs/protocol.md section 3).
type Pointer struct {
	Genesis     Genesis
	Seq         uint64 // from 1
	Issued      time.Time
	Expires     time.Time
	Previous    [32]byte // [Pointer.Hash] of the record before, zeros for the first
	TrustDomain string   // SPIFFE trust domain of node names
	Keys        []CAKey  // the current key first
	Rollovers   []Rollover
	Endpoints   []Endpoint
	CRLURL      string        // where the CRL is besides the endpoints, or empty
	MinCRL      uint64        // lowest acceptable CRL number
	MinSuite    Suite         // lowest acceptable suite
	MaxLife     time.Duration // longest life of an N:C, whole seconds
	Approval    PublicKey     // signs PCR policies
	X509Issuer  PublicKey     // signs for third-party software; may be absent
	Signature   Signature     // by the current CA:SK
}

// Errors of pointer records.
var (
	ErrPointerRollback = errors.New("pointer record is older than the one held")
	ErrPointerFork     = errors.New("two pointer records of one sequence number differ")
	ErrPointerExpired  = errors.New("pointer record has expired")
	ErrPointerFuture   = errors.New("pointer record is from the future")
	ErrPointerFloor    = errors.New("pointer record lowers a floor")
	ErrPointerKeys     = errors.New("pointer record's keys do not follow from its genesis")
)

// maxSkew is how far ahead of a node's clock a signed time may lie. Beyond it
// either clock is wrong by a day, and guessing which would let a hijacked
// coordinator push every node's clock forward.
const maxSkew = 24 * time.Hour

func (p *Pointer) body() []byte {
	var e encoder
	p.Genesis.encode(&e)
	e.AddUint64(p.Seq)
	e.time(p.Issued)
	e.time(p.Expires)
	e.AddBytes(p.Previous[:])
	e.vec8([]byte(p.TrustDomain))
	e.list(len(p.Keys), func(e *encoder, i int) {
		k := &p.Keys[i]
		e.key(k.Key)
		e.AddUint8(uint8(k.State))
		e.time(k.Created)
		e.vec8(k.CAS)
		e.vec8(k.ID.Bytes())
		e.list(len(k.Logs), func(e *encoder, j int) { e.AddUint16(k.Logs[j]) })
	})
	e.list(len(p.Rollovers), func(e *encoder, i int) { p.Rollovers[i].encode(e) })
	e.list(len(p.Endpoints), func(e *encoder, i int) {
		e.vec8([]byte(p.Endpoints[i].URL))
		e.list(len(p.Endpoints[i].Pins), func(e *encoder, j int) { e.AddBytes(p.Endpoints[i].Pins[j][:]) })
	})
	e.vec8([]byte(p.CRLURL))
	e.AddUint64(p.MinCRL)
	e.AddUint16(uint16(p.MinSuite))
	e.AddUint32(uint32(p.MaxLife / time.Second))
	e.key(p.Approval)
	e.key(p.X509Issuer)
	return e.BytesOrPanic()
}

func (p *Pointer) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelPointer, fleet, suite, p.body())
}

// FleetID returns the identifier of the fleet that the record speaks for.
func (p *Pointer) FleetID() FleetID { return p.Genesis.FleetID() }

// Hash is SHA-256 over the signed body. Two signatures over one body are the
// same record: ECDSA signs anew after a crash.
func (p *Pointer) Hash() [32]byte { return sha256.Sum256(p.body()) }

// Current returns the key that signs. [Pointer.Verify] made sure there is one.
func (p *Pointer) Current() *CAKey { return &p.Keys[0] }

// CA returns the CA key with the CA id, or nil.
func (p *Pointer) CA(id merkle.TrustAnchorID) *CAKey {
	for i := range p.Keys {
		if p.Keys[i].ID == id {
			return &p.Keys[i]
		}
	}
	return nil
}

// Marshal returns the record in the form that [ParsePointer] reads.
func (p *Pointer) Marshal() []byte {
	e := artefact(kindPointer)
	e.vec32(p.body())
	e.vec8(p.Signature)
	return e.BytesOrPanic()
}

// Limits on the lists of a pointer record.
const (
	maxCAKeys    = 16
	maxRollovers = 64
	maxEndpoints = 16
	maxPins      = 4
	maxLogs      = 64
)

// ParsePointer parses a pointer record. It does not verify it.
func ParsePointer(b []byte) (*Pointer, error) {
	const what = "pointer record"
	d := open(b, kindPointer, maxPointer)
	body := d.vec32()
	p := &Pointer{Signature: d.signature()}
	if err := d.done(what); err != nil {
		return nil, err
	}
	d = &decoder{s: body}
	p.Genesis = d.genesis()
	p.Seq = d.u64()
	p.Issued = d.time()
	p.Expires = d.time()
	p.Previous = d.hash()
	p.TrustDomain = string(d.vec8())
	d.list(maxCAKeys, func(d *decoder) {
		k := CAKey{Key: d.key(), State: CAKeyState(d.u8()), Created: d.time(), CAS: d.signature(), ID: d.caID()}
		d.list(maxLogs, func(d *decoder) { k.Logs = append(k.Logs, d.u16()) })
		d.read(k.State >= CAKeyCurrent && k.State <= CAKeyRevoked && len(k.Logs) > 0)
		p.Keys = append(p.Keys, k)
	})
	d.list(maxRollovers, func(d *decoder) { p.Rollovers = append(p.Rollovers, d.rollover()) })
	d.list(maxEndpoints, func(d *decoder) {
		ep := Endpoint{URL: string(d.vec8())}
		d.list(maxPins, func(d *decoder) { ep.Pins = append(ep.Pins, d.hash()) })
		d.read(len(ep.Pins) > 0)
		p.Endpoints = append(p.Endpoints, ep)
	})
	p.CRLURL = string(d.vec8())
	p.MinCRL = d.u64()
	p.MinSuite = Suite(d.u16())
	p.MaxLife = time.Duration(d.u32()) * time.Second
	p.Approval = d.key()
	p.X509Issuer = d.optionalKey()
	if err := d.done(what); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Marshal(), b) {
		return nil, fmt.Errorf("%s: %w: not the canonical encoding", what, ErrMalformed)
	}
	return p, nil
}

// check holds the fields against each other.
func (p *Pointer) check() error {
	if p.Seq == 0 {
		return fmt.Errorf("pointer record: %w: sequence numbers begin with 1", ErrMalformed)
	}
	if (p.Seq == 1) != (p.Previous == [32]byte{}) {
		return fmt.Errorf("pointer record: %w: the first record, and no other, has no previous one", ErrMalformed)
	}
	if !p.Expires.After(p.Issued) {
		return fmt.Errorf("pointer record: %w: expires %s, not after issued %s", ErrMalformed, p.Expires, p.Issued)
	}
	if !validTrustDomain(p.TrustDomain) {
		return fmt.Errorf("pointer record: %w: trust domain %q", ErrMalformed, p.TrustDomain)
	}
	if p.MaxLife <= 0 {
		return fmt.Errorf("pointer record: %w: longest certificate life %s", ErrMalformed, p.MaxLife)
	}
	if p.Approval.IsZero() {
		return fmt.Errorf("pointer record: %w: no approval key", ErrMalformed)
	}
	if p.MinSuite != P256 && p.MinSuite != P384 {
		return fmt.Errorf("pointer record: %w: floor is the unknown %s", ErrMalformed, p.MinSuite)
	}
	for _, k := range p.Keys {
		if len(k.Logs) == 0 || k.Logs[0] == 0 || !slices.IsSorted(k.Logs) || len(slices.Compact(slices.Clone(k.Logs))) != len(k.Logs) {
			return fmt.Errorf("pointer record: %w: log numbers %v, want ascending from 1", ErrMalformed, k.Logs)
		}
	}
	return nil
}

// Verify checks everything that the record proves by itself: that it belongs
// to the pinned fleet, that its keys follow from the genesis through
// rollovers that were committed to beforehand, CA:S of each key, and the
// signature of the current key. Time is not looked at.
func (p *Pointer) Verify(pin FleetID) error {
	if p.FleetID() != pin {
		return fmt.Errorf("%w: pinned %s, record %s", ErrPin, pin.Pin(), p.FleetID().Pin())
	}
	if err := p.check(); err != nil {
		return err
	}
	if err := p.verifyKeys(); err != nil {
		return err
	}
	current := p.Current().Key
	if current.suite < p.MinSuite {
		return fmt.Errorf("pointer record: %w: key has %s, floor is %s", ErrSuiteFloor, current.suite, p.MinSuite)
	}
	if err := current.Verify(pin, p, p.Signature); err != nil {
		return fmt.Errorf("pointer record: %w", err)
	}
	return nil
}

// verifyKeys follows the rollovers from the genesis and holds the listed keys
// against the ones that were reached.
func (p *Pointer) verifyKeys() error {
	fleet := p.FleetID()
	reached, committed, err := followRollovers(&p.Genesis, p.Rollovers)
	if err != nil {
		return err
	}
	seen := map[merkle.TrustAnchorID]bool{}
	for i := range p.Keys {
		k := &p.Keys[i]
		at := slices.IndexFunc(reached, k.Key.Equal)
		var fits bool
		switch k.State {
		case CAKeyCurrent:
			fits = i == 0 && at == len(reached)-1
		case CAKeyNext:
			fits = k.Key.Fingerprint() == committed
		default:
			fits = at >= 0 && at < len(reached)-1
		}
		if !fits {
			return fmt.Errorf("%w: key %s is listed as %s", ErrPointerKeys, k.Key, k.State)
		}
		if seen[k.ID] {
			return fmt.Errorf("%w: CA id %s is listed twice", ErrPointerKeys, k.ID)
		}
		seen[k.ID] = true
		if k.Key.Equal(p.Approval) || k.Key.Equal(p.X509Issuer) {
			return fmt.Errorf("%w: key %s is also the approval key or the X.509 issuer", ErrPointerKeys, k.Key)
		}
		if err := k.Key.Verify(fleet, CASelf{k.Key, k.Created}, k.CAS); err != nil {
			return fmt.Errorf("CA:S of %s: %w", k.Key, err)
		}
	}
	if p.Approval.Equal(p.X509Issuer) {
		return fmt.Errorf("%w: the approval key is also the X.509 issuer", ErrPointerKeys)
	}
	if len(p.Keys) == 0 || p.Keys[0].State != CAKeyCurrent {
		return fmt.Errorf("%w: the first key is not the current one", ErrPointerKeys)
	}
	return nil
}

// AcceptPointer decides whether a node that pins the fleet and holds stored
// (nil for none) takes received at the time now. A record with the same body
// as the stored one is accepted. Errors are those of [Pointer.Verify] and the
// Err-Pointer ones; on [ErrPointerFork] keep the stored record and raise an
// alarm that an operator clears.
func AcceptPointer(pin FleetID, stored, received *Pointer, now time.Time) error {
	if err := received.Verify(pin); err != nil {
		return err
	}
	if stored != nil {
		if err := received.follows(stored); err != nil {
			return err
		}
	}
	if received.Issued.After(now.Add(maxSkew)) {
		return fmt.Errorf("%w: issued %s, the clock says %s", ErrPointerFuture, received.Issued, utc(now))
	}
	if now.After(received.Expires) {
		return fmt.Errorf("%w: at %s", ErrPointerExpired, received.Expires)
	}
	return nil
}

// follows decides whether p may replace stored. Both are verified.
func (p *Pointer) follows(stored *Pointer) error {
	switch {
	case p.Seq < stored.Seq:
		return fmt.Errorf("%w: number %d, holding %d", ErrPointerRollback, p.Seq, stored.Seq)
	case p.Seq == stored.Seq && p.Hash() != stored.Hash():
		return fmt.Errorf("%w: number %d", ErrPointerFork, p.Seq)
	case p.Seq == stored.Seq+1 && p.Previous != stored.Hash():
		return fmt.Errorf("%w: number %d does not follow the %d held", ErrPointerFork, p.Seq, stored.Seq)
	case len(p.Rollovers) < len(stored.Rollovers) || !slices.EqualFunc(stored.Rollovers, p.Rollovers[:len(stored.Rollovers)], Rollover.equal):
		return fmt.Errorf("%w: rollovers that were accepted are gone", ErrPointerFork)
	case p.MinCRL < stored.MinCRL:
		return fmt.Errorf("%w: CRL number %d after %d", ErrPointerFloor, p.MinCRL, stored.MinCRL)
	case p.MinSuite < stored.MinSuite:
		return fmt.Errorf("%w: %s after %s", ErrPointerFloor, p.MinSuite, stored.MinSuite)
	case p.TrustDomain != stored.TrustDomain:
		return fmt.Errorf("%w: trust domain %q after %q", ErrPointerFloor, p.TrustDomain, stored.TrustDomain)
	}
	for _, k := range stored.Keys {
		if now := p.CA(k.ID); k.State == CAKeyRevoked && now != nil && now.State != CAKeyRevoked {
			return fmt.Errorf("%w: revoked CA id %s is listed as %s", ErrPointerFloor, k.ID, now.State)
		}
	}
	return nil
}

// check tells whether a TLS certificate has a pinned key.
func (ep *Endpoint) check(c *x509.Certificate) error {
	pin := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	if !slices.Contains(ep.Pins, pin) {
		return fmt.Errorf("%w: the server at %s shows a TLS key that the pointer record does not name, sha256:%x", ErrNotOurCoordinator, ep.URL, pin)
	}
	return nil
}

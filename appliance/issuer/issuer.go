// Package issuer signs for software that does not know Merkle Tree
// Certificates, with the X.509 issuer's key: a second key in the token, which
// the pointer record names and which signs nothing but X.509 structures.
//
// Start with [New]. [Issuer.Certificate] is what accompanies an N:C, under its
// serial number; [Issuer.CA] is the issuer's own, which verifies it. [Issuer.CRL]
// is the fleet's own list as RFC 5280 has it: the same number, the same times,
// the same certificates, and reasons besides. There is one of all, as long as it
// is not too long, and one for each 65,536 indexes of a log.
//
// # Cost
//
// A list is made when somebody asks for it, once for each list of our own, and
// costs a signature. So a list that nobody reads costs nothing, and whoever
// asks for all of them has the token sign once for each, one after the other.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A Config says what an issuer works with. All fields are required.
type Config struct {
	Store   *store.Store
	Pointer *chancery.Pointer
	Signer  chancery.Signer // the pointer record's X.509 issuer
	// Current returns the fleet's own list, whose set it is.
	Current func() *chancery.CRL
}

// Errors of lists that are not made.
var (
	ErrNoList = errors.New("there is no such list")
	ErrLarge  = errors.New("the list of all is too long; its partitions are not")
)

const (
	// MaxEntries bounds the list of all, which is some 40 MB long then.
	MaxEntries = 1 << 20
	// maxKept bounds the memory for lists that were made, beside the newest.
	// What is dropped is made again with the signature that it had.
	maxKept = 64 << 20
	// makeTime is how long that may take. It goes on when whoever asked first
	// has left, because others may wait.
	makeTime = time.Minute
)

// A Part says what a list is of: all certificates of a CA id, or a partition of
// one of its logs.
type Part struct {
	CA        merkle.TrustAnchorID
	Log       uint16 // 0: all of them
	Partition uint64
}

// A List is a CRL, signed.
type List struct {
	Head    *chancery.CRLHead // whose number and times it has
	Revoked uint64
	DER     []byte // must not be changed
}

// An Issuer signs for third parties. Its methods may be called concurrently.
type Issuer struct {
	Config
	lint *lint.Linter
	// slot has room for one who makes a list. CA:SK may be in the same token,
	// and strangers can ask for all lists that there are.
	slot chan struct{}
	keep int // bytes; maxKept but for tests

	// mu guards what was made. It is never held while the store or the token
	// is used.
	mu   sync.Mutex
	head [32]byte // of the list that all of it is for
	made map[Part]*making
	kept []Part // with their bytes, the oldest first
	size int    // of those bytes
}

// making is a list that is being made, or was.
type making struct {
	done chan struct{} // closed when the rest is there
	sig  chancery.Signature
	list *List // nil if it was dropped
	err  error
}

// New returns an issuer.
func New(c Config) (*Issuer, error) {
	if !c.Signer.PublicKey().Equal(c.Pointer.X509Issuer) {
		return nil, fmt.Errorf("the X.509 issuer's key is %s, the pointer record says %s", c.Signer.PublicKey(), c.Pointer.X509Issuer)
	}
	l, err := lint.New(lint.RulesOf(c.Pointer))
	if err != nil {
		return nil, err
	}
	return &Issuer{Config: c, lint: l, slot: make(chan struct{}, 1), keep: maxKept, made: map[Part]*making{}}, nil
}

// CRL returns a list that goes with our own current one. It waits for the
// token, as long as the context lasts. [ErrNoList] and [ErrLarge] say that it
// never will be.
func (i *Issuer) CRL(ctx context.Context, part Part) (*List, error) {
	i.mu.Lock()
	current := i.Current() // under mu, so that nobody goes back to an older one
	spans, err := spansOf(current.Head(), part)
	if err != nil {
		i.mu.Unlock()
		return nil, err
	}
	if hash := current.Head().Hash(); hash != i.head {
		i.head, i.made, i.kept, i.size = hash, map[Part]*making{}, nil, 0
	}
	m := i.made[part]
	if m == nil {
		m = &making{done: make(chan struct{})}
		i.made[part] = m
		go i.make(context.WithoutCancel(ctx), current, part, spans, m)
	}
	i.mu.Unlock()
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.err != nil {
		return nil, m.err
	}
	i.mu.Lock()
	list := m.list
	i.mu.Unlock()
	if list == nil { // dropped
		return i.build(ctx, current, part, spans, func(chancery.X509CRL) (chancery.Signature, error) { return m.sig, nil })
	}
	return list, nil
}

// A span is what a list is of in one log.
type span struct {
	log         uint16
	base        merkle.Serial // of index 0
	from, below uint64
}

func spansOf(head *chancery.CRLHead, part Part) (spans []span, err error) {
	var entries uint64
	for _, l := range head.Logs {
		if l.CA.Compare(part.CA) != 0 {
			continue
		}
		base, err := merkle.NewSerial(l.Log, 0)
		if err != nil {
			return nil, err
		}
		if part.Log == 0 {
			spans, entries = append(spans, span{l.Log, base, l.First, l.Size}), entries+l.Revoked
			continue
		}
		// Certificates that were issued since may be in the next one already,
		// which names none of them.
		const width = chancery.X509PartitionSpan
		if l.Log == part.Log && part.Partition >= l.First/width && part.Partition <= l.Size/width+1 {
			from := part.Partition * width
			below := min(from+width, l.Size)
			spans = append(spans, span{l.Log, base, min(max(from, l.First), below), below})
		}
	}
	switch {
	case len(spans) == 0:
		return nil, ErrNoList
	case entries > MaxEntries:
		return nil, fmt.Errorf("%w: %d entries, at most %d", ErrLarge, entries, MaxEntries)
	}
	return spans, nil
}

// make makes a list and lets those go on who wait for it.
func (i *Issuer) make(ctx context.Context, current *chancery.CRL, part Part, spans []span, m *making) {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	list, err := i.build(ctx, current, part, spans, func(tbs chancery.X509CRL) (sig chancery.Signature, err error) {
		m.sig, err = i.Signer.Sign(ctx, i.Pointer.FleetID(), tbs)
		return m.sig, err
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	m.list, m.err = list, err
	close(m.done)
	if i.made[part] != m { // there is a newer list by now
		return
	}
	if err != nil {
		delete(i.made, part) // the next one tries again
		return
	}
	for i.size+len(list.DER) > i.keep && len(i.kept) > 0 {
		old := i.made[i.kept[0]]
		i.size -= len(old.list.DER)
		old.list = nil
		i.kept = slices.Delete(i.kept, 0, 1)
	}
	i.kept, i.size = append(i.kept, part), i.size+len(list.DER)
}

// build puts a list together.
func (i *Issuer) build(ctx context.Context, current *chancery.CRL, part Part, spans []span, sign func(chancery.X509CRL) (chancery.Signature, error)) (*List, error) {
	select {
	case i.slot <- struct{}{}:
		defer func() { <-i.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var urls []string
	if part.Log != 0 {
		urls = chancery.X509DistributionPoint(i.Pointer, part.CA, part.Log, part.Partition)
	}
	var want uint64
	for _, s := range spans {
		want += count(current, part.CA, s)
	}
	b, err := chancery.NewX509CRL(i.Pointer, current.Head(), part.CA, urls, int(want))
	if err != nil {
		return nil, err
	}
	list := &List{Head: current.Head()}
	err = i.Store.View(ctx, func(tx *store.Tx) error {
		for _, s := range spans {
			err := tx.RevokedIn(store.Log{CA: part.CA.String(), Number: s.log}, s.from, s.below, func(index uint64, at time.Time, code chancery.ReasonCode) {
				if serial := s.base + merkle.Serial(index); lists(current, part.CA, serial) { // else it was revoked since
					b.Add(serial, at, code)
					list.Revoked++
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if list.Revoked != want {
		return nil, fmt.Errorf("issuer: internal error: CRL %d names %d certificates, of which %d are stored", current.Head().Number, want, list.Revoked)
	}
	tbs := b.Finish()
	sig, err := sign(tbs)
	if err != nil {
		return nil, err
	}
	list.DER = tbs.List(sig)
	return list, nil
}

// count returns how many certificates our own list names in the span.
func count(c *chancery.CRL, ca merkle.TrustAnchorID, s span) (n uint64) {
	for _, l := range c.Head().Logs {
		if l.CA.Compare(ca) == 0 && l.Log == s.log && s.from == l.First && s.below == l.Size {
			return l.Revoked
		}
	}
	for index := s.from; index < s.below; index++ {
		if lists(c, ca, s.base+merkle.Serial(index)) {
			n++
		}
	}
	return n
}

// lists reports whether the list names a serial number that it covers.
func lists(c *chancery.CRL, ca merkle.TrustAnchorID, serial merkle.Serial) bool {
	return errors.Is(c.Check(ca, serial, time.Time{}, time.Time{}), chancery.ErrRevoked)
}

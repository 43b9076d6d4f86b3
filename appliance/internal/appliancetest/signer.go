package appliancetest

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/chancery-pki/chancery"
)

// A Kind is what a statement of CA:SK is about.
type Kind string

const (
	CANS       Kind = "CA:N:S" // a tree of them
	Subtree    Kind = "subtree"
	Checkpoint Kind = "checkpoint"
	CRL        Kind = "CRL"
	Other      Kind = "other" // of a ceremony
)

// KindOf tells what a statement is about.
func KindOf(s chancery.Statement) Kind {
	switch s.(type) {
	case chancery.CANSTree:
		return CANS
	case *chancery.CRLHead:
		return CRL
	case chancery.SubtreeStatement:
		// The timestamp of a CosignedMessage (docs/protocol.md section 5.2)
		// follows a label of 12 bytes and the cosigner.
		m := chancery.Message(chancery.FleetID{}, chancery.P256, s)
		if at := 13 + int(m[12]); binary.BigEndian.Uint64(m[at:]) != 0 {
			return Checkpoint
		}
		return Subtree
	}
	return Other
}

// ErrToken is how a [Signer] refuses: a token that is out of order.
var ErrToken = errors.New("CKR_DEVICE_ERROR")

// A Signer counts what a key signs, and fails where a test tells it to. Its
// methods may be called concurrently.
type Signer struct {
	chancery.Signer

	// mu guards everything below; it is not held while the key signs.
	mu      sync.Mutex
	asked   [][]byte // messages, in the order in which they came
	signed  map[Kind]int
	refuse  int           // so many more calls
	refusal error         // with this
	release chan struct{} // closed when calls need not wait; nil: they do not
}

// NewSigner returns a signer with the key.
func NewSigner(key chancery.Signer) *Signer {
	return &Signer{Signer: key, signed: map[Kind]int{}}
}

// Sign signs as the key does, unless a fault is set.
func (s *Signer) Sign(ctx context.Context, fleet chancery.FleetID, what chancery.Statement) (chancery.Signature, error) {
	s.mu.Lock()
	s.asked = append(s.asked, chancery.Message(fleet, s.PublicKey().Suite(), what))
	release, refusal := s.release, s.refusal
	if s.refuse == 0 {
		refusal = nil
	} else {
		s.refuse--
	}
	s.mu.Unlock()
	if refusal != nil {
		return nil, refusal
	}
	if release != nil {
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	sig, err := s.Signer.Sign(ctx, fleet, what)
	if err == nil {
		s.mu.Lock()
		s.signed[KindOf(what)]++
		s.mu.Unlock()
	}
	return sig, err
}

// Refuse makes the next n calls fail with [ErrToken].
func (s *Signer) Refuse(n int) { s.RefuseWith(n, ErrToken) }

// RefuseWith makes the next n calls fail with the error.
func (s *Signer) RefuseWith(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse, s.refusal = n, err
}

// Hold makes calls wait until release is called, or their context ends.
func (s *Signer) Hold() (release func()) {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release = c
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.release = nil
		close(c)
	})
}

// Signed returns how many statements of the kind were signed.
func (s *Signer) Signed(k Kind) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed[k]
}

// Total returns how many statements were signed.
func (s *Signer) Total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.signed {
		n += of
	}
	return n
}

// Asked returns the messages that the signer was asked to sign, in order.
func (s *Signer) Asked() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

package tlog

import (
	"bytes"
	"fmt"
)

// A Policy says which checkpoints of one log are believed. [NewPolicy] makes
// one.
type Policy struct {
	origin    string
	log       []*Key
	witnesses []*Key
	quorum    int
}

// NewPolicy returns the policy that takes a checkpoint of the origin if at
// least one of the log's keys signed it, and as many of the witnesses as the
// quorum says. Without a quorum a log may show different histories to
// different people, and nobody notices until they compare.
func NewPolicy(origin string, log, witnesses []*Key, quorum int) (*Policy, error) {
	if origin == "" {
		return nil, malformed("policy for a log without origin")
	}
	if len(log) == 0 {
		return nil, malformed("policy for %s without a key of the log", origin)
	}
	if quorum < 0 || quorum > len(witnesses) {
		return nil, malformed("policy for %s wants %d witnesses of %d", origin, quorum, len(witnesses))
	}
	seen := map[string]bool{}
	for _, k := range append(append([]*Key{}, log...), witnesses...) {
		// One key under two names must not count as two witnesses.
		if seen[k.public] {
			return nil, malformed("policy for %s has the key of %s twice", origin, k.name)
		}
		seen[k.public] = true
	}
	for _, k := range witnesses {
		if k.kind == Ed25519 {
			return nil, malformed("policy for %s: the key of %s is a log's, not a witness's", origin, k.name)
		}
	}
	return &Policy{origin, log, witnesses, quorum}, nil
}

// Origin is the name of the log.
func (p *Policy) Origin() string { return p.origin }

// A Signed is a checkpoint that a [Policy] let pass.
type Signed struct {
	Checkpoint
	Raw       []byte      // the note
	Log       []Signature // the verified ones
	Witnesses []Signature

	// Latest is the latest time in a verified signature, in seconds since
	// 1970, and 0 if no signature has one. It tells how old the checkpoint is,
	// if whoever signed had the right time.
	Latest uint64
}

// Open parses and verifies a signed checkpoint. Signatures of unknown keys are
// ignored, whatever they are; one of a known key that does not verify condemns
// the note (signed-note, "Signatures"). The errors are [ErrMalformed],
// [ErrOrigin], [ErrSignature], [ErrNoSignature] and [ErrQuorum].
func (p *Policy) Open(note []byte) (*Signed, error) {
	n, c, err := parseSigned(note)
	if err != nil {
		return nil, err
	}
	return p.open(note, n, c)
}

// parseSigned parses a signed checkpoint for those who must know its origin
// before they can verify it.
func parseSigned(note []byte) (*Note, *Checkpoint, error) {
	n, err := ParseNote(note)
	if err != nil {
		return nil, nil, err
	}
	c, err := ParseCheckpoint(n.Text)
	return n, c, err
}

func (p *Policy) open(raw []byte, n *Note, c *Checkpoint) (*Signed, error) {
	if c.Origin != p.origin {
		return nil, fmt.Errorf("%w: %.80q, want %q", ErrOrigin, c.Origin, p.origin)
	}
	s := &Signed{Checkpoint: *c, Raw: bytes.Clone(raw)}
	var err error
	if s.Log, _, err = s.verify(n, p.log); err != nil {
		return nil, err
	}
	var witnesses int
	if s.Witnesses, witnesses, err = s.verify(n, p.witnesses); err != nil {
		return nil, err
	}
	if len(s.Log) == 0 {
		return nil, fmt.Errorf("%w: %s has %d keys, and none of them signed", ErrNoSignature, p.origin, len(p.log))
	}
	if witnesses < p.quorum {
		return nil, fmt.Errorf("%w: %d signed, want %d of %d", ErrQuorum, witnesses, p.quorum, len(p.witnesses))
	}
	return s, nil
}

// verify returns the signatures of the keys, and how many of the keys signed.
func (s *Signed) verify(n *Note, keys []*Key) (verified []Signature, signers int, err error) {
	for _, k := range keys {
		before := len(verified)
		for _, signature := range n.Signatures {
			if !k.made(signature) {
				continue
			}
			time, err := k.Verify(&s.Checkpoint, signature)
			if err != nil {
				return nil, 0, err
			}
			s.Latest = max(s.Latest, time)
			verified = append(verified, signature)
		}
		if len(verified) > before {
			signers++
		}
	}
	return verified, signers, nil
}

package tlog

import (
	"fmt"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

const (
	// maxProof is the most hashes that a request may have (tlog-witness,
	// "add-checkpoint").
	maxProof = 63

	maxRequestSize = 64 + maxProof*(hashSize/3*4+8) + MaxNoteSize

	oldPrefix = "old "
)

// An AddRequest is the body of add-checkpoint: the size that the witness
// cosigned last, the proof that the checkpoint's tree begins with the tree of
// that size (RFC 6962 section 2.1.2), and the signed checkpoint.
type AddRequest struct {
	Old        uint64
	Proof      []merkle.Hash
	Checkpoint []byte
}

// ParseAddRequest parses a body. The checkpoint is left as it is.
func ParseAddRequest(b []byte) (*AddRequest, error) {
	if len(b) > maxRequestSize {
		return nil, malformed("request of %d bytes, at most %d", len(b), maxRequestSize)
	}
	head, checkpoint, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return nil, malformed("request without an empty line before the checkpoint")
	}
	lines := strings.Split(head, "\n")
	old, ok := strings.CutPrefix(lines[0], oldPrefix)
	if !ok {
		return nil, malformed("request does not begin with the old size")
	}
	r := &AddRequest{Checkpoint: []byte(checkpoint)}
	var err error
	if r.Old, err = parseSize(old); err != nil {
		return nil, err
	}
	if len(lines)-1 > maxProof {
		return nil, malformed("proof of %d hashes, at most %d", len(lines)-1, maxProof)
	}
	for _, line := range lines[1:] {
		h, err := parseHash(line)
		if err != nil {
			return nil, err
		}
		r.Proof = append(r.Proof, h)
	}
	return r, nil
}

// Marshal returns the body.
func (r *AddRequest) Marshal() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d\n", oldPrefix, r.Old)
	for _, h := range r.Proof {
		b.WriteString(formatHash(h) + "\n")
	}
	b.WriteString("\n")
	b.Write(r.Checkpoint)
	return []byte(b.String())
}

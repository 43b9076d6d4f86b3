package tlog

import (
	"fmt"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

const (
	// maxProof is the most hashes that a request may have (tlog-witness,
	// "add-checkpoint", "sign-subtree").
	maxProof = 63

	maxRequestSize = 128 + maxProof*(hashSize/3*4+8) + MaxNoteSize

	oldPrefix     = "old "
	subtreePrefix = "subtree "
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
	lines, checkpoint, err := parseRequest(b)
	if err != nil {
		return nil, err
	}
	old, ok := strings.CutPrefix(lines[0], oldPrefix)
	if !ok {
		return nil, malformed("request does not begin with the old size")
	}
	r := &AddRequest{Checkpoint: checkpoint}
	if r.Old, err = parseSize(old); err != nil {
		return nil, err
	}
	if r.Proof, err = parseProof(lines[1:]); err != nil {
		return nil, err
	}
	return r, nil
}

// Marshal returns the body.
func (r *AddRequest) Marshal() []byte {
	return marshalRequest(fmt.Sprintf("%s%d\n", oldPrefix, r.Old), r.Proof, r.Checkpoint)
}

// A SubtreeRequest is the body of sign-subtree: a subtree, the proof that it is
// one of the checkpoint's tree ("Subtree Consistency Proofs" of the draft), and
// a checkpoint that the witness cosigned, with its cosignature.
type SubtreeRequest struct {
	Subtree    merkle.Subtree
	Hash       merkle.Hash
	Proof      []merkle.Hash
	Checkpoint []byte
}

// ParseSubtreeRequest parses a body. It refuses what is no subtree; the
// checkpoint is left as it is.
func ParseSubtreeRequest(b []byte) (*SubtreeRequest, error) {
	lines, checkpoint, err := parseRequest(b)
	if err != nil {
		return nil, err
	}
	bounds, ok := strings.CutPrefix(lines[0], subtreePrefix)
	start, end, both := strings.Cut(bounds, " ")
	if !ok || !both || len(lines) < 2 {
		return nil, malformed("request does not begin with a subtree and its hash")
	}
	r := &SubtreeRequest{Checkpoint: checkpoint}
	if r.Subtree.Start, err = parseSize(start); err != nil {
		return nil, err
	}
	if r.Subtree.End, err = parseSize(end); err != nil {
		return nil, err
	}
	if !r.Subtree.Valid() || r.Subtree.Size() == 0 {
		return nil, malformed("%v is not a subtree", r.Subtree)
	}
	if r.Hash, err = parseHash(lines[1]); err != nil {
		return nil, err
	}
	if r.Proof, err = parseProof(lines[2:]); err != nil {
		return nil, err
	}
	return r, nil
}

// Marshal returns the body.
func (r *SubtreeRequest) Marshal() []byte {
	head := fmt.Sprintf("%s%d %d\n%s\n", subtreePrefix, r.Subtree.Start, r.Subtree.End, formatHash(r.Hash))
	return marshalRequest(head, r.Proof, r.Checkpoint)
}

// parseRequest splits a body at the first empty line, into lines and a
// checkpoint.
func parseRequest(b []byte) (lines []string, checkpoint []byte, err error) {
	if len(b) > maxRequestSize {
		return nil, nil, malformed("request of %d bytes, at most %d", len(b), maxRequestSize)
	}
	head, rest, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return nil, nil, malformed("request without an empty line before the checkpoint")
	}
	return strings.Split(head, "\n"), []byte(rest), nil
}

func parseProof(lines []string) (proof []merkle.Hash, err error) {
	if len(lines) > maxProof {
		return nil, malformed("proof of %d hashes, at most %d", len(lines), maxProof)
	}
	for _, line := range lines {
		h, err := parseHash(line)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	return proof, nil
}

func marshalRequest(head string, proof []merkle.Hash, checkpoint []byte) []byte {
	var b strings.Builder
	b.WriteString(head)
	for _, h := range proof {
		b.WriteString(formatHash(h) + "\n")
	}
	b.WriteString("\n")
	b.Write(checkpoint)
	return []byte(b.String())
}

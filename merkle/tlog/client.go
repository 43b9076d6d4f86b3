package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/chancery-pki/chancery/merkle"
)

// A WitnessClient asks one witness for cosignatures on one log's checkpoints
// and subtrees. Its methods may be called concurrently.
type WitnessClient struct {
	prefix string // without a slash at the end
	keys   []*Key
	client *http.Client

	mu   sync.Mutex // guards last
	last uint64     // the size that the witness cosigned, as far as is known
}

// NewWitnessClient returns a client of the witness with the submission prefix
// and the keys. A nil HTTP client is one that waits 30 seconds.
func NewWitnessClient(prefix string, keys []*Key, client *http.Client) (*WitnessClient, error) {
	prefix, err := checkPrefix(prefix)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, malformed("witness %s without a key", prefix)
	}
	if err := checkWitnessKeys(keys); err != nil {
		return nil, err
	}
	return &WitnessClient{prefix: prefix, keys: slices.Clone(keys), client: orDefault(client)}, nil
}

// Cosign obtains the cosignatures on a signed checkpoint. To prove is to return
// the consistency proof from the old size to the checkpoint's, as
// [merkle.Tree.Consistency] and [Tree.Consistency] do; it is not called for an
// old size of 0. A witness that cosigned something larger is a
// [*ConflictError].
func (c *WitnessClient) Cosign(ctx context.Context, checkpoint []byte, prove func(ctx context.Context, old uint64) ([]merkle.Hash, error)) ([]Signature, error) {
	_, parsed, err := parseSigned(checkpoint)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	old := min(c.last, parsed.Size)
	c.mu.Unlock()
	for retried := false; ; retried = true {
		r := &AddRequest{Old: old, Checkpoint: checkpoint}
		if old > 0 {
			if r.Proof, err = prove(ctx, old); err != nil {
				return nil, fmt.Errorf("consistency proof from %d: %w", old, err)
			}
		}
		cosignatures, err := c.Add(ctx, r)
		conflict, ok := errors.AsType[*ConflictError](err)
		if !ok || retried || conflict.Size > parsed.Size {
			return cosignatures, err
		}
		old = conflict.Size
	}
}

// Add sends one add-checkpoint request, and returns the witness's cosignatures
// once they are verified. What other keys signed is ignored, and not each of the
// witness's keys need sign.
func (c *WitnessClient) Add(ctx context.Context, r *AddRequest) ([]Signature, error) {
	_, checkpoint, err := parseSigned(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	own, err := c.post(ctx, addCheckpointPath, r.Marshal())
	if conflict, ok := errors.AsType[*ConflictError](err); ok {
		conflict.Old = r.Old
		c.remember(conflict.Size)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range own {
		if _, err := s.key.Verify(checkpoint, s.Signature); err != nil {
			return nil, err
		}
	}
	c.remember(checkpoint.Size)
	return lines(own), nil
}

// SignSubtree sends one sign-subtree request, and returns the witness's
// signatures as they stand in certificates, once they are verified. Of the
// signatures under the checkpoint only the witness's own are sent.
func (c *WitnessClient) SignSubtree(ctx context.Context, r *SubtreeRequest) ([]merkle.SubtreeSignature, error) {
	note, checkpoint, err := parseSigned(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	note.Signatures = lines(c.own(note.Signatures))
	if len(note.Signatures) == 0 {
		return nil, fmt.Errorf("%w: %s of %d entries, and witness %s", ErrNotCosigned, checkpoint.Origin, checkpoint.Size, c.prefix)
	}
	stripped := *r
	if stripped.Checkpoint, err = note.Marshal(); err != nil {
		return nil, err
	}
	own, err := c.post(ctx, signSubtreePath, stripped.Marshal())
	if err != nil {
		return nil, err
	}
	var signatures []merkle.SubtreeSignature
	for _, s := range own {
		signature, err := s.key.VerifySubtree(checkpoint.Origin, r.Subtree, r.Hash, s.Signature)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signature)
	}
	return signatures, nil
}

// post sends a request and returns those signatures of the answer that claim to
// be the witness's, at least one.
func (c *WitnessClient) post(ctx context.Context, path string, request []byte) ([]ownSignature, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.prefix+path, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", textType)
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body, MaxNoteSize)
	if err != nil {
		return nil, fmt.Errorf("witness %s: %w", c.prefix, err)
	}
	switch kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case resp.StatusCode == http.StatusConflict && kind == sizeType:
		size, err := parseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", c.prefix, err)
		}
		return nil, &ConflictError{Size: size}
	case resp.StatusCode != http.StatusOK:
		return nil, &RefusalError{Witness: c.prefix, Status: resp.StatusCode, Reason: strings.TrimSpace(string(body))}
	}
	signatures, err := ParseSignatures(body)
	if err != nil {
		return nil, fmt.Errorf("witness %s: %w", c.prefix, err)
	}
	own := c.own(signatures)
	if len(own) == 0 {
		return nil, fmt.Errorf("%w: witness %s answered with %d others", ErrNoSignature, c.prefix, len(signatures))
	}
	return own, nil
}

func (c *WitnessClient) remember(size uint64) {
	c.mu.Lock()
	c.last = size
	c.mu.Unlock()
}

// An ownSignature is one that claims to be by a key of the witness.
type ownSignature struct {
	Signature
	key *Key
}

// own returns at most one signature of each key.
func (c *WitnessClient) own(signatures []Signature) (own []ownSignature) {
	for _, k := range c.keys {
		if i := slices.IndexFunc(signatures, k.made); i >= 0 {
			own = append(own, ownSignature{signatures[i], k})
		}
	}
	return own
}

func lines(own []ownSignature) []Signature {
	out := make([]Signature, len(own))
	for i, s := range own {
		out[i] = s.Signature
	}
	return out
}

// A RefusalError is a witness that does not cosign.
type RefusalError struct {
	Witness string // its submission prefix
	Status  int    // of HTTP
	Reason  string
}

func (e *RefusalError) Error() string {
	return fmt.Sprintf("witness %s: %d %s: %.200q", e.Witness, e.Status, http.StatusText(e.Status), e.Reason)
}

// Hint says how to go on.
func (e *RefusalError) Hint() string {
	switch e.Status {
	case http.StatusForbidden:
		return "the witness trusts another key for this log, or does not know the type of its signatures: give its operator the log's verifier key"
	case http.StatusNotFound:
		return "the witness does not know this log, or does not sign subtrees: give its operator the origin and the verifier key"
	case http.StatusUnprocessableEntity:
		return "the witness cosigned another history of this log: if the log was restored from a backup, it must go on under a new origin"
	}
	return "try again later"
}

package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/chancery-pki/chancery/merkle"
)

// A WitnessClient asks one witness for cosignatures on one log's checkpoints.
// Its methods may be called concurrently.
type WitnessClient struct {
	prefix string // without a slash at the end
	key    *Key
	client *http.Client

	mu   sync.Mutex // guards last
	last uint64     // the size that the witness cosigned, as far as is known
}

// NewWitnessClient returns a client of the witness with the submission prefix
// and the key. A nil HTTP client is one that waits 30 seconds.
func NewWitnessClient(prefix string, key *Key, client *http.Client) (*WitnessClient, error) {
	prefix, err := checkPrefix(prefix)
	if err != nil {
		return nil, err
	}
	if key.kind == Ed25519 {
		return nil, malformed("%s is a log's key: cosignatures have a time", key.name)
	}
	return &WitnessClient{prefix: prefix, key: key, client: orDefault(client)}, nil
}

// Cosign obtains a cosignature on a signed checkpoint. To prove is to return
// the consistency proof from the old size to the checkpoint's, as
// [merkle.Tree.Consistency] and [Tree.Consistency] do; it is not called for an
// old size of 0. A witness that cosigned something larger is a
// [*ConflictError].
func (c *WitnessClient) Cosign(ctx context.Context, checkpoint []byte, prove func(ctx context.Context, old uint64) ([]merkle.Hash, error)) (Signature, error) {
	_, parsed, err := parseSigned(checkpoint)
	if err != nil {
		return Signature{}, err
	}
	c.mu.Lock()
	old := min(c.last, parsed.Size)
	c.mu.Unlock()
	for retried := false; ; retried = true {
		r := &AddRequest{Old: old, Checkpoint: checkpoint}
		if old > 0 {
			if r.Proof, err = prove(ctx, old); err != nil {
				return Signature{}, fmt.Errorf("consistency proof from %d: %w", old, err)
			}
		}
		cosignature, err := c.Add(ctx, r)
		conflict, ok := errors.AsType[*ConflictError](err)
		if !ok || retried || conflict.Size > parsed.Size {
			return cosignature, err
		}
		old = conflict.Size
	}
}

// Add sends one add-checkpoint request, and returns the witness's cosignature
// once it is verified. What other keys signed is ignored.
func (c *WitnessClient) Add(ctx context.Context, r *AddRequest) (Signature, error) {
	_, checkpoint, err := parseSigned(r.Checkpoint)
	if err != nil {
		return Signature{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.prefix+addCheckpointPath, bytes.NewReader(r.Marshal()))
	if err != nil {
		return Signature{}, err
	}
	req.Header.Set("Content-Type", textType)
	resp, err := c.client.Do(req)
	if err != nil {
		return Signature{}, err
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body, MaxNoteSize)
	if err != nil {
		return Signature{}, fmt.Errorf("witness %s: %w", c.key.name, err)
	}
	switch kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case resp.StatusCode == http.StatusConflict && kind == sizeType:
		size, err := parseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return Signature{}, fmt.Errorf("witness %s: %w", c.key.name, err)
		}
		c.remember(size)
		return Signature{}, &ConflictError{Size: size, Old: r.Old}
	case resp.StatusCode != http.StatusOK:
		return Signature{}, &RefusalError{Witness: c.key.name, Status: resp.StatusCode, Reason: strings.TrimSpace(string(body))}
	}
	cosignature, err := c.verify(checkpoint, body)
	if err == nil {
		c.remember(checkpoint.Size)
	}
	return cosignature, err
}

func (c *WitnessClient) remember(size uint64) {
	c.mu.Lock()
	c.last = size
	c.mu.Unlock()
}

// verify finds the witness's line in an answer.
func (c *WitnessClient) verify(checkpoint *Checkpoint, body []byte) (Signature, error) {
	signatures, err := ParseSignatures(body)
	if err != nil {
		return Signature{}, fmt.Errorf("witness %s: %w", c.key.name, err)
	}
	for _, s := range signatures {
		if c.key.made(s) {
			_, err := c.key.Verify(checkpoint, s)
			return s, err
		}
	}
	return Signature{}, fmt.Errorf("%w: witness %s answered with %d others", ErrNoSignature, c.key.name, len(signatures))
}

// A RefusalError is a witness that does not cosign.
type RefusalError struct {
	Witness string
	Status  int // of HTTP
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
		return "the witness does not know this log: give its operator the origin and the verifier key"
	case http.StatusUnprocessableEntity:
		return "the witness cosigned another history of this log: if the log was restored from a backup, it must go on under a new origin"
	}
	return "try again later"
}

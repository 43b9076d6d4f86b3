package tlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A Witness cosigns the checkpoints of other people's logs, each only if it
// continues the one that it cosigned before (tlog-witness). It knows no
// entries. Its methods may be called concurrently, and several witnesses with
// one key may share their records.
type Witness struct {
	WitnessConfig
	logs map[string]*Policy
}

// A WitnessConfig says what a witness works with. All fields but Logger are
// required.
type WitnessConfig struct {
	Signer  Signer // of type CosignatureV1 or Cosigner, and for nothing else
	Logs    []*Policy
	Records Records
	Now     func() time.Time
	Logger  *slog.Logger // nil is none
}

// NewWitness returns a witness for the logs. The operators of issuance logs
// start a new one after some failures: their next few log numbers belong
// among the logs from the beginning (mtc-tlog, "Cosigners").
func NewWitness(c WitnessConfig) (*Witness, error) {
	if c.Signer == nil || c.Records == nil || c.Now == nil {
		return nil, errors.New("tlog: a witness needs a signer, records and a clock")
	}
	k := c.Signer.Key()
	if k.kind == Ed25519 {
		return nil, malformed("%s is a log's key: cosignatures have a time", k.name)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Witness{c, make(map[string]*Policy, len(c.Logs))}
	for _, p := range c.Logs {
		if w.logs[p.origin] != nil {
			return nil, malformed("two policies for %s", p.origin)
		}
		w.logs[p.origin] = p
	}
	return w, nil
}

// Key is the key of the cosignatures.
func (w *Witness) Key() *Key { return w.Signer.Key() }

// Errors of [Witness.Add] besides those of [Policy.Open].
var (
	// ErrUnknownLog means that the checkpoint's origin is none of the logs.
	ErrUnknownLog = errors.New("unknown log")

	// ErrInconsistent means that the checkpoint was not shown to continue the
	// one before. It is no proof against the log: anybody can send a wrong
	// proof with a checkpoint of its. A [*ForkError] is.
	ErrInconsistent = errors.New("checkpoint does not continue the one before")
)

// A ConflictError says that the old size of a request is not that of the
// checkpoint which the witness cosigned last.
type ConflictError struct {
	Size uint64 // what it cosigned
	Old  uint64 // what was asked
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the witness cosigned %d entries last, not %d", e.Size, e.Old)
}

// Hint says how to go on.
func (e *ConflictError) Hint() string {
	return fmt.Sprintf("ask again with a consistency proof from %d", e.Size)
}

// Add answers an add-checkpoint request: it checks that the checkpoint is the
// log's and continues the one that was cosigned last, cosigns it, keeps that
// in the records, and only then returns the cosignature. So a cosignature that
// anybody has seen is never forgotten; what a crash or another request leaves
// unkept is not handed out.
func (w *Witness) Add(ctx context.Context, r *AddRequest) (Signature, error) {
	note, c, err := parseSigned(r.Checkpoint)
	if err != nil {
		return Signature{}, err
	}
	policy, ok := w.logs[c.Origin]
	if !ok {
		return Signature{}, fmt.Errorf("%w: %.80q", ErrUnknownLog, c.Origin)
	}
	next, err := policy.open(r.Checkpoint, note, c)
	if err != nil {
		return Signature{}, err
	}
	if r.Old > next.Size {
		return Signature{}, malformed("old size %d is above the checkpoint's %d", r.Old, next.Size)
	}
	last, err := w.Records.Load(ctx, c.Origin)
	if err != nil {
		return Signature{}, fmt.Errorf("records of %s: %w", c.Origin, err)
	}
	if err := decide(policy, &last, r, next); err != nil {
		return Signature{}, err
	}
	statement, err := NewStatement(w.Key(), c, uint64(w.Now().Unix()))
	if err != nil {
		return Signature{}, err
	}
	cosignature, err := statement.sign(ctx, w.Signer)
	if err != nil {
		// Not wrapped: what is wrong with the witness's key says nothing about
		// the checkpoint's.
		return Signature{}, fmt.Errorf("cosign: %v", err)
	}
	if err := w.keep(ctx, last, next, cosignature); err != nil {
		return Signature{}, err
	}
	return cosignature, nil
}

// decide holds a verified checkpoint against what was cosigned last.
func decide(p *Policy, last *Record, r *AddRequest, next *Signed) error {
	size, root := last.start()
	if r.Old != size {
		return &ConflictError{Size: size, Old: r.Old}
	}
	if next.Size == size && next.Root != root {
		// Also the first checkpoint, if it has no entries and a root.
		if before, err := p.Open(last.Checkpoint); err == nil {
			return &ForkError{Older: before, Newer: next, Root: next.Root}
		}
		return fmt.Errorf("%w: root %v, was %v", ErrInconsistent, next.Root, root)
	}
	if err := merkle.VerifyConsistency(merkle.Subtree{End: size}, next.Size, r.Proof, root, next.Root); err != nil {
		return fmt.Errorf("%w: %v", ErrInconsistent, err)
	}
	return nil
}

// keep puts the cosigned checkpoint in the place of the last one.
func (w *Witness) keep(ctx context.Context, last Record, next *Signed, cosignature Signature) error {
	text, err := next.Text()
	if err != nil {
		return err
	}
	note := &Note{Text: text, Signatures: append(append(append([]Signature{}, next.Log...), next.Witnesses...), cosignature)}
	record := Record{Size: next.Size, Root: next.Root}
	if record.Checkpoint, err = note.Marshal(); err != nil {
		return err
	}
	err = w.Records.Swap(ctx, next.Origin, last, record)
	if !errors.Is(err, ErrStale) {
		return err
	}
	// Another request came first.
	now, err := w.Records.Load(ctx, next.Origin)
	if err != nil {
		return err
	}
	return &ConflictError{Size: now.Size, Old: last.Size}
}

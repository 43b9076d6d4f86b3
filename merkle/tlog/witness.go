package tlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A Witness cosigns the checkpoints of other people's logs, each only if it
// continues the one that it cosigned before (tlog-witness), and with a key of
// type [Cosigner] also subtrees of them, for certificates. It knows no entries.
// Its methods may be called concurrently, and several witnesses with
// the same keys may share their records.
type Witness struct {
	WitnessConfig
	logs map[string]*Policy
}

// A WitnessConfig says what a witness works with. All fields but Logger are
// required.
type WitnessConfig struct {
	// Signers hold the witness's keys, of type CosignatureV1 or Cosigner, and
	// for nothing else. All of them sign what they can speak about: public
	// witnesses want the one, certificates the other.
	Signers []Signer
	Logs    []*Policy
	Records Records
	Now     func() time.Time
	Logger  *slog.Logger // nil is none
}

// NewWitness returns a witness for the logs. The operators of issuance logs
// start a new one after some failures: their next few log numbers belong
// among the logs from the beginning (mtc-tlog, "Cosigners").
func NewWitness(c WitnessConfig) (*Witness, error) {
	if len(c.Signers) == 0 || c.Records == nil || c.Now == nil {
		return nil, errors.New("tlog: a witness needs a signer, records and a clock")
	}
	if err := checkWitnessKeys(keysOf(c.Signers)); err != nil {
		return nil, err
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

func keysOf(signers []Signer) []*Key {
	keys := make([]*Key, len(signers))
	for i, s := range signers {
		keys[i] = s.Key()
	}
	return keys
}

// checkWitnessKeys refuses what cannot be the keys of one witness.
func checkWitnessKeys(keys []*Key) error {
	seen := map[string]bool{}
	for _, k := range keys {
		if k.kind == Ed25519 {
			return malformed("%s is a log's key: cosignatures have a time", k.name)
		}
		if seen[k.public] {
			return malformed("the key of %s is there twice", k.name)
		}
		seen[k.public] = true
	}
	return nil
}

// Keys are the keys of the cosignatures.
func (w *Witness) Keys() []*Key { return keysOf(w.Signers) }

// Errors of [Witness.Add] and [Witness.SignSubtree] besides those of [Policy.Open].
var (
	// ErrUnknownLog means that the checkpoint's origin is none of the logs.
	ErrUnknownLog = errors.New("unknown log")

	// ErrInconsistent means that the checkpoint was not shown to continue the
	// one before. It is no proof against the log: anybody can send a wrong
	// proof with a checkpoint of its. A [*ForkError] is.
	ErrInconsistent = errors.New("checkpoint does not continue the one before")

	// ErrNotCosigned means that a subtree's checkpoint is none that the witness
	// cosigned.
	ErrNotCosigned = errors.New("checkpoint without a cosignature of this witness")

	// ErrSubtree means that a subtree was not shown to be one of the
	// checkpoint's tree.
	ErrSubtree = errors.New("subtree is not shown to be part of the checkpoint's tree")
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
// in the records, and only then returns the cosignatures. So a cosignature that
// anybody has seen is never forgotten; what a crash or another request leaves
// unkept is not handed out.
func (w *Witness) Add(ctx context.Context, r *AddRequest) ([]Signature, error) {
	note, c, err := parseSigned(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	policy, ok := w.logs[c.Origin]
	if !ok {
		return nil, fmt.Errorf("%w: %.80q", ErrUnknownLog, c.Origin)
	}
	next, err := policy.open(r.Checkpoint, note, c)
	if err != nil {
		return nil, err
	}
	if r.Old > next.Size {
		return nil, malformed("old size %d is above the checkpoint's %d", r.Old, next.Size)
	}
	last, err := w.Records.Load(ctx, c.Origin)
	if err != nil {
		return nil, fmt.Errorf("records of %s: %w", c.Origin, err)
	}
	if err := decide(policy, &last, r, next); err != nil {
		return nil, err
	}
	now := uint64(w.Now().Unix())
	cosignatures, err := w.sign(ctx, func(k *Key) (*Statement, error) { return NewStatement(k, c, now) })
	if err != nil {
		return nil, err
	}
	if err := w.keep(ctx, last, next, cosignatures); err != nil {
		return nil, err
	}
	return cosignatures, nil
}

// SignSubtree answers a sign-subtree request. It needs no record: that the
// witness found the checkpoint consistent is said by its own cosignature there,
// which it hands out only for what it keeps, and what is part of that tree is
// consistent with all that it ever signs.
func (w *Witness) SignSubtree(ctx context.Context, r *SubtreeRequest) ([]Signature, error) {
	note, c, err := parseSigned(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	if r.Subtree.End > c.Size {
		return nil, malformed("subtree %v in a tree of %d entries", r.Subtree, c.Size)
	}
	if w.logs[c.Origin] == nil {
		return nil, fmt.Errorf("%w: %.80q", ErrUnknownLog, c.Origin)
	}
	cosigned := &Signed{Checkpoint: *c}
	if _, own, err := cosigned.verify(note, w.Keys()); err != nil {
		return nil, err
	} else if own == 0 {
		return nil, fmt.Errorf("%w: %s of %d entries", ErrNotCosigned, c.Origin, c.Size)
	}
	if err := merkle.VerifyConsistency(r.Subtree, c.Size, r.Proof, r.Hash, c.Root); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSubtree, err)
	}
	return w.sign(ctx, func(k *Key) (*Statement, error) { return NewSubtreeStatement(k, c.Origin, r.Subtree, r.Hash) })
}

// sign has those keys sign that can speak about the matter, of which there must
// be one.
func (w *Witness) sign(ctx context.Context, state func(*Key) (*Statement, error)) (signatures []Signature, err error) {
	for _, signer := range w.Signers {
		statement, unable := state(signer.Key())
		if unable != nil {
			err = unable
			continue
		}
		s, failed := statement.sign(ctx, signer)
		if failed != nil {
			// Not wrapped: what is wrong with the witness's key says nothing about
			// the checkpoint's.
			return nil, fmt.Errorf("cosign: %v", failed)
		}
		signatures = append(signatures, s)
	}
	if len(signatures) == 0 {
		return nil, err
	}
	return signatures, nil
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
func (w *Witness) keep(ctx context.Context, last Record, next *Signed, cosignatures []Signature) error {
	text, err := next.Text()
	if err != nil {
		return err
	}
	note := &Note{Text: text, Signatures: slices.Concat(next.Log, next.Witnesses, cosignatures)}
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

package tlog

import (
	"fmt"

	"github.com/chancery-pki/chancery/merkle"
)

// A ForkError is proof that a log rewrote its history: it signed two
// checkpoints, and the tree of the newer one does not begin with the tree of
// the older. Both were verified, and the rest can be, by [ForkError.Prove].
type ForkError struct {
	Older, Newer *Signed // by size

	// Root is what the tree of the newer checkpoint had as its root when it
	// had the size of the older, and Proof shows it. For equal sizes they are
	// the newer root and nothing.
	Root  merkle.Hash
	Proof []merkle.Hash
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("%s signed two histories: at %d entries the root %v in one checkpoint, %v under another of %d entries",
		e.Older.Origin, e.Older.Size, e.Older.Root, e.Root, e.Newer.Size)
}

// Hint says how to go on.
func (e *ForkError) Hint() string {
	return "keep both checkpoints: with the log's key they are proof against it. Trust nothing that it certifies until it is explained"
}

// Prove checks the evidence with nothing but the log's keys. It returns nil if
// the log forked.
func (e *ForkError) Prove(p *Policy) error {
	older, err := p.Open(e.Older.Raw)
	if err != nil {
		return fmt.Errorf("older checkpoint: %w", err)
	}
	newer, err := p.Open(e.Newer.Raw)
	if err != nil {
		return fmt.Errorf("newer checkpoint: %w", err)
	}
	if older.Size == newer.Size || older.Size == 0 {
		// Two roots of one size, or a root where there are no entries.
		if older.Root == newer.Root || older.Size != newer.Size && older.Root == emptyRoot {
			return fmt.Errorf("%w: the checkpoints agree", merkle.ErrProof)
		}
		return nil
	}
	if older.Root == e.Root {
		return fmt.Errorf("%w: the older checkpoint has the root of the newer one's history", merkle.ErrProof)
	}
	return merkle.VerifyConsistency(merkle.Subtree{End: older.Size}, newer.Size, e.Proof, e.Root, newer.Root)
}

// A RollbackError says that a log, or a copy of it, showed a smaller tree than
// it had before.
type RollbackError struct {
	Have, Got *Signed

	// Err is nil if the smaller tree is the beginning of the larger one, and
	// otherwise what prevented the comparison.
	Err error
}

func (e *RollbackError) Error() string {
	s := fmt.Sprintf("%s went back from %d entries to %d", e.Have.Origin, e.Have.Size, e.Got.Size)
	if e.Err != nil {
		s += fmt.Sprintf(", and whether they are the same cannot be said: %v", e.Err)
	}
	return s
}

func (e *RollbackError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *RollbackError) Hint() string {
	return "a mirror or cache may be behind: ask the log itself. A log that was restored from a backup must not go on under the same key and origin"
}

// Package anchor keeps a node from being led back to an older pointer record or
// CRL by an older copy of its state directory.
//
// A note in the directory says how far the node had come, and a counter in the
// chip says which note is the last one (docs/protocol.md section 6.6). Start with
// [Make], when the node has its key; [Verify] what is there at each start; and
// [Move] it when there is more to hold on to.
//
// # Crashes
//
// A note is durable before the counter moves to it. So the last note is for the
// counter's value or, if the machine stopped in between, for the one after it,
// and Verify then makes the move that is missing. Only such a note is taken, and
// only one that N:SK signed: whoever can write to the disk and not use the key
// has no other than old ones.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/tpm"
)

// Every is the least time between two moves: a chip's memory wears out.
const Every = 10 * time.Minute

// A RollbackError says that the state directory cannot be the newest of this
// node.
type RollbackError struct{ Reason error }

func (e *RollbackError) Error() string {
	return "the state directory may have been rolled back: " + e.Reason.Error()
}
func (e *RollbackError) Unwrap() error { return e.Reason }

// Hint says what to do.
func (e *RollbackError) Hint() string {
	hint := "find out who restored the directory or touched the chip; then have the agent take what is newest from the coordinator: chancery-agent anchor reset"
	if h := cli.HintOf(e.Reason); h != "" {
		hint = h + "; then: chancery-agent anchor reset"
	}
	return hint
}

func rollback(format string, args ...any) error {
	return &RollbackError{fmt.Errorf(format, args...)}
}

// A Node is whose anchor it is.
type Node struct {
	Fleet chancery.FleetID
	Key   chancery.PublicKey // N:PK
	Dir   *state.Dir
	Chip  *tpm.TPM
}

// Look returns the note if it is the last one, and changes nothing. pending
// reports that the counter has not moved to it yet. The error for a directory
// that may have been rolled back is a [*RollbackError].
func (n *Node) Look() (note *chancery.Anchor, pending bool, err error) {
	note, err = n.Dir.Anchor()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, rollback("there is no anchor in %s", n.Dir.Path())
	}
	if errors.Is(err, chancery.ErrMalformed) {
		return nil, false, &RollbackError{err}
	}
	if err != nil {
		return nil, false, err
	}
	if err := note.Verify(n.Fleet, n.Key); err != nil {
		return nil, false, &RollbackError{err}
	}
	counter, err := n.Chip.Anchor()
	if errors.Is(err, tpm.ErrNoAnchor) || errors.Is(err, tpm.ErrAnchorIndex) {
		return note, false, &RollbackError{err}
	}
	if err != nil {
		return nil, false, err
	}
	if note.Counter != counter && note.Counter != counter+1 {
		return note, false, rollback("the anchor is of %d, the chip's counter at %d", note.Counter, counter)
	}
	return note, note.Counter != counter, n.behind(note)
}

// behind compares the directory with what its own note says.
func (n *Node) behind(note *chancery.Anchor) error {
	p, err := n.Dir.Pointer()
	if err != nil {
		return err
	}
	if p.Seq < note.Pointer {
		return rollback("pointer record %d, the anchor is of %d", p.Seq, note.Pointer)
	}
	list, err := n.Dir.CRL()
	if err != nil {
		return nil // none is no older one
	}
	// One that cannot be read is of no use, and of no harm.
	if number, err := chancery.CRLNumber(list); err == nil && number < note.CRL {
		return rollback("CRL %d, the anchor is of %d", number, note.CRL)
	}
	return nil
}

// Verify is Look, and makes the move that a crash left undone: otherwise there
// would be two notes for one value.
func (n *Node) Verify() (*chancery.Anchor, error) {
	note, pending, err := n.Look()
	if err != nil || !pending {
		return note, err
	}
	return note, n.Chip.MoveAnchor(note.Counter - 1)
}

// Make makes the counter if the chip has none, and the first note. It is for a
// node that gets its key, and for an operator who takes the directory as it is.
// Only it may need the authorization of the chip's owner.
func (n *Node) Make(ctx context.Context, key chancery.Signer, pointer, crl uint64, now time.Time) (*chancery.Anchor, error) {
	counter, err := n.Chip.MakeAnchor()
	if err != nil {
		return nil, err
	}
	return n.write(ctx, key, counter, &chancery.Anchor{Pointer: pointer, CRL: crl, At: now})
}

// Move writes the next note and moves the counter to it. What it names must be
// on disk already. A counter that somebody else moved since Verify is gone along
// with: what is in the directory was this agent's all the time.
func (n *Node) Move(ctx context.Context, key chancery.Signer, pointer, crl uint64, now time.Time) (*chancery.Anchor, error) {
	counter, err := n.Chip.Anchor()
	if err != nil {
		return nil, err
	}
	return n.write(ctx, key, counter, &chancery.Anchor{Pointer: pointer, CRL: crl, At: now})
}

// write makes a note of the value after the counter's.
func (n *Node) write(ctx context.Context, key chancery.Signer, counter uint64, note *chancery.Anchor) (_ *chancery.Anchor, err error) {
	if last, err := n.Dir.Anchor(); err == nil && last.Counter == counter+1 {
		// Of an attempt whose move failed. It must not become one of two.
		if err := n.Chip.MoveAnchor(counter); err != nil {
			return nil, err
		}
		counter++
	}
	note.Counter, note.At = counter+1, time.Unix(note.At.Unix(), 0).UTC()
	if note.Signature, err = key.Sign(ctx, n.Fleet, note); err != nil {
		return nil, err
	}
	if err := n.Dir.SaveAnchor(note); err != nil {
		return nil, err
	}
	return note, n.Chip.MoveAnchor(counter)
}

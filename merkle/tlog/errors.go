package tlog

import (
	"errors"
	"fmt"

	"github.com/chancery-pki/chancery/merkle"
)

// Errors of this package. They are wrapped with detail; compare with
// [errors.Is]. Proofs that do not hold are [merkle.ErrProof], and questions
// about what a tree does not have [merkle.ErrRange].
var (
	ErrMalformed   = errors.New("malformed")
	ErrOrigin      = errors.New("checkpoint of another log")
	ErrNoSignature = errors.New("no signature of a trusted key")
	ErrSignature   = errors.New("signature of a trusted key does not verify")
	ErrQuorum      = errors.New("too few witnesses")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// An UnreachableError says that a tile or entry bundle could not be had.
type UnreachableError struct {
	Tile Tile
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("%s: %v", e.Tile.Path(), e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *UnreachableError) Hint() string {
	return "a log must serve every tile of a tree that it signed, unless it is pruned: try again, or another mirror"
}

// A TileError says that what a server sent under a tile's name is not that
// tile of the tree.
type TileError struct {
	Tile   Tile
	Reason string
}

func (e *TileError) Error() string { return fmt.Sprintf("%s: %s", e.Tile.Path(), e.Reason) }

// Hint says how to go on.
func (e *TileError) Hint() string {
	return "the log's signature does not cover what this server sent: try another mirror, and tell its operator"
}

// A RootError says that the tiles at the right edge of a tree do not make the
// root that was signed. Which of them is wrong cannot be said.
type RootError struct {
	Size      uint64
	Want, Got merkle.Hash
}

func (e *RootError) Error() string {
	return fmt.Sprintf("tiles of %d entries make the root %v, the checkpoint has %v", e.Size, e.Got, e.Want)
}

// Hint says how to go on.
func (e *RootError) Hint() string {
	return "keep the checkpoint: its log signed a tree that this server does not have. Try another mirror"
}

// emptyRoot is the root of a log without entries.
var emptyRoot = new(merkle.Tree).Root()

package chancery

import (
	"fmt"
	"time"
)

// An Anchor is a node's note to itself of what it must not go back behind
// (docs/protocol.md section 6.6). It counts together with a counter in the node's
// chip that only rises, so that an older note, with the state directory that it
// was restored with, is noticed.
type Anchor struct {
	Counter   uint64    // value of the chip's counter from which on the note counts
	Pointer   uint64    // sequence number of the pointer record that was held
	CRL       uint64    // number of the CRL that was held, 0 for none
	At        time.Time // whole seconds
	Signature Signature // N:SK's, so that who has the disk and not the chip cannot write one
}

const maxAnchor = 256

func (a *Anchor) body() []byte {
	var e encoder
	e.AddUint64(a.Counter)
	e.AddUint64(a.Pointer)
	e.AddUint64(a.CRL)
	e.time(a.At)
	return e.BytesOrPanic()
}

func (a *Anchor) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelAnchor, fleet, suite, a.body())
}

// Marshal returns the note's one encoding.
func (a *Anchor) Marshal() []byte {
	e := artefact(kindAnchor)
	e.AddBytes(a.body())
	e.vec8(a.Signature)
	return e.BytesOrPanic()
}

// ParseAnchor parses what [Anchor.Marshal] returns, and nothing else. The
// signature is not verified.
func ParseAnchor(b []byte) (*Anchor, error) {
	d := open(b, kindAnchor, maxAnchor)
	a := &Anchor{Counter: d.u64(), Pointer: d.u64(), CRL: d.u64(), At: d.time(), Signature: d.signature()}
	return a, d.done("anchor")
}

// Verify checks that N:SK signed the note.
func (a *Anchor) Verify(fleet FleetID, node PublicKey) error {
	if err := node.Verify(fleet, a, a.Signature); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

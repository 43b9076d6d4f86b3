package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// The anchor counter rises with each note that an agent makes of how far it has
// come (docs/protocol.md section 6.6). Whoever reaches the chip may move it on,
// with the empty password: that voids the note and makes it do good for nobody,
// and nothing moves the counter back. A counter that the owner removed and made
// again starts above its old value.
const (
	anchorHandle     = 0x01800102
	anchorAttributes = nvCounter | nvAuthWrite | nvAuthRead | nvNoDA
)

var anchorIndex = nvPublic{handle: anchorHandle, attributes: anchorAttributes | nvWritten}

// Anchor returns the value of the anchor counter. It is [ErrNoAnchor] for a chip
// that has none, and [ErrAnchorIndex] for one that has something else in its
// place.
func (t *TPM) Anchor() (uint64, error) {
	end, err := t.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	return t.settledAnchor()
}

// MakeAnchor returns the value of the anchor counter and makes the counter
// first if the chip has none, which takes the owner's authorization. One that a
// crash left defined but never written is finished.
func (t *TPM) MakeAnchor() (uint64, error) {
	end, err := t.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	name, err := t.ensureIndex(anchorIndex)
	if err != nil {
		return 0, err
	}
	if name == anchorIndex.unwritten().name() {
		if err := t.moveAnchor(name); err != nil {
			return 0, err
		}
	}
	return t.settledAnchor()
}

// MoveAnchor moves the anchor counter from the value to the next one. A move
// that was made already, whose answer may have been lost, is no error; any other
// value is, and moves nothing.
func (t *TPM) MoveAnchor(from uint64) error {
	end, err := t.begin()
	if err != nil {
		return err
	}
	defer end()
	switch current, err := t.settledAnchor(); {
	case err != nil:
		return err
	case current == from+1:
		return nil
	case current != from:
		return fmt.Errorf("tpm: the anchor counter is at %d, not at %d", current, from)
	}
	return t.moveAnchor(anchorIndex.name())
}

func (t *TPM) moveAnchor(name Name) error {
	_, err := tpm2.NVIncrement{
		AuthHandle: withAuth(anchorHandle, name, noAuth()),
		NVIndex:    named(anchorHandle, name),
	}.Execute(t.transport)
	if err != nil {
		return fmt.Errorf("tpm: increment anchor counter: %w", err)
	}
	return nil
}

// settledAnchor decides for good, so one damaged answer must not do.
func (t *TPM) settledAnchor() (uint64, error) {
	v, err := steady(func() (uint64, error) { return t.readCounter(anchorIndex, ErrAnchorIndex) }, same[uint64])
	if absent(err) {
		return 0, fmt.Errorf("%w: %w", ErrNoAnchor, err)
	}
	return v, err
}

package chancery

import (
	"bytes"
	"crypto/sha256"
	"fmt"
)

// Marshal returns the head alone, as who holds a list shows it to whoever says
// something else (docs/protocol.md section 6.4).
func (h *CRLHead) Marshal() []byte {
	e := artefact(kindHead)
	h.encode(e)
	return e.BytesOrPanic()
}

// ParseCRLHead returns the head of a list, of a delta, or one alone. Nothing is
// verified; what follows the head of a list or delta is not looked at.
func ParseCRLHead(b []byte) (*CRLHead, error) {
	d := open(b, kindHead, 2*maxCRLHead)
	if d.bad {
		return crlHeadOf(b)
	}
	h := d.crlHead()
	if d.bad || !d.s.Empty() {
		return nil, fmt.Errorf("CRL head: %w", ErrMalformed)
	}
	return h, nil
}

// Revokes reports whether the step to this list from the one before it names
// anything that was not revoked before. A heartbeat does not.
func (h *CRLHead) Revokes() bool {
	// One empty index set for each log.
	return h.Change != sha256.Sum256(bytes.Repeat([]byte{setEmpty << 5}, len(h.Logs)))
}

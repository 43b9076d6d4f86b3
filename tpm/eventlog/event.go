package eventlog

import "crypto/sha256"

// An Event is something that was measured.
type Event struct {
	PCR    int       // from 0 to 23
	Type   EventType // nothing vouches for it
	Digest [32]byte  // with which the PCR was extended
	Data   []byte    // what the log says of the event; for some types, what was hashed
}

// Extends reports whether the event changed its PCR.
func (e Event) Extends() bool { return e.Type != NoAction }

// Verified reports whether the data are what was measured: the type is one
// whose data are, and the digest is theirs. For other types the data only
// describe what was measured, and nothing can be said.
//
// It says nothing about the digest. That the chip has it is what [Log.Verify]
// tells.
func (e Event) Verified() bool { return e.Type.HashesData() && e.hashed() }

// hashed reports whether the digest is that of the data, whatever the type.
func (e Event) hashed() bool { return sha256.Sum256(e.Data) == e.Digest }

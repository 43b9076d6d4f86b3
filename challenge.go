package chancery

import "crypto/sha256"

// A Challenge is what a token is made to sign before it is trusted, and from
// time to time while it has nothing else to do: a random number. The signature
// proves that the token has the key now, and says nothing
// (docs/protocol.md section 2.3).
type Challenge struct {
	Nonce [32]byte
}

func (c Challenge) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelChallenge, fleet, suite, c.Nonce[:])
}

// A Ceremony is the statement under the transcript of a key ceremony, by the
// CA:SK that was made in it.
type Ceremony struct {
	Transcript [32]byte // SHA-256 over the transcript's text
}

// NewCeremony states a transcript.
func NewCeremony(transcript []byte) Ceremony { return Ceremony{sha256.Sum256(transcript)} }

func (c Ceremony) message(fleet FleetID, suite Suite) []byte {
	return labelled(labelCeremony, fleet, suite, c.Transcript[:])
}

package chancery

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Genesis is the first statement of a fleet. Its hash is the [FleetID] that
// every node pins, and it commits to the second CA key already: whoever
// steals the first one cannot lead new nodes onto a fork.
type Genesis struct {
	CA        PublicKey // the first CA:PK
	NextCA    [32]byte  // fingerprint of the CA key after it
	Emergency [32]byte  // hash of the emergency key set, zeros for none
	Created   time.Time // whole seconds
}

func (g *Genesis) encode(e *encoder) {
	e.key(g.CA)
	e.AddBytes(g.NextCA[:])
	e.AddBytes(g.Emergency[:])
	e.time(g.Created)
}

func (d *decoder) genesis() Genesis {
	return Genesis{CA: d.key(), NextCA: d.hash(), Emergency: d.hash(), Created: d.time()}
}

// FleetID returns SHA-256("chancery-v1 genesis" || genesis).
func (g *Genesis) FleetID() FleetID {
	var e encoder
	e.AddBytes([]byte("chancery-v1 genesis"))
	g.encode(&e)
	return sha256.Sum256(e.BytesOrPanic())
}

// ErrPin means that a pointer record belongs to another fleet than the pinned
// one.
var ErrPin = errors.New("pointer record is of another fleet than the pin")

const pinPrefix = "chpin1-"

var pinEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Pin returns the fleet identifier in the form that people and scripts pass
// around: "chpin1-" and base32 of the identifier with four bytes of checksum,
// so that a slip of the hand is told apart from another fleet.
func (f FleetID) Pin() string {
	sum := pinChecksum(f)
	return pinPrefix + strings.ToLower(pinEncoding.EncodeToString(append(f[:], sum[:]...)))
}

// ParsePin reads what [FleetID.Pin] wrote.
func ParsePin(pin string) (FleetID, error) {
	body, ok := strings.CutPrefix(pin, pinPrefix)
	if !ok {
		return FleetID{}, fmt.Errorf("pin: %w: it begins with %q", ErrMalformed, pinPrefix)
	}
	raw, err := pinEncoding.DecodeString(strings.ToUpper(body))
	if err != nil || len(raw) != 36 || strings.ToLower(body) != body {
		return FleetID{}, fmt.Errorf("pin: %w: %d characters after %q, want 58 of a-z and 2-7", ErrMalformed, len(body), pinPrefix)
	}
	f := FleetID(raw[:32])
	if pinChecksum(f) != [4]byte(raw[32:]) || f.Pin() != pin {
		return FleetID{}, fmt.Errorf("pin: %w: the checksum does not fit, a character is wrong", ErrMalformed)
	}
	return f, nil
}

func pinChecksum(f FleetID) [4]byte {
	sum := sha256.Sum256(append([]byte("chancery-v1 pin"), f[:]...))
	return [4]byte(sum[:4])
}

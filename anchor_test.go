package chancery

import (
	"errors"
	"testing"
	"time"
)

// An anchor is its node's and its fleet's, and every number in it counts.
func TestAnchorVerify(t *testing.T) {
	key, other := nodeKey("edge-1"), nodeKey("edge-2")
	fleet := FleetID{1}
	good := Anchor{Counter: 7, Pointer: 2, CRL: 9, At: epoch}
	good.Signature = key.must(fleet, &good)
	if err := good.Verify(fleet, key.PublicKey()); err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseAnchor(good.Marshal())
	if err != nil || parsed.Verify(fleet, key.PublicKey()) != nil {
		t.Errorf("as read from the disk: %v", err)
	}
	for name, change := range map[string]func(a *Anchor){
		"counter":   func(a *Anchor) { a.Counter++ },
		"pointer":   func(a *Anchor) { a.Pointer-- },
		"CRL":       func(a *Anchor) { a.CRL-- },
		"time":      func(a *Anchor) { a.At = a.At.Add(time.Second) },
		"signature": func(a *Anchor) { a.Signature = other.must(fleet, a) },
	} {
		a := good
		change(&a)
		if err := a.Verify(fleet, key.PublicKey()); !errors.Is(err, ErrSignature) {
			t.Errorf("another %s: %v, want %v", name, err, ErrSignature)
		}
	}
	if err := good.Verify(FleetID{2}, key.PublicKey()); !errors.Is(err, ErrSignature) {
		t.Errorf("in another fleet: %v", err)
	}
}

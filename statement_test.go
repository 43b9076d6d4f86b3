package chancery

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// statements returns one of every type that a Chancery key signs.
func statements(t *testing.T) map[string]Statement {
	w := newWorld(t)
	n := w.enroll("edge-1")
	session, err := NewSession(n.nc, n.session.PublicKey(), [16]byte{1}, w.now, w.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list, err := NewX509CRL(&Pointer{X509Issuer: newKey("X.509 issuer").PublicKey()}, w.crl().Head(), n.nc.CA, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	k, r := n.nc.NodeKey, w.rollover(w.keys[0], w.keys[1], [32]byte{3})
	return map[string]Statement{
		"ca-self":    CASelf{w.keys[0].PublicKey(), epoch},
		"pointer":    w.pointer(),
		"rollover":   &r,
		"ca-n-s":     CANSTree{1, merkle.Hash{2}},
		"pop":        PoP{NodeKey: k},
		"n-s":        n.nc.ns(w.fleet()),
		"crl":        w.crl().Head(),
		"subtree":    NewSubtree(n.nc.CA, 1, merkle.Subtree{End: 1}, merkle.Hash{4}),
		"checkpoint": NewCheckpoint(n.nc.CA, 1, 1, merkle.Hash{4}, epoch),
		"session":    session,
		"approval":   PolicyApproval{[32]byte{5}, [32]byte{6}},
		"challenge":  Challenge{[32]byte{7}},
		"ceremony":   Ceremony{[32]byte{7}},
		"x509-crl":   list.Finish(),
		"audit":      AuditCheckpoint{n.nc.CA, 1, merkle.Hash{4}, epoch},
	}
}

// The matrix of docs/protocol.md section 2: what was signed as one thing is
// never accepted as another. Without it CA:N:S would be a signing oracle for
// N:C, and for a rollover.
func TestSignatureOfOneStatementIsNoOther(t *testing.T) {
	key, fleet, all := newKey("signs everything"), FleetID{7}, statements(t)
	for a, signed := range all {
		sig := key.must(fleet, signed)
		for b, presented := range all {
			err := key.PublicKey().Verify(fleet, presented, sig)
			if a == b && err != nil {
				t.Errorf("%s: %v", a, err)
			}
			if a != b && !errors.Is(err, ErrSignature) {
				t.Errorf("%s presented as %s: %v, want ErrSignature", a, b, err)
			}
		}
	}
}

// No signed message begins another: not even a body that continues one can
// be mistaken.
func TestNoMessageIsAPrefixOfAnother(t *testing.T) {
	all := statements(t)
	for a, x := range all {
		for b, y := range all {
			if a != b && bytes.HasPrefix(Message(FleetID{}, P256, x), Message(FleetID{}, P256, y)) {
				t.Errorf("%s begins with %s", a, b)
			}
		}
	}
}

func TestLabelledStatementsAreBoundToFleetAndSuite(t *testing.T) {
	key := newKey("signs everything")
	unbound := map[string]bool{
		// The draft, RFC 5280 and the TPM fix these bytes. N:S, inside the
		// log entry, and the node key bind the first two to the fleet; the
		// approval key and the X.509 issuer sign nothing else.
		"subtree": true, "checkpoint": true, "session": true, "approval": true, "x509-crl": true,
	}
	for name, s := range statements(t) {
		sig := key.must(FleetID{1}, s)
		if err := key.PublicKey().Verify(FleetID{2}, s, sig); unbound[name] != (err == nil) {
			t.Errorf("%s in another fleet: %v", name, err)
		}
		other := bytes.Equal(Message(FleetID{}, P256, s), Message(FleetID{}, P384, s))
		if unbound[name] != other {
			t.Errorf("%s under another suite: same message is %t", name, other)
		}
		if got := key.PublicKey(); newKey384("x").PublicKey().Verify(FleetID{1}, s, sig) == nil || got.Suite() != P256 {
			t.Errorf("%s under a key of another suite verifies", name)
		}
	}
}

// The exact bytes of section 2.
func TestLabelledMessage(t *testing.T) {
	fleet := FleetID{0xf1, 31: 0x1f}
	got := Message(fleet, P384, CANSTree{5, merkle.Hash{9}})
	want := fmt.Sprintf("chancery-v1/ca-n-s\x00\x00\x02%s\x00\x00\x00\x24\x00\x00\x00\x05\x09%s", fleet[:], make([]byte, 31))
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

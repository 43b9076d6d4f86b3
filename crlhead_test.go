package chancery

import (
	"errors"
	"testing"
)

// The head of a list, of a delta to it, and the head alone are one head.
func TestParseCRLHead(t *testing.T) {
	w := newWorld(t)
	w.publish()
	w.publish()
	delta, err := w.crl().Delta(w.crls[0])
	if err != nil {
		t.Fatal(err)
	}
	want := w.crl().Head()
	for name, b := range map[string][]byte{"list": w.crl().Marshal(), "delta": delta, "head": want.Marshal()} {
		h, err := ParseCRLHead(b)
		if err != nil || h.Hash() != want.Hash() || h.Verify(w.pointer()) != nil {
			t.Errorf("of a %s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "a pointer record": w.pointer().Marshal(), "more than a head": append(want.Marshal(), 0), "less": want.Marshal()[:50],
	} {
		if _, err := ParseCRLHead(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
		}
	}
}

// A step revokes if it names something, in whichever log.
func TestHeadRevokes(t *testing.T) {
	w := newWorld(t)
	w.enroll("edge-1")
	w.publish()
	want := func(what string, revokes bool) {
		t.Helper()
		if got := w.crl().Head().Revokes(); got != revokes {
			t.Errorf("%s: %v, want %v", what, got, revokes)
		}
	}
	want("a list that names nothing", false)
	gone := w.enroll("edge-2")
	w.publish()
	want("the log grew", false)
	w.revoke(gone.nc)
	w.publish()
	want("a certificate was revoked", true)
	w.publish()
	want("a heartbeat after it", false)
	w.rollOver()
	w.publish()
	want("a second log", false)
	w.revoke(w.enroll("edge-3").nc)
	w.publish()
	want("a certificate in the second log", true)
}

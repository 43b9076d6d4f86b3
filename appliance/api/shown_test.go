package api_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
)

// Whoever holds what CA:SK signed and the coordinator does not have stops it;
// whoever makes something up is told off.
func TestShown(t *testing.T) {
	w := newWorld(t)
	if err := w.Store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPointer(w.Pointer) }); err != nil {
		t.Fatal(err)
	}
	publish(t, w)
	c := w.dial(nil)
	c.done("POST", "/v1/shown", chancery.Shown{})
	c.done("POST", "/v1/shown", chancery.Shown{CRLHead: w.Ledger.CRL().Head().Marshal(), Pointer: w.Pointer.Marshal()})

	next, err := chancery.NextCRL(w.Ledger.CRL(), nil, w.Clock.Now(), w.Clock.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	next.Sign(make(chancery.Signature, 64))
	for name, s := range map[string]chancery.Shown{
		"junk": {CRLHead: []byte("junk")}, "a list for a head": {CRLHead: w.Ledger.CRL().Marshal()},
		"a head that nobody signed": {CRLHead: next.Head().Marshal()}, "junk for a record": {Pointer: []byte("junk")},
	} {
		c.call("POST", "/v1/shown", s).wantProblem(t, name, http.StatusBadRequest, "malformed")
	}
	c.call("POST", "/v1/shown", chancery.Shown{CRLHead: make([]byte, 256<<10)}).wantProblem(t, "too long", http.StatusRequestEntityTooLarge, "invalid")
	if err := w.Ledger.Err(); err != nil {
		t.Fatalf("the coordinator was stopped: %v", err)
	}

	sig, err := w.CA.Sign(t.Context(), w.Pointer.FleetID(), next.Head())
	if err != nil {
		t.Fatal(err)
	}
	next.Sign(sig)
	w.dial(nil).done("POST", "/v1/shown", chancery.Shown{CRLHead: next.Head().Marshal()})
	a, ok := errors.AsType[*ledger.Alarm](w.Ledger.Err())
	if !ok || a.Kind != ledger.AlarmBehind {
		t.Fatalf("%v, want an alarm", w.Ledger.Err())
	}
	if err := w.Ledger.PublishCRL(t.Context()); !errors.Is(err, error(a)) {
		t.Errorf("it signs on: %v", err)
	}
}

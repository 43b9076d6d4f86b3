package appliancetest

import (
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// What the fleets of this package promise their verifiers.
const (
	TrustDomain = "fleet.example"
	DNSSuffix   = "nodes.example"
	MaxLife     = 7 * 24 * time.Hour
)

// Pointer returns the first pointer record of a fleet, as the ceremony makes
// it; edit changes it before it is signed.
func Pointer(t testing.TB, ca chancery.Signer, approval chancery.PublicKey, now time.Time, edit ...func(*chancery.Pointer)) *chancery.Pointer {
	t.Helper()
	key := ca.PublicKey()
	p := &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: key, NextCA: [32]byte{1}, Created: now},
		Seq:         1,
		Issued:      now,
		Expires:     now.AddDate(1, 0, 0),
		TrustDomain: TrustDomain,
		Keys:        []chancery.CAKey{{Key: key, State: chancery.CAKeyCurrent, Created: now, ID: chancery.DefaultCAID(key), Logs: []uint16{1}}},
		MinSuite:    chancery.P256,
		MaxLife:     MaxLife,
		Approval:    approval,
	}
	var err error
	if p.Keys[0].CAS, err = ca.Sign(t.Context(), p.FleetID(), chancery.CASelf{Key: key, Created: now}); err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(p)
	}
	if p.Signature, err = ca.Sign(t.Context(), p.FleetID(), p); err != nil {
		t.Fatal(err)
	}
	if err := chancery.AcceptPointer(p.FleetID(), nil, p, now); err != nil {
		t.Fatal(err)
	}
	return p
}

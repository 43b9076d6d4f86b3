package join_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
)

func TestJoin(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	o := m.options(c)
	var told []string
	o.Step = func(s join.Step) { told = append(told, s.Symbol) }
	r, err := m.join(o)
	if err != nil {
		t.Fatal(err)
	}
	nc := m.wantEnrolled(c)
	if r.Status != join.Enrolled || r.Node != "edge-1" || r.Serial != nc.Serial.String() || !r.Simulator || r.CRL != 1 || r.Fleet != c.Fleet().Pin() {
		t.Errorf("result %+v", r)
	}
	if r.NodeID != nc.NodeID(c.Fleet()).String() {
		t.Errorf("node id %s", r.NodeID)
	}
	want := []string{"pointer", "EK", "AK", "N:PK", "PoP", "CA:N:S", "proof", "N:S", "N:C", "CRL"}
	if !slices.Equal(told, want) || len(r.Steps) != len(want) {
		t.Errorf("steps %v and %v, want %v", told, r.Steps, want)
	}
	if !m.tap.saw(ccActivateCredential) || !m.tap.saw(ccQuote) {
		t.Error("the chip was not asked: the tap sees nothing")
	}
	file, err := m.look().Key()
	if err != nil {
		t.Fatal(err)
	}
	if file.Seal == nil || !file.Seal.Approval.Equal(c.Pointer().Approval) {
		t.Error("the key is not sealed under the fleet's approval key")
	}
}

func TestJoinUnsealed(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	o := m.options(c)
	o.Unsealed = true
	if _, err := m.join(o); err != nil {
		t.Fatal(err)
	}
	m.wantEnrolled(c)
	if file, err := m.look().Key(); err != nil || file.Seal != nil {
		t.Errorf("the key is sealed (%v)", err)
	}
}

func TestPresent(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	if _, err := m.join(m.options(c)); err != nil {
		t.Fatal(err)
	}
	dir := m.look()
	r, err := join.Present(dir, c.Fleet())
	if err != nil || r.Status != join.Already || r.Node != "edge-1" || r.Serial == "" || r.CRL != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := join.Present(dir, chancery.FleetID{1}); !errors.Is(err, join.ErrOtherFleet) {
		t.Errorf("in another fleet: %v", err)
	}
}

func TestChipAbsent(t *testing.T) {
	c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
	o := m.options(c)
	o.Device = m.path + "/no-such-chip"
	if _, err := m.join(o); !errors.Is(err, join.ErrChip) {
		t.Errorf("%v, want %v", err, join.ErrChip)
	}
	if c.Calls("POST /v1/enroll") > 0 {
		t.Error("the coordinator was asked before the chip was there")
	}
}

package fleet_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

func newFleet(t *testing.T) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func enroll(t *testing.T, f *fleet.Fleet, names ...string) []*fleet.Node {
	t.Helper()
	var requests []fleet.Request
	for _, name := range names {
		requests = append(requests, fleet.Request{Name: name})
	}
	nodes, err := f.Enroll(requests...)
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// judge has a verifier that holds the fleet's newest trust judge the node by
// what it presents.
func judge(t *testing.T, f *fleet.Fleet, n *fleet.Node) error {
	t.Helper()
	id, err := n.Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, err = chancery.NewVerifier(f.Trust()).Verify([][]byte{id.Session, id.NC.Raw()}, n.Name, chancery.NodeID{}, chancery.Policy{}, time.Now())
	return err
}

func TestEveryBatchSizeVerifies(t *testing.T) {
	f := newFleet(t)
	seen := map[string]bool{}
	for size := range 9 {
		var names []string
		for i := range size + 1 {
			names = append(names, fmt.Sprintf("node-%d-%d", size, i))
		}
		for _, n := range enroll(t, f, names...) {
			if err := judge(t, f, n); err != nil {
				t.Errorf("batch of %d: %v", size+1, err)
			}
			if s := n.NC.Serial.String(); seen[s] {
				t.Errorf("serial %s is given out twice", s)
			} else {
				seen[s] = true
			}
			if a := n.NC.Assurance; a.Level != chancery.AssuranceSoftware || !a.Simulator {
				t.Errorf("%s: assurance %v, simulator %v; want software on a simulator", n.Name, a.Level, a.Simulator)
			}
		}
	}
}

func TestRevocationNamesTheOneNode(t *testing.T) {
	f := newFleet(t)
	nodes := enroll(t, f, "a", "b")
	if _, err := f.Revoke(nodes[1]); err != nil {
		t.Fatal(err)
	}
	if err := judge(t, f, nodes[0]); err != nil {
		t.Errorf("a: %v", err)
	}
	if err := judge(t, f, nodes[1]); !errors.Is(err, chancery.ErrRevoked) {
		t.Errorf("b: %v, want %v", err, chancery.ErrRevoked)
	}
}

func TestRevokeRefusesNodesOfOthers(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	if _, err := other.Rollover(chancery.CAKeyRetired); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Revoke(enroll(t, other, "a")...); err == nil {
		t.Error("a node under a CA that the fleet does not have was revoked")
	}
}

func TestRollover(t *testing.T) {
	for _, test := range []struct {
		state chancery.CAKeyState
		want  error
	}{
		{chancery.CAKeyRetired, nil},
		{chancery.CAKeyRevoked, chancery.ErrCARevoked},
	} {
		t.Run(test.state.String(), func(t *testing.T) {
			f := newFleet(t)
			v := chancery.NewVerifier(f.Trust())
			before := enroll(t, f, "before")[0]
			p, err := f.Rollover(test.state)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.UpdatePointer(p, time.Now()); err != nil {
				t.Fatalf("a node that holds the record before refuses this one: %v", err)
			}
			after := enroll(t, f, "after")[0]
			list, err := f.PublishCRL()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.UpdateCRL(list, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := judge(t, f, after); err != nil {
				t.Errorf("after: %v", err)
			}
			if err := judge(t, f, before); !errors.Is(err, test.want) {
				t.Errorf("before: %v, want %v", err, test.want)
			}
		})
	}
}

func TestSessionKeysAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		n := enroll(t, f, "a")[0]
		first, err := n.Identity()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(chancery.DefaultSessionLife/2 - time.Second)
		if again, _ := n.Identity(); again != first {
			t.Error("renewed before half of its life")
		}
		time.Sleep(time.Second)
		if again, _ := n.Identity(); again == first {
			t.Error("not renewed after half of its life")
		}
		if err := judge(t, f, n); err != nil {
			t.Error(err)
		}
	})
}

package gossip

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"
)

func tcp(address string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		panic(err)
	}
	return a
}

// A machine is one, whichever port and whichever address of its network it
// comes from.
func TestHost(t *testing.T) {
	for a, b := range map[string]string{
		"192.0.2.1:1":          "192.0.2.1:2",
		"[::ffff:192.0.2.1]:1": "192.0.2.1:1",
		"[2001:db8::1]:1":      "[2001:db8::ffff:1]:1",
		"[fe80::1%lo]:1":       "[fe80::2]:1",
	} {
		if host(tcp(a)) != host(tcp(b)) {
			t.Errorf("%s is %s, %s is %s", a, host(tcp(a)), b, host(tcp(b)))
		}
	}
	for a, b := range map[string]string{"192.0.2.1:1": "192.0.2.2:1", "[2001:db8::1]:1": "[2001:db8:0:1::1]:1"} {
		if host(tcp(a)) == host(tcp(b)) {
			t.Errorf("%s and %s are %s", a, b, host(tcp(a)))
		}
	}
}

// An address has a burst, and then one in two seconds.
func TestRate(t *testing.T) {
	var s standings
	now := time.Now()
	for i := range burst {
		if err := s.admits("a", now); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	for range 3 {
		if err := s.admits("a", now); !errors.Is(err, ErrBusy) {
			t.Errorf("%v, want %v", err, ErrBusy)
		}
	}
	if err := s.admits("b", now); err != nil {
		t.Errorf("another address: %v", err)
	}
	if err := s.admits("a", now.Add(every)); err != nil {
		t.Errorf("later: %v", err)
	}
	if err := s.admits("a", now.Add(every)); !errors.Is(err, ErrBusy) {
		t.Errorf("%v, want %v", err, ErrBusy)
	}
}

// One wrong thing is as bad as three that broke off, and ten minutes without
// either make it good.
func TestStrikes(t *testing.T) {
	var s standings
	now := time.Now()
	if !s.strike("wrong", now, true) || !s.shuns("wrong", now) {
		t.Error("who sends what is wrong is talked to")
	}
	for i := range tolerated {
		if shunned := s.strike("broken", now, false); shunned != (i == tolerated-1) {
			t.Errorf("broken off %d times: shunned: %t", i+1, shunned)
		}
	}
	s.strike("unlucky", now, false)
	for _, after := range []time.Duration{0, shunTime - time.Second, shunTime} {
		at := now.Add(after)
		for who, want := range map[string]bool{"wrong": after < shunTime, "broken": after < shunTime, "unlucky": false, "nobody": false} {
			if s.shuns(who, at) != want || errors.Is(s.admits(who, at), ErrShunned) != want {
				t.Errorf("%s after %s: shunned: %t", who, after, !want)
			}
		}
	}
	if s.strike("unlucky", now.Add(shunTime), false); s.of["unlucky"].strikes != 1 {
		t.Error("what was long ago counts")
	}
}

// Strangers cannot make a node remember all of them, and who was seen lately
// is not forgotten for their sake.
func TestStandingsAreBounded(t *testing.T) {
	var s standings
	now := time.Now()
	s.strike("liar", now, true)
	for i := range 3 * maxStandings {
		now = now.Add(time.Millisecond)
		s.admits(fmt.Sprint(i), now)
		if i%100 == 0 && !s.shuns("liar", now) {
			t.Fatalf("a liar who comes again is forgotten after %d others", i)
		}
		if len(s.of) > maxStandings {
			t.Fatalf("%d addresses are remembered", len(s.of))
		}
	}
}

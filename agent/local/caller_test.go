package local

import (
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// The kernel says who is at the other end.
func TestCallerOf(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := CallerOf(there)
	want := Caller{os.Getpid(), uint32(os.Getuid()), uint32(os.Getgid()), self}
	if err != nil || c != want {
		t.Errorf("%s, %v; want %s", c, err, want)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := CallerOf(a); err == nil {
		t.Error("a caller without a socket")
	}
}

// A process that has ended is no program, and nor is one of another user that
// has its number now.
func TestCallerGone(t *testing.T) {
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if path := program(Caller{PID: c.Process.Pid, UID: uint32(os.Getuid())}); path != "" {
		t.Errorf("a process that has ended runs %s", path)
	}
	if path := program(Caller{PID: os.Getpid(), UID: uint32(os.Getuid()) + 1}); path != "" {
		t.Errorf("a process of another user runs %s", path)
	}
}

func TestRule(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(me.Uid, 10, 32)
	gid, _ := strconv.ParseUint(me.Gid, 10, 32)
	caller := Caller{1, uint32(uid), uint32(gid), "/usr/bin/app"}
	for _, test := range []struct {
		rule   Rule
		usable bool
		allows bool
	}{
		{Rule{}, false, false},
		{Rule{User: me.Username}, true, true},
		{Rule{User: me.Uid}, true, true},
		{Rule{User: "4000000000"}, true, false},
		{Rule{User: "no-such-user"}, false, false},
		{Rule{User: "-1"}, false, false},
		{Rule{Group: me.Gid}, true, true},
		{Rule{Group: "4000000000"}, true, false},
		{Rule{Group: "no-such-group"}, false, false},
		{Rule{Path: "/usr/bin/app"}, true, true},
		{Rule{Path: "/usr/bin/other"}, true, false},
		{Rule{User: me.Uid, Path: "/usr/bin/app"}, true, true},
		{Rule{User: me.Uid, Path: "/usr/bin/other"}, true, false},
		{Rule{User: "4000000000", Path: "/usr/bin/app"}, true, false},
	} {
		if err := test.rule.Check(); (err == nil) != test.usable {
			t.Errorf("%+v: %v", test.rule, err)
		}
		if test.rule.Allows(caller) != test.allows {
			t.Errorf("%+v allows: %v", test.rule, !test.allows)
		}
	}
	if rule := (Rule{Path: "/usr/bin/app"}); rule.Allows(Caller{UID: 1}) {
		t.Error("a program that cannot be looked at is the one that is named")
	}
}

// A socket that is in use is not taken over; what is no socket stays.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Listen(path); err == nil {
		again.Close()
		t.Error("two listen at one socket")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("what a crash left: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = Listen(path); err == nil {
		l.Close()
		t.Error("a file was replaced")
	}
}

package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Caller is a process at the other end of a Unix socket, as the kernel knows
// it.
type Caller struct {
	PID int
	UID uint32
	GID uint32
	// Path is the program's file, as /proc has it; empty if that cannot be
	// looked at. It is the file that was run: who can have a program run other
	// code, by a debugger or a library, is that program.
	Path string
}

func (c Caller) String() string {
	return fmt.Sprintf("process %d of user %d, group %d, program %q", c.PID, c.UID, c.GID, c.Path)
}

// CallerOf attests the peer of a connection.
func CallerOf(conn net.Conn) (c Caller, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return c, fmt.Errorf("local: %T is not a Unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return c, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return c, err
	}
	if failed != nil {
		return c, fmt.Errorf("local: SO_PEERCRED: %w", failed)
	}
	c = Caller{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}
	c.Path = program(c)
	return c, nil
}

// program returns the file that a process runs. The number may belong to
// another process by now, of the one that called: what it is is asked again
// after the look, and a process that is not the caller's user is not the
// caller.
func program(c Caller) string {
	dir := "/proc/" + strconv.Itoa(c.PID)
	path, err := os.Readlink(dir + "/exe")
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid != c.UID {
		return ""
	}
	return path
}

// A Rule names callers: those that have all of what it says. User and Group
// are names or numbers.
type Rule struct {
	User  string `toml:"user,omitempty" json:"user,omitempty" comment:"name or number"`
	Group string `toml:"group,omitempty" json:"group,omitempty" comment:"name or number, the process' first"`
	Path  string `toml:"path,omitempty" json:"path,omitempty" comment:"of the program's file"`
}

// Check tells whether the rule can be used.
func (r *Rule) Check() error {
	if *r == (Rule{}) {
		return errors.New("a rule for programs names a user, a group or a path")
	}
	if r.User != "" {
		if _, err := number(r.User, uid); err != nil {
			return err
		}
	}
	if r.Group != "" {
		if _, err := number(r.Group, gid); err != nil {
			return err
		}
	}
	return nil
}

// Allows tells whether the rule names the caller.
func (r *Rule) Allows(c Caller) bool {
	if *r == (Rule{}) {
		return false
	}
	if r.User != "" {
		id, err := number(r.User, uid)
		if err != nil || id != c.UID {
			return false
		}
	}
	if r.Group != "" {
		id, err := number(r.Group, gid)
		if err != nil || id != c.GID {
			return false
		}
	}
	return r.Path == "" || r.Path == c.Path
}

func uid(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func gid(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

// number returns the number of a user or group that is given by name or number.
func number(s string, lookup func(string) (string, error)) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		id, err := lookup(s)
		if err != nil {
			return 0, err
		}
		if n, err = strconv.ParseUint(id, 10, 32); err != nil {
			return 0, err
		}
	}
	return uint32(n), nil
}

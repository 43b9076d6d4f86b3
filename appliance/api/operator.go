package api

import (
	"context"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

type operatorKey struct{}

// WithOperator notes who is at the other end of a connection to the admin
// socket, as the kernel has it. It is for http.Server.ConnContext.
func WithOperator(ctx context.Context, conn net.Conn) context.Context {
	name := "unknown"
	if c, ok := conn.(*net.UnixConn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
					name = UserName(int(cred.Uid))
				}
			})
		}
	}
	return context.WithValue(ctx, operatorKey{}, name)
}

// UserName names a user by login and number: logins are given out again.
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username + " (" + id + ")"
	}
	return "uid " + id
}

// operator is who asks. Records and rules about several operators go by it.
func operator(ctx context.Context) string {
	if name, ok := ctx.Value(operatorKey{}).(string); ok {
		return name
	}
	return "unknown"
}

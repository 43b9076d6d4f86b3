// Package socket is what daemons have to know of sockets.
package socket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
)

// Listen listens at a path. The socket that a crash left is replaced; one that
// somebody listens at is not, and nothing else is. The file gets the mode, or
// what the umask leaves if that is 0.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && left(path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	if mode != 0 {
		if err := os.Chmod(path, mode); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// left tells whether a path is a socket at which nobody listens.
func left(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // EAGAIN is somebody who is busy
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// Serve serves until ctx ends, which is no error. Requests see the end of ctx;
// when Serve returns, the connections are closed.
func Serve(ctx context.Context, s *http.Server, l net.Listener) error {
	s.BaseContext = func(net.Listener) context.Context { return ctx }
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		s.Close()
	})
	err := s.Serve(l)
	if !stop() {
		<-closed
		return nil
	}
	return err
}

// Shortage tells errors of Accept that pass from those that mean the end of a
// listener.
func Shortage(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

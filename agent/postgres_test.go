package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// startPostgres starts a PostgreSQL server that listens at a Unix socket only,
// and returns the socket's directory. The server does not run as root, so as
// root it runs as the user that Debian's package makes.
func startPostgres(ts *testscript.TestScript) string {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("PostgreSQL is not installed; make deps-test does it")
	}
	bin := slices.Max(found)
	dir, err := os.MkdirTemp("", "postgres-")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	var attr *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		ts.Check(err)
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		ts.Check(err)
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		ts.Check(err)
		ts.Check(os.Chown(dir, int(uid), int(gid)))
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir, c.SysProcAttr = dir, attr
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-A", "trust", "-U", "chancery", "--no-sync", "-D", data).CombinedOutput(); err != nil {
		ts.Fatalf("initdb: %v: %s", err, out)
	}
	server := command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	log, err := os.Create(filepath.Join(ts.Getenv("WORK"), "postgres.log"))
	ts.Check(err)
	server.Stdout, server.Stderr = log, log
	ts.Check(server.Start())
	ts.Defer(func() {
		server.Process.Signal(syscall.SIGINT) // fast shutdown
		server.Wait()
		log.Close()
	})
	for range 300 {
		if command("pg_isready", "-h", dir).Run() == nil {
			return dir
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, _ := os.ReadFile(log.Name())
	ts.Fatalf("PostgreSQL is not ready within half a minute: %s", fmt.Sprintf("%s", b))
	return ""
}

// Package state keeps what an agent knows between two runs: one file a noun,
// in a directory that is the agent's alone.
//
// Start with [Open], which takes the directory for the one agent that may
// write to it, or with [Look], which only reads.
//
// # Files
//
//	agent.toml      name, fleet, TPM and addresses, see [Config]
//	pointer         the newest pointer record
//	node.key        N:SK, wrapped by the chip, see tpm.KeyFile
//	intake.json     an enrolment that is not decided yet, see [Intake]
//	crl             the newest CRL
//	anchor          how far the node had come, see package anchor
//	nc.der          N:C; a node is enrolled when this file is there
//	x509-KIND.json  the X.509 certificate that accompanies it, see [X509]
//	addresses.json  where peers were last found, hints only
//	pointer.fork    evidence of a fork, and beside it with .held what it contradicts, see [Dir.RaiseAlarm]
//	crl.fork
//	lock            held by the agent that writes
//	agent.sock      where the running agent answers
//
// Nothing in it is secret but the TLS key in x509-software.json, and all of it
// decides whom the node believes.
//
// # Crashes
//
// A file has its old content or its new content, whenever the machine stops:
// see write. nc.der is written last of an enrolment, so a join that was killed
// is either continued by the next one or has not begun.
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// DefaultPath is the state directory unless told otherwise.
const DefaultPath = "/var/lib/chancery-agent"

// A Dir is a state directory. Its methods may be called concurrently.
type Dir struct {
	path string
	root *os.Root // no name in the directory leads out of it
	lock *os.File // nil: read only

	// mu is held while a file is written: the temporary file of one noun has
	// one name.
	mu sync.Mutex
}

// Errors of the directory. They are wrapped with detail.
var (
	// ErrLocked: another agent has the directory.
	ErrLocked error = &advice{"another agent uses the state directory", "stop it first, or name another directory with --state; one agent has one directory"}
	// ErrNotEnrolled: the directory is of no enrolled node.
	ErrNotEnrolled error = &advice{"this node is not enrolled", "enrol it with chancery-agent join, or name its directory with --state"}
)

type advice struct{ text, hint string }

func (e *advice) Error() string { return e.text }
func (e *advice) Hint() string  { return e.hint }

// A PermissionError says that others than the agent could read or change its
// directory.
type PermissionError struct {
	Path   string
	Reason string
	Fix    string
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("state directory %s %s", e.Path, e.Reason)
}

// Hint says how to put it right.
func (e *PermissionError) Hint() string { return e.Fix }

// Open makes the directory if it is not there (mode 0700) and takes it for
// this process until [Dir.Close]. The kernel gives the lock up with the
// process, so a crash leaves nothing to clean up. If another process has it
// the error is [ErrLocked].
func Open(path string) (*Dir, error) {
	if err := os.Mkdir(path, 0o700); err == nil {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d, err := Look(path)
	if err != nil {
		return nil, err
	}
	if d.lock, err = d.root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		d.Close()
		return nil, err
	}
	switch err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
		return d, nil
	case syscall.EWOULDBLOCK:
		d.Close()
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	default:
		d.Close()
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
}

// Look opens the directory for reading, beside an agent that may be writing
// to it. A directory that is not there is [ErrNotEnrolled].
func Look(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no directory %s", ErrNotEnrolled, path)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := checkOwner(root, path); err != nil {
		root.Close()
		return nil, err
	}
	return &Dir{path: path, root: root}, nil
}

// checkOwner looks at the directory that was opened, not at what its path
// leads to by now.
func checkOwner(root *os.Root, path string) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() {
		return &PermissionError{path, fmt.Sprintf("belongs to user %d, not to %d", owner, os.Geteuid()), "run the agent as the directory's owner, or name another directory with --state"}
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return &PermissionError{path, fmt.Sprintf("is open to others: mode %04o, want 0700", mode), "look for changes by others, then: chmod 700 " + path}
	}
	return nil
}

// Close gives the directory up.
func (d *Dir) Close() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// Path returns the path that the directory was opened by.
func (d *Dir) Path() string { return d.path }

// Socket returns the path of the running agent's socket.
func (d *Dir) Socket() string { return filepath.Join(d.path, "agent.sock") }

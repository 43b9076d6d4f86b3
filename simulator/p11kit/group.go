package p11kit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// States of a process as /proc/PID/stat has them (proc(5)).
func stopped(state byte) bool { return state == 'T' }
func running(state byte) bool { return state != 'T' }

// await returns when all processes of the group that have not ended are in a
// state that will do. A signal to a group is sent at once and felt a moment
// later.
func await(group int, will func(state byte) bool) error {
	for deadline := time.Now().Add(settle); ; time.Sleep(time.Millisecond) {
		waiting := 0
		states, err := members(group)
		if err != nil {
			return err
		}
		for _, state := range states {
			if !will(state) {
				waiting++
			}
		}
		if waiting == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d processes have not felt it after %v", waiting, len(states), settle)
		}
	}
}

// members returns the states of the processes in the group that have not
// ended, by process.
func members(group int) (map[int]byte, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	states := map[int]byte{}
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		// PID (NAME) STATE PARENT GROUP ..., where NAME may be anything.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 3 || string(fields[2]) != strconv.Itoa(group) || fields[0][0] == 'Z' || fields[0][0] == 'X' {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		states[pid] = fields[0][0]
	}
	return states, nil
}

// A guard is a process that kills a process group when this process ends. The
// parent death signal that the server has is not inherited by the processes of
// its connections, and those that stand still do not see their connections
// end.
type guard struct {
	cmd *exec.Cmd
	// hold is the end of a pipe that is closed when this process ends: not an
	// os.File, which is closed when nobody can reach it any more.
	hold int
}

func watch(group int) (*guard, error) {
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	read, hold := os.NewFile(uintptr(pipe[0]), "guard"), pipe[1]
	defer read.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r line; kill -s KILL -- "-$1"`, "guard", strconv.Itoa(group))
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // not what a terminal's ^C is meant for
	if err := cmd.Start(); err != nil {
		syscall.Close(hold)
		return nil, err
	}
	return &guard{cmd, hold}, nil
}

// dismiss ends the guard, which leaves the group alone then.
func (g *guard) dismiss() {
	g.cmd.Process.Kill()
	g.cmd.Wait()
	syscall.Close(g.hold)
}

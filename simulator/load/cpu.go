package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ownCPU returns the seconds of CPU time that this process has used
// (getrusage(2)).
func ownCPU() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // there is no other reason than a bad argument
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// ticks is how many units of /proc/PID/stat a second has (USER_HZ).
const ticks = 100

// processCPU returns the seconds of CPU time that a process, its descendants
// and those of its children that have ended have used.
func processCPU(pid int) (float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	type process struct {
		parent int
		used   uint64
	}
	all := map[int]process{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return 0, err
		}
		p := process{}
		if p.parent, p.used, err = parseStat(b); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		all[id] = p
	}
	if _, ok := all[pid]; !ok {
		return 0, fmt.Errorf("there is no process %d", pid)
	}
	var used uint64
	for id, p := range all {
		for up, hops := id, 0; up > 0 && hops < 64; up, hops = all[up].parent, hops+1 {
			if up == pid {
				used += p.used
				break
			}
		}
	}
	return float64(used) / ticks, nil
}

// parseStat reads parent and CPU time out of /proc/PID/stat (proc_pid_stat(5)):
// fields 4, and 14 to 17. The name in field 2 may hold anything.
func parseStat(b []byte) (parent int, used uint64, err error) {
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("%d fields", len(fields)+2)
	}
	if parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return 0, 0, err
	}
	for _, f := range fields[11:15] {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		used += n
	}
	return parent, used, nil
}
